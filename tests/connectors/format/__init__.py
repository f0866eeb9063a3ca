"""Tests of `connectors.format`."""
