"""What a node's memory is, and how the processes that hold models on it share it."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.system.node_memory import MemoryShares, node_memory

MACHINE = psutil.virtual_memory().total
V2, V1 = "0::/kubepods/pod1/c1\n", "9:name=systemd:/\n4:memory,cpu:/docker/abc\n"
UNLIMITED = 2**63 - 4096


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (V2, {}, MACHINE),
        (V2, {"kubepods/pod1/c1/memory.max": "max"}, MACHINE),
        (V2, {"kubepods/pod1/c1/memory.max": "4096"}, 4096),
        (V2, {"kubepods/pod1/c1/memory.max": "max", "kubepods/pod1/memory.max": "8192"}, 8192),
        ("0::/\n", {"memory.max": "4096"}, 4096),
        (V2, {"memory.max": "4096"}, 4096),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": "4096"}, 4096),
        (V1, {"memory/memory.limit_in_bytes": str(UNLIMITED)}, MACHINE),
    ],
)
def test_it_is_the_machines_or_the_least_limit_of_a_cgroup_above(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    for name, limit in files.items():
        (tmp_path / "mounts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounts" / name).write_text(limit)
    assert node_memory(tmp_path / "cgroup", tmp_path / "mounts") == expected


def test_without_cgroups_it_is_the_machines(tmp_path: Path) -> None:
    assert node_memory(tmp_path / "none", tmp_path) == MACHINE


def test_processes_with_models_have_equal_shares_of_what_fixed_ones_leave(tmp_path: Path) -> None:
    first, second, fixed = MemoryShares(tmp_path), MemoryShares(tmp_path), MemoryShares(tmp_path, 40)
    first.join()
    assert first.share(100) == 100
    assert second.share(100) == 50  # If it had models.
    second.join()
    second.join()
    assert (first.share(100), second.share(100)) == (50, 50)
    fixed.join()
    assert (first.share(100), fixed.share(100)) == (30, 40)
    assert first.share(10) == 0
    second.leave()
    assert first.share(100) == 60


def test_a_process_that_was_killed_has_no_share(tmp_path: Path) -> None:
    code = "import sys, pathlib; from deployments.system.node_memory import MemoryShares as M;"
    code += "shares = M(pathlib.Path(sys.argv[1])); shares.join(); print(flush=True); sys.stdin.read()"
    own = MemoryShares(tmp_path)
    own.join()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert own.share(100) == 50
        other.kill()
        other.wait()
    assert own.share(100) == 100
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_away_changes_no_share_and_raises_nothing(tmp_path: Path) -> None:
    first, second = MemoryShares(tmp_path / "shares"), MemoryShares(tmp_path / "shares")
    second.join()
    assert first.share(100) == 50
    shutil.rmtree(tmp_path / "shares")
    first.join()
    assert first.share(100) == 50
