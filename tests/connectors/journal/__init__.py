"""Tests of `connectors.journal`."""
