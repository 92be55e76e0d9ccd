"""A replica's memory for models follows its node or its GPU, unless a setting says it."""

from pathlib import Path

import pytest

from deployments.contract.settings import FamilySettings
from deployments.replica.budget import Budget
from deployments.residency.ledger import MIB

NODE = 16_000 * MIB


def budget(cache: Path, family: str = "text_generation", **settings: object) -> Budget:
    return Budget(family, FamilySettings.model_validate(settings), cache, lambda: NODE)


def test_a_model_of_an_ordinary_size_fits_an_ordinary_machine_without_configuration(tmp_path: Path) -> None:
    text, image = budget(tmp_path), budget(tmp_path, "image_classification")
    text.has_models()
    assert text.limit().bytes == 11_200 * MIB
    image.has_models()
    assert text.limit().bytes == image.limit().bytes == 5_600 * MIB  # 3 GB, twice


def test_a_refusal_says_that_nothing_is_set_and_what_the_node_has(tmp_path: Path) -> None:
    assert budget(tmp_path).limit().refusal(12_000 * MIB).message == (
        "needs 12000 MiB, the budget is 11200 MiB: families.text_generation.required_mem_mb is not set "
        "(a share of the node's 16000 MiB) and would have to be 12000"
    )


def test_what_is_set_is_the_budget_and_the_others_share_the_rest(tmp_path: Path) -> None:
    text, image = budget(tmp_path, required_mem_mb=1_200), budget(tmp_path, "image_classification")
    text.has_models()
    image.has_models()
    assert text.limit().refusal(1_300 * MIB).message.endswith("required_mem_mb is 1200 and would have to be 1300")
    assert (text.limit().bytes, image.limit().bytes) == (1_200 * MIB, 10_000 * MIB)


@pytest.mark.parametrize(("required_mem_mb", "expected_mb"), [(None, 9_000), (4_000, 4_000), (20_000, 10_000)])
def test_on_a_gpu_it_is_the_replicas_share_of_it(tmp_path: Path, required_mem_mb: int | None, expected_mb: int) -> None:
    text, image = budget(tmp_path, required_mem_mb=required_mem_mb, num_gpus=0.25), budget(tmp_path, "image")
    text.has_models()
    text.use_gpu(10_000 * MIB)
    text.has_models()
    assert text.limit().bytes == expected_mb * MIB
    assert image.limit().bytes == 11_200 * MIB  # The node's memory is its own.
    if required_mem_mb is None:
        assert (
            text.limit()
            .refusal(18_000 * MIB)
            .message.endswith(
                "the budget is 9000 MiB: families.text_generation.num_gpus is 0.25 and would have to be 0.5"
            )
        )
