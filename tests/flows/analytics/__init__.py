"""Tests of `flows.analytics`."""
