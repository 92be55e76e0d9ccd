"""Which tokens may come next, proposed for the model to check several at once. Knows tokens, not models or requests."""
