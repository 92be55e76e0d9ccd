"""Which models are in memory: leases, loads, a memory budget and eviction."""
