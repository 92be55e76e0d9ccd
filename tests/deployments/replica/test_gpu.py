"""A process without a GPU reports none."""

import pynvml
import pytest
import ray

from deployments.replica.gpu import gpu_utilization


def test_a_process_without_a_gpu_reports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    assert gpu_utilization() == {}


def test_a_logical_gpu_of_a_machine_without_one_reports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["0"])
    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert gpu_utilization() == {}
