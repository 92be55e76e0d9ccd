"""Layers that replace transformers' own: linear, int8, attention, KV cache."""
