"""Tests of `connectors.callbacks`."""
