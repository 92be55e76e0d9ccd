"""The certificate and the private key of `tls_cert` and `tls_key`, as HAProxy takes them. Starts nothing."""

import ssl
from pathlib import Path

from serve_app.config.config import RuntimeConfig, is_loopback


def bundle(certificate: Path, key: Path) -> bytes:
    """Both as one file in PEM. Raises ValueError, with one line, where they are no pair."""
    for name, file in (("tls_cert", certificate), ("tls_key", key)):
        try:
            file.read_bytes()
        except OSError as failure:
            raise ValueError(f"{name}: {file} cannot be read ({failure.strerror})") from None
    try:
        # Without a password: nobody is there to be asked for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as failure:
        reason = getattr(failure, "reason", None) or failure
        pair = f"{certificate} and {key}"
        raise ValueError(f"tls_cert, tls_key: {pair} are no certificate and its key ({reason})") from None
    return certificate.read_bytes().rstrip() + b"\n" + key.read_bytes()


def open_ports(config: RuntimeConfig, port: int) -> list[str]:
    """The addresses at which others' keys would travel unencrypted."""
    if is_loopback(config.host) or not config.access.keys:
        return []
    grpc = [] if config.grpc_port is None else [f"{config.host}:{config.grpc_port} (gRPC)"]
    return [] if config.tls_cert else [f"{config.host}:{port}", *grpc]


def warning_of(config: RuntimeConfig, port: int) -> str | None:
    """One line where keys would travel unencrypted."""
    if not (ports := open_ports(config, port)):
        return None
    return (
        f"warning: keys and contents travel unencrypted to {' and '.join(ports)}; "
        "set tls_cert and tls_key, or have a proxy with TLS in front"
    )
