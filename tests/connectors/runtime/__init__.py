"""Tests of `connectors.runtime`."""
