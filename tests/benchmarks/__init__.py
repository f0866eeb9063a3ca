"""What the job costs, measured as ratios against what it is compared with: `python -m tests.benchmarks`."""
