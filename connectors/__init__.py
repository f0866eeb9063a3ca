"""Connectors for sockets, files, databases and clocks; usable in any Bytewax flow (docs/architecture.md shows one)."""
