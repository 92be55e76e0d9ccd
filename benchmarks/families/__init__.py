"""Embeddings, detection and speech beside their peers."""
