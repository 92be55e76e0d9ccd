"""A replica computes on its share of the machine's cores."""

import os
import subprocess
import sys

import pytest

from tests.support.project import PROJECT

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("share", "cores"), [(0.01, 1), (0.5, max(1, ALL // 2)), (1.0, ALL)])
def test_a_process_is_limited_to_its_share_of_the_cores(share: float, cores: int) -> None:
    """In a process of its own, because the limit cannot be taken back."""
    check = (
        "import os; from deployments.system.cores import limit_cores; "
        f"print(limit_cores({share}), len(os.sched_getaffinity(0)))"
    )
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(cores)] * 2
