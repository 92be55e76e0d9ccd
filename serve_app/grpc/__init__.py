"""gRPC: the contract as protocol buffers, and its server."""
