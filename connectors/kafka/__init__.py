"""Kafka: the connection that feed and sinks share, and the sinks of result topics."""
