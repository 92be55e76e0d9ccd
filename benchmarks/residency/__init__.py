"""Benchmarks of residency: `python -m benchmarks.residency`."""
