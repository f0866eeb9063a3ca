"""Tests of `connectors.genesys.feeds.eventbridge`."""
