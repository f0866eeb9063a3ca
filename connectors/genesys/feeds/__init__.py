"""The feeds: where messages about conversations come from."""
