"""Decoders: how the rows of a batch are computed, and the keys and values kept between steps."""
