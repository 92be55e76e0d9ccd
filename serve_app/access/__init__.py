"""API keys with their rates and quotas, and the caller of a request."""
