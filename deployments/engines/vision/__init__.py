"""Image models: decoding, preprocessing, forwards."""
