"""Encoders for the tests."""
