"""Deployments over several hosts: `make cluster-hosts`, or `python -m tests.hosts`; needs root."""
