"""The journal's format, and its only owner: what a line is, how it is written, and how bytes become columns. Pure."""
