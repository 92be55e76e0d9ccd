"""Certificates: what is no pair is refused in one line, and keys do not travel unencrypted without a word."""

from pathlib import Path

import pytest

from serve_app.access.api_keys import AccessSettings, KeySettings
from serve_app.config.config import RuntimeConfig
from serve_app.front.tls import bundle, warning_of

FILES = Path(__file__).parent / "tls"
CERTIFICATE, KEY, ANOTHER_KEY = (FILES / name for name in ("cert.pem", "key.pem", "other-key.pem"))
KEYS = AccessSettings(keys={"team": KeySettings(sha256="0" * 64)})


def test_a_certificate_and_its_key_become_one_file() -> None:
    assert bundle(CERTIFICATE, KEY).count(b"-----BEGIN") == 2


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (CERTIFICATE, ANOTHER_KEY, "tls_cert, tls_key: .* no certificate and its key"),
        (KEY, CERTIFICATE, "tls_cert, tls_key: .* no certificate and its key"),
        (FILES / "none.pem", KEY, r"tls_cert: .*none\.pem cannot be read \(No such file or directory\)"),
        (CERTIFICATE, FILES, r"tls_key: .* cannot be read \(Is a directory\)"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(certificate: Path, key: Path, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        bundle(certificate, key)
    assert "\n" not in str(refused.value)


def test_one_without_the_other_is_refused() -> None:
    with pytest.raises(ValueError, match="tls_cert and tls_key belong together"):
        RuntimeConfig(tls_key=KEY)


def test_keys_over_an_open_port_without_tls_give_one_warning() -> None:
    open_port = RuntimeConfig(host="0.0.0.0", access=KEYS)
    line = warning_of(open_port, 8000)
    assert line is not None
    assert line.startswith("warning: keys and contents travel unencrypted to 0.0.0.0:8000;")
    assert "\n" not in line
    encrypted = open_port.model_copy(update={"tls_cert": CERTIFICATE, "tls_key": KEY})
    assert warning_of(encrypted, 8000) is None
    assert warning_of(encrypted.model_copy(update={"grpc_port": 9000}), 8000) is None
    assert "gRPC" in (warning_of(open_port.model_copy(update={"grpc_port": 9000}), 8000) or "")
    assert warning_of(RuntimeConfig(access=KEYS), 8000) is None
