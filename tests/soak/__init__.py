"""The soak: the whole job for a while, under random but seeded faults, and a table of what became of it.

`python -m tests.soak --seconds 600 --seed 1`, or `make soak SECONDS=600`.
"""
