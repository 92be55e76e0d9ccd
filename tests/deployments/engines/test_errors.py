"""Callers get an error of the contract, and never the text of a failure."""

import pytest
import torch

from deployments.contract.errors import Internal, OutOfMemory, PromptTooLong, ServingError
from deployments.engines.errors import as_serving_error


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), OutOfMemory),
        (RuntimeError("Exception from src/inference: std::bad_alloc"), OutOfMemory),
        (RuntimeError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("a secret of the model"), Internal),
    ],
)
def test_the_cause_is_hidden_from_callers_and_logged(
    failure: Exception, kind: type[ServingError], caplog: pytest.LogCaptureFixture
) -> None:
    error = as_serving_error(failure)
    assert type(error) is kind
    assert str(failure) not in error.message or not str(failure)
    assert caplog.records[-1].exc_info


def test_an_error_of_the_contract_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = PromptTooLong("the prompt has 9 tokens")
    assert as_serving_error(error) is error
    assert not caplog.records
