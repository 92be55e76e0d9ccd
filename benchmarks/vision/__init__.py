"""Benchmarks of image classification."""
