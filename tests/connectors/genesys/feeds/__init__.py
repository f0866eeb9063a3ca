"""Tests of `connectors.genesys.feeds`."""
