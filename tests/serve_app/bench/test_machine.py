"""The machine in one line."""

import re

from serve_app.bench.machine import machine


def test_a_machine_is_named_by_cores_processor_memory_and_system() -> None:
    assert re.match(r"\d+ cores of .+, \d+ GiB, .+ compiler, \w+ \S+$", machine())
