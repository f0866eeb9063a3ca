"""Tests of `connectors.genesys.simulator`."""
