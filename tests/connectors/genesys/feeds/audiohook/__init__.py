"""Tests of `connectors.genesys.feeds.audiohook`."""
