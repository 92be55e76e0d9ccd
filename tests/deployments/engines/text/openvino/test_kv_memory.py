"""The tensors of the KV cache are as large as they may become; memory they take where a block was written."""

from types import SimpleNamespace

import numpy as np
import openvino as ov
import psutil
import pytest

from deployments.engines.text.openvino.kv_memory import KVMemory

MIB = 1 << 20


def model(element: ov.Type = ov.Type.f32) -> SimpleNamespace:
    """One layer of 1 MiB for each block of keys, and as much of values."""

    def port(name: str) -> SimpleNamespace:
        shape = ov.PartialShape([-1, 64, 32, 128])
        return SimpleNamespace(
            get_names=lambda: {name}, get_partial_shape=lambda: shape, get_element_type=lambda: element
        )

    return SimpleNamespace(inputs=[port("input_ids"), port("key_cache.0"), port("value_cache.0")])


def held() -> int:
    return int(psutil.Process().memory_info().rss)


def test_memory_is_taken_by_the_blocks_that_are_written_and_given_back() -> None:
    memory, before = KVMemory(model(), 100_000), held()  # 200 GiB
    for block in range(50):
        for tensor in memory.tensors.values():
            tensor.data[block] = 1
    assert held() - before > 90 * MIB
    memory.trim(10)
    assert held() - before < 50 * MIB
    assert memory.tensors["key_cache.0"].data[9].all()
    assert not memory.tensors["key_cache.0"].data[10].any()


def test_a_block_can_be_copied_and_wiped() -> None:
    memory = KVMemory(model(), 4)
    memory.tensors["value_cache.0"].data[0] = np.nan
    memory.copy(0, 3)
    memory.wipe([0])
    values = memory.tensors["value_cache.0"].data
    assert np.isnan(values[3]).all()
    assert not values[0].any()


@pytest.mark.parametrize("element", [ov.Type.f32, ov.Type.f16, ov.Type.bf16])
def test_tensors_have_the_type_that_the_model_asks_for(element: ov.Type) -> None:
    memory = KVMemory(model(element), 4)
    assert {tensor.get_element_type() for tensor in memory.tensors.values()} == {element}
    assert KVMemory.block_bytes(model(element)) == 2 * 64 * 32 * 128 * element.size
