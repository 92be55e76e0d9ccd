"""A replica's share of a GPU binds torch's allocator. There is none here, so CUDA is played."""

from types import SimpleNamespace

import pytest
import torch

from deployments.engines.device import gpu_share


def test_without_a_gpu_nothing_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
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
