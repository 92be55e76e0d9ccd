"""The Open Inference Protocol V2 over REST, below /v2."""
