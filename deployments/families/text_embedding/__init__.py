"""The TextEmbedding family."""
