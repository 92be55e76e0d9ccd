"""Limits on a request's path and headers, and the headers that only Ray Serve itself may set."""

MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024
"""Of the path, the query, and the names and values of all headers."""
CONTROL_HEADERS = frozenset(
    {
        "x_request_timeout_seconds",
        "x_request_disconnect_disabled",
        "serve_multiplexed_model_id",
        "x_session_id",
        "serve_session_id",
    }
)
"""With these a client can turn off Ray Serve's timeouts or select a replica. Serve reads `-` and `_` as the same."""
PREFIX_HEADER = "x-model-runtime-prefix"
"""In it our HAProxy sends an ingress replica the application's route prefix. HAProxy removes what clients send."""
