"""Pure functions on frames: no Bytewax, no connectors, no clock, no chance, no environment."""
