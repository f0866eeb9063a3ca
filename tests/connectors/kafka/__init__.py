"""Tests of `connectors.state`."""
