"""Tests of `flows.data`."""
