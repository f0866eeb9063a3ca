"""The whole job: real processes, real sockets."""
