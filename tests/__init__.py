"""The tests: real sockets, real files, real processes."""
