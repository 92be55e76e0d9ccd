"""Decoders: the plain model, what computes the rows of a batch, and how one is held against the other."""
