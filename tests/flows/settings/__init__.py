"""Tests of `flows.settings`."""
