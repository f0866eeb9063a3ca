"""Send callbacks: a durable outbox, and the delivery of its alerts by HTTP."""
