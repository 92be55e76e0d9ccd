"""Which headers are too many or too large, and which ones only Ray Serve may set."""

import pytest

from deployments.contract.errors import HeadersTooLarge
from serve_app.http.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from serve_app.http.middleware import check_header_limits, without_control_headers

Headers = list[tuple[bytes, bytes]]
MANY = [(b"x-%d" % number, b"1") for number in range(MAX_HEADERS + 1)]
LARGE = [(b"x", b"1" * MAX_HEADER_BYTES)]


@pytest.mark.parametrize(("path", "headers"), [(b"/", MANY), (b"/", LARGE), (b"/" * (MAX_HEADER_BYTES + 1), [])])
def test_headers_and_path_beyond_the_limits_are_refused(path: bytes, headers: Headers) -> None:
    with pytest.raises(HeadersTooLarge):
        check_header_limits({"raw_path": path, "query_string": b"", "headers": headers})


def test_headers_within_the_limits_pass() -> None:
    check_header_limits({"raw_path": b"/", "headers": MANY[1:]})


def test_control_headers_and_those_that_are_not_utf8_are_removed() -> None:
    kept = [(b"accept", b"*/*"), (b"x-note", "é".encode())]
    removed = [
        (b"x-request-timeout-seconds", b"0"),
        (b"X-Request-Disconnect-Disabled", b"?1"),
        (b"serve_multiplexed_model_id", b"m"),
        (b"serve-multiplexed-model-id", b"m"),
        (b"x-session-id", b"s"),
        (b"x-request-id", b"\xff"),
        (b"n\xff", b"1"),
    ]
    assert list(without_control_headers([*kept, *removed])) == kept
