"""What the replicas of every family share: calls, sockets, batches, context."""
