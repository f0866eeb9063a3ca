"""Tests of the targets of alerts."""
