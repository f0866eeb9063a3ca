"""The process: logs, threads, signals, systemd, tracing, the health probe."""
