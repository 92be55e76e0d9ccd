"""The options that reach a runtime: its URL and the file of the API key."""

import argparse
from pathlib import Path

import pytest

from serve_app.cli import connection
from serve_app.client import DEFAULT_URL


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    connection.add_arguments(parser)
    return parser.parse_args(arguments)


def test_without_options_there_is_no_key_and_the_url_is_the_default() -> None:
    assert options().url == DEFAULT_URL
    assert connection.api_key(options()) is None


def test_the_key_is_the_content_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret\n")
    assert connection.api_key(options("--key-file", str(file))) == "secret"
    with pytest.raises(FileNotFoundError):
        connection.api_key(options("--key-file", str(tmp_path / "missing")))
