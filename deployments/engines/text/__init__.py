"""Text models: tokens, scheduling, decoding, sampling."""
