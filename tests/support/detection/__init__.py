"""Detectors for the tests."""
