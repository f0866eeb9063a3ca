"""Do the work of the commands: one module each, called by `flows.cli`."""
