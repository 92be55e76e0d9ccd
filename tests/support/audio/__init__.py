"""Sound files and speech models for the tests."""
