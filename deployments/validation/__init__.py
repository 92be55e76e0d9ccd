"""Checks that a model's folder passes before it is loaded, and the golden examples it must answer."""
