"""The runtime beside its peers: same model, same bytes, over HTTP, in one go."""
