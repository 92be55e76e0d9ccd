"""What made the models in `models/`, and measures them. Nothing that serves imports it."""
