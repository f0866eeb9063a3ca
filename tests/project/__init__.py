"""Tests of the repository: pages, manifests, packaging."""
