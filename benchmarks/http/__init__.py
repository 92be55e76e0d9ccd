"""Benchmarks of the HTTP front: ingress, overload, soak."""
