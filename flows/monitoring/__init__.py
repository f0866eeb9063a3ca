"""Measure a run, judge its health, and log its state."""
