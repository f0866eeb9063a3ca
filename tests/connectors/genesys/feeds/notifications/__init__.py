"""Tests of `connectors.genesys.feeds.notifications`."""
