"""The contract: requests, responses, errors and settings. Imports neither torch nor Ray."""
