"""The kernel's counters of processes that it killed for want of memory, and which deaths they are taken for."""

from pathlib import Path

import pytest

from deployments.system.oom_kills import SAME_S, OomWatch, oom_kills


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (
            "0::/a/b\n",
            {"mounts/a/b/memory.events": "oom 9\noom_kill 3\noom_group_kill 1\n", "vmstat": "oom_kill 7\n"},
            3,
        ),
        ("0::/a\n", {"vmstat": "pgfree 5\noom_kill 7\n"}, 7),
        ("4:memory:/a\n", {"vmstat": "oom_kill 7\n"}, 7),
        ("0::/a\n", {"mounts/a/memory.events": "oom 9\n", "vmstat": "pgfree 5\n"}, 0),
        ("nonsense", {"vmstat": "oom_kill many\n"}, 0),
    ],
)
def test_kills_of_the_cgroup_come_before_those_of_the_machine(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "mounts", tmp_path / "vmstat") == expected


def test_where_nothing_says_there_are_none(tmp_path: Path) -> None:
    assert oom_kills(tmp_path, tmp_path, tmp_path / "none") == 0


def test_deaths_at_the_time_of_a_kill_are_taken_for_it_and_later_ones_are_not() -> None:
    kills, now = [5], [0.0]
    watch = OomWatch(lambda: kills[0], lambda: now[0])
    assert not watch.just_now()
    kills[0] += 1
    assert [watch.just_now(), watch.just_now()] == [True, True]
    now[0] += SAME_S
    assert not watch.just_now()
