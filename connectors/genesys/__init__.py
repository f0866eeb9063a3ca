"""Genesys Cloud: token and REST, the voice event feed, and a local simulator of both."""
