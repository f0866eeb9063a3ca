"""Tests of the command line: what it shows on a terminal."""
