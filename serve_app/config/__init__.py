"""The runtime's configuration, and its reload while the runtime runs."""
