"""How tokens make a text."""
