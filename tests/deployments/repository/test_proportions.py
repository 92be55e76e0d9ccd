"""A config.json that asks for more than its weights is refused; what it says of parts that it lacks does no harm."""

import pytest

from deployments.repository.manifest import Unservable
from deployments.repository.proportions import Extent, check_proportions

WEIGHTS = Extent(tensors=21, largest_side=320)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**6},
        {"text_config": {"n_layer": 2**40}},
        {"depths": [2, 10**5]},
        {"hidden_size": 2**20},
        {"d_model": 65536.0},
        {"text_config": {"intermediate_size": 2**17}},
        {"vocab_size": 2**40},
    ],
)
def test_what_its_weights_cannot_fill_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(Unservable, match=r"config\.json asks for \w+ beyond its weights: "):
        check_proportions(config, WEIGHTS)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 320},
        {"max_window_layers": 10**6, "max_position_embeddings": 2**40, "layer_norm_eps": 1e-5},
        {"text_config": {"vocab_size": 256000, "num_hidden_layers": 64, "hidden_size": 8192}},
        {"hidden_size": "large", "depths": None},
    ],
)
def test_what_is_not_built_or_small_passes(config: dict[str, object]) -> None:
    check_proportions(config, WEIGHTS)


def test_large_weights_allow_large_models() -> None:
    check_proportions({"num_hidden_layers": 2000, "hidden_size": 16384}, Extent(10, 16384).joined(Extent(2000, 8)))
