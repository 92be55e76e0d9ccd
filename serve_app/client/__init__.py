"""The Python client: `from serve_app.client import ModelRuntimeClient`."""

from serve_app.client.client import DEFAULT_URL, AsyncModelRuntimeClient, ModelRuntimeClient

__all__ = ["DEFAULT_URL", "AsyncModelRuntimeClient", "ModelRuntimeClient"]
