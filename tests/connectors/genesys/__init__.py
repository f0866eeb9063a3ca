"""Tests of `connectors.genesys`."""
