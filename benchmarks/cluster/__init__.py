"""On several nodes, and with replicas that come and go."""
