"""The HTTP transport: parses and renders, decides nothing."""
