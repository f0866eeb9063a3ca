"""Everything that touches a socket, a file, a database or a clock; usable in any Bytewax flow."""
