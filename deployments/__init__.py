"""One Ray Serve deployment per model family, and what the families share."""
