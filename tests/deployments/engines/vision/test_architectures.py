"""The architectures of AutoModelForImageClassification: small, random, and held to the library's own answers.

As the library runs them; what compiling does to answers is `test_compilation.py`'s.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.probes import ProbeCache
from deployments.engines.vision.preprocessing import load_preprocessing
from deployments.system.artifact_cache import ArtifactCache
from tests.support import sweep
from tests.support.image_models import answer, answers, encoded, expected, labelled, loaded, on_one_thread, photo

__all__ = ["on_one_thread"]

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
VISION = {"vision_config": {**SMALL, "image_size": 32, "patch_size": 16}}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("BeitImageProcessor", {**SMALL, "image_size": 32, "out_indices": [1]}),
    "bit": ("BitImageProcessor", {"embedding_size": 8, "hidden_sizes": [32, 32], "depths": [1, 1], "num_groups": 4}),
    "clip": ("CLIPImageProcessor", VISION),
    "convnext": ("ConvNextImageProcessor", {**STAGES, "num_stages": 2}),
    "convnextv2": ("ConvNextImageProcessor", {**STAGES, "num_stages": 2}),
    "cvt": ("ConvNextImageProcessor", {"embed_dim": [8, 24, 24]}),
    "data2vec-vision": ("BeitImageProcessor", {**SMALL, "image_size": 32, "out_indices": [1]}),
    "deit": ("DeiTImageProcessor", {**SMALL, "image_size": 32}),
    "dinov2": ("BitImageProcessor", {**SMALL, "image_size": 32, "patch_size": 16}),
    "dinov2_with_registers": ("BitImageProcessor", {**SMALL, "image_size": 32, "patch_size": 16}),
    "focalnet": ("BitImageProcessor", {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "hidden_sizes": [8, 16]}),
    "imagegpt": ("ImageGPTImageProcessor", {"vocab_size": 4, "n_embd": 16, "n_layer": 1, "n_head": 2}),
    "ijepa": ("ViTImageProcessor", {**SMALL, "image_size": 32}),
    "metaclip_2": ("CLIPImageProcessor", VISION),
    "mobilenet_v1": ("MobileNetV1ImageProcessor", {"depth_multiplier": 0.25}),
    "mobilevit": ("MobileViTImageProcessor", {"image_size": 64}),
    "mobilevitv2": ("MobileViTImageProcessor", {"image_size": 64, "width_multiplier": 0.25}),
    "poolformer": ("PoolFormerImageProcessor", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
    "pvt_v2": ("PvtImageProcessor", {"image_size": 32, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 20, 32]}),
    "regnet": ("ConvNextImageProcessor", {"embedding_size": 8, "groups_width": 8, **STAGES}),
    "segformer": ("SegformerImageProcessor", {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}),
    "siglip": ("SiglipImageProcessor", VISION),
    "siglip2": ("Siglip2ImageProcessor", {"vision_config": {**SMALL, "num_patches": 16}}),
    "swiftformer": ("ViTImageProcessor", {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}),
    "swin": (
        "ViTImageProcessor",
        {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
    "swinv2": (
        "ViTImageProcessor",
        {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
    "textnet": ("TextNetImageProcessor", {}),
    "vit_msn": ("ViTImageProcessor", {**SMALL, "image_size": 32}),
}
"""By model type: the processor that its folders name, and what makes it small. Not here: those of `image_models`, those
that need packages of their own (natten, timm, torchvision), and those that random weights make large, blind to images
(EfficientNet) or chaotic (LeViT)."""

BY_SHORTEST_EDGE: dict[str, Any] = {"size": {"shortest_edge": 64}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ConvNextImageProcessor": BY_SHORTEST_EDGE,
    "TextNetImageProcessor": BY_SHORTEST_EDGE,
    "ImageGPTImageProcessor": {"size": {"height": 8, "width": 8}, "clusters": [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]},
    "Siglip2ImageProcessor": {},
}
"""What their folders say of them, where it is not a square of the model's size."""


def saved(folder: Path, model_type: str, **processor: object) -> Path:
    torch.manual_seed(3)
    processor_type, options = ARCHITECTURES[model_type]
    config = AutoConfig.for_model(model_type, **labelled(**options))
    classes = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    model = getattr(transformers, classes if isinstance(classes, str) else classes[0])(config).eval()
    norms = [norm for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for weights in () if norms else model.parameters():  # norms and biases start as ones and zeros
            weights.add_(torch.rand_like(weights) * 0.2 - 0.1)
        if norms:
            see_images(model, norms)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": processor_type, **processor}))
    return folder


def see_images(model: Any, norms: list[Any]) -> None:
    """Norms that never saw an image let nothing of it through."""
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    images = np.stack([np.asarray(photo(64, 64, seed), np.float32) for seed in range(16)])
    model.train()(pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    model.eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_it_answers_as_in_transformers(tmp_path: Path, model_type: str) -> None:
    processor, options = ARCHITECTURES[model_type]
    side = 32 if options is VISION else options.get("image_size", 64)
    square = {"size": {"height": side, "width": side}, "do_center_crop": False}
    engine = loaded(saved(tmp_path, model_type, **PROCESSORS.get(processor, square)))
    images = photo(61, 47), photo(240, 320, seed=1)
    got = [answer(engine, encoded(image)) for image in images]
    np.testing.assert_allclose(got, [expected(tmp_path, image) for image in images], atol=1e-5)
    assert np.abs(got[0] - got[1]).max() > 3e-5  # else anything would do


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", sweep(["imagegpt", "siglip2"], "imagegpt"))
def test_a_model_that_takes_something_else_has_batches_and_narrow_floats_too(tmp_path: Path, model_type: str) -> None:
    folder = saved(tmp_path, model_type, **PROCESSORS[ARCHITECTURES[model_type][0]])
    images = [photo(61, 47, seed) for seed in range(3)]
    engine = loaded(folder, cache=ArtifactCache(tmp_path / "cache", 1 << 30))
    assert "forward: PyTorch, eager" in engine.runtime_info  # nothing is compiled
    together = answers(engine, [encoded(image) for image in images])
    np.testing.assert_allclose(together, [expected(folder, image) for image in images], atol=1e-5)
    narrow = loaded(folder, dtype="bfloat16")
    np.testing.assert_allclose(answer(narrow, encoded(images[0])), together[0], atol=0.05)


@pytest.mark.slow
def test_a_processor_may_ask_for_as_many_pixels_as_it_likes(tmp_path: Path) -> None:
    """Donut's asks for 2560 × 1920; the limit is for images that would grow."""
    square = {"size": {"height": 2560, "width": 1920}, "do_center_crop": False}
    preprocessing = load_preprocessing(saved(tmp_path, "mobilenet_v1", **square), 3, ProbeCache(None))
    assert preprocessing(photo(30, 3000)).shape == (3, 2560, 1920)


def test_a_model_without_labels_is_refused_and_told_so(tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": 32, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 20, 32]}
    transformers.PvtForImageClassification(transformers.PvtConfig(num_labels=7, **options)).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "PvtImageProcessor", "size": size})
    )
    with pytest.raises(ModelLoadFailed, match="id2label"):
        loaded(tmp_path)
