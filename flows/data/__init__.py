"""Provide data for other programs: JSON Schemas of every file, and results as Arrow tables."""
