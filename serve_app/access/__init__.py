"""API keys, rates and quotas, and who the caller of a request is."""
