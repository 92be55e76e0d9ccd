"""The ranges of pyproject.toml end where versions are tested: constraints-lowest.txt below, constraints.txt above."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).parent.parent
DEPENDENCIES = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]


def pinned(file: str) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / file).read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_a_range_begins_at_the_lowest_tested_version_and_admits_the_highest(dependency: str) -> None:
    requirement = Requirement(dependency)
    name = canonicalize_name(requirement.name)
    lowest, highest = pinned("constraints-lowest.txt")[name], pinned("constraints.txt")[name]
    begins = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert len(begins) == 1
    assert lowest.release[: len(begins[0].release)] == begins[0].release
    assert lowest in requirement.specifier
    assert highest in requirement.specifier


@pytest.mark.parametrize("package", ["grpc_health", "grpc_reflection", "sentencepiece", "serve_app"])
def test_generated_code_runs_with_the_lowest_protobuf(package: str) -> None:
    """It refuses an older one: transformers then reads a tokenizer.model as if it were tiktoken's, and fails."""
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    files = [file for place in found.submodule_search_locations for file in Path(place).rglob("*_pb2.py")]
    texts = "".join(file.read_text("utf-8") for file in files)
    needed = re.findall(r"^# Protobuf Python Version: (\S+)$", texts, re.MULTILINE)
    assert max(map(Version, needed)) <= pinned("constraints-lowest.txt")["protobuf"]
