"""Metrics, health, and the monitor of a run."""
