"""The options by which a command reaches a running runtime, and the client that they make."""

import argparse
from pathlib import Path

from serve_app.client.client import DEFAULT_URL, ModelRuntimeClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--key-file", type=Path, help="a file that holds the API key")


def api_key(options: argparse.Namespace) -> str | None:
    """The key in the file of `--key-file`. Raises OSError."""
    file: Path | None = options.key_file
    return file.read_text("utf-8").strip() if file else None


def connect(options: argparse.Namespace) -> ModelRuntimeClient:
    return ModelRuntimeClient(options.url, api_key=api_key(options))
