"""proto/inference.proto keeps its numbers, and the stubs are made of it."""

import subprocess
import sys
from pathlib import Path

from serve_app.grpc.generate import FILE, STUBS, numbered, numbers, proto
from tests.support import PROJECT


def test_numbers_that_the_file_has_stay_and_new_fields_get_the_next_ones() -> None:
    text = "message M {\n  string b = 7;\n  optional bytes other = 1000; // JSON\n}\n"
    known = numbers(text, "M")
    assert known == {"b": 7, "other": 1000}
    assert list(numbered({"a": "A", "b": "B", "c": "C"}, known)) == [("b", 7, "B"), ("a", 8, "A"), ("c", 9, "C")]
    assert numbers(text, "N") == {}


def test_the_file_made_anew_has_the_same_variants() -> None:
    assert numbers(proto(""), "InferRequest").keys() == numbers(FILE.read_text("utf-8"), "InferRequest").keys()


def test_the_stubs_are_made_of_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{STUBS}=proto", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, f"{STUBS}/{FILE.name}"], cwd=PROJECT, check=True)
    made, ours = (folder / STUBS / "inference_pb2.pyi" for folder in (tmp_path, PROJECT))
    assert ours.read_text("utf-8") == made.read_text("utf-8"), "run `make proto`"
