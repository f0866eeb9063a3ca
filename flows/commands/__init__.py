"""The commands: one module each, called by `flows.cli`."""
