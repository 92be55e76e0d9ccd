"""The TextGeneration family."""
