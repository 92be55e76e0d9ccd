"""A replica's share of a GPU binds torch's allocator (there is none here, so CUDA is played); OpenMP pools end."""

import os
from types import SimpleNamespace

import pytest
import torch

from deployments.engines.device import end_openmp_pool, gpu_share
from tests.support.native_threads import native_threads, wait_until_ended


def test_without_a_gpu_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_share(0.25) is None


def test_the_share_is_a_bound_on_what_torch_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    share = gpu_share(0.25)
    assert share is not None
    assert (fractions, share.total_bytes) == ([0.25], 250)
    assert gpu_share(0) is None


@pytest.mark.skipif(
    torch.get_num_threads() < 2 or not os.path.isdir("/proc/self/task"), reason="no pools, or no way to see them"
)
def test_a_pool_ends_and_starts_again() -> None:
    numbers = torch.ones(1 << 20)
    end_openmp_pool()
    for _ in range(2):
        before = native_threads()
        numbers.sum()
        assert len(native_threads() - before) == torch.get_num_threads() - 1
        end_openmp_pool()
        wait_until_ended(before)
