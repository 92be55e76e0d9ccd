"""Every type of image classifier, held to transformers' own answers: `python -m benchmarks.compat --images`.

Photos of two shapes: the five most probable labels, in their order but for those within 1e-4, and their probabilities
within 1e-4. Random models are made to see images first, since norms that never saw one let nothing of it through.
"""

import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from benchmarks.outcomes import Outcome, one_line
from deployments.contract.errors import ServingError
from deployments.engines.vision.engine import ImageClassificationEngine

LABELS = 10
SHAPES = ((320, 240), (190, 260))
CLOSE = 1e-4
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN: dict[str, Any] = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
VISION: dict[str, Any] = {"vision_config": {**SMALL, "image_size": 32, "patch_size": 16}}
OWN: dict[str, dict[str, Any]] = {
    "beit": {**SMALL, "image_size": 32, "out_indices": [1]},
    "bit": {"embedding_size": 8, "hidden_sizes": [32, 32], "depths": [1, 1], "num_groups": 4},
    "clip": VISION,
    "convnext": {**STAGES, "num_stages": 2},
    "convnextv2": {**STAGES, "num_stages": 2},
    "cvt": {"embed_dim": [8, 24, 24]},
    "data2vec-vision": {**SMALL, "image_size": 32, "out_indices": [1]},
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320, "image_size": 64},
    "focalnet": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "hidden_sizes": [8, 16]},
    "hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
    "imagegpt": {"vocab_size": 4, "n_embd": 16, "n_layer": 1, "n_head": 2},
    "levit": {"hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1], "image_size": 224},
    "metaclip_2": VISION,
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"image_size": 64},
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 1, "image_size": 224},
    "poolformer": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "pvt": {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 20, 32]},
    "pvt_v2": {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 20, 32]},
    "regnet": {"embedding_size": 8, "groups_width": 8, **STAGES},
    "resnet": {"embedding_size": 8, **STAGES},
    "segformer": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "shieldgemma2": {
        "text_config": {**SMALL, "vocab_size": 320, "num_key_value_heads": 1, "head_dim": 16},
        "vision_config": {**SMALL, "image_size": 32, "patch_size": 16},
        "mm_tokens_per_image": 4,
    },
    "siglip": VISION,
    "siglip2": {"vision_config": {**SMALL, "num_patches": 16}},
    "swiftformer": {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "swin": SWIN,
    "swinv2": SWIN,
}
"""What makes a type small; the others take SMALL."""
BY_SHORTEST_EDGE = {"size": {"shortest_edge": 64}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ConvNextImageProcessor": BY_SHORTEST_EDGE,
    "TextNetImageProcessor": BY_SHORTEST_EDGE,
    "LevitImageProcessor": {},
    "ImageGPTImageProcessor": {"size": {"height": 8, "width": 8}, "clusters": [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]},
    "Siglip2ImageProcessor": {},
}
"""What their folders say, where it is not a square of the model's size."""


def examine(model_type: str, folder: Path) -> Outcome:
    torch.manual_seed(3)
    try:
        save(model_type, folder)
    except Exception as failure:
        return Outcome("not made", detail=one_line(failure))
    photos = [photo(*shape, seed) for seed, shape in enumerate(SHAPES)]
    try:
        wanted = expected(folder, photos)
    except Exception as failure:
        return Outcome("not answered", detail=one_line(failure).replace(str(folder), "the folder"))
    started = time.perf_counter()
    try:
        engine = ImageClassificationEngine.load(folder)
    except ServingError as failure:
        return Outcome("refused", detail=failure.message)
    took_s = time.perf_counter() - started
    try:
        for number, (image, probabilities) in enumerate(zip(photos, wanted, strict=True)):
            [found] = engine.classify([engine.preprocess(image)])
            if isinstance(found, ServingError):
                return Outcome("different", detail=found.message)
            apart = float(np.abs(found - probabilities).max())
            best = np.argsort(-probabilities)[:5]
            if apart > CLOSE or not np.allclose(np.sort(found)[::-1][:5], probabilities[best], atol=CLOSE):
                return Outcome("different", detail=f"picture {number}: {apart:.1e} apart")
        return Outcome("equal", "PyTorch", f"loaded in {took_s:.1f} s")
    except Exception as failure:
        return Outcome("different", detail=one_line(failure))
    finally:
        engine.close()


def save(model_type: str, folder: Path) -> None:
    """Raises whatever the library raises for a type without a small model."""
    options = OWN.get(model_type, {**SMALL, "image_size": 32, "patch_size": 16})
    labels = {number: f"label {number}" for number in range(LABELS)}
    named = {"id2label": labels, "label2id": {label: number for number, label in labels.items()}}
    config = AutoConfig.for_model(model_type, **named, **options)
    classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    model: Any = getattr(transformers, classes if isinstance(classes, str) else classes[0])(config).eval()
    side = 32 if options is VISION else options.get("image_size", 32 if model_type not in OWN else 64)
    height, width = side if isinstance(side, list) else (side, side)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for weights in () if norms else model.parameters():  # norms and biases begin as ones and zeros
            weights.add_(torch.rand_like(weights) * 0.2 - 0.1)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average
        if norms:
            model.train()(pixel_values=torch.rand(8, 3, height, width) * 2 - 1)
            model.eval()
    model.save_pretrained(folder)
    processors = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {"torchvision": "BitImageProcessor"}
    processor = processors.get("torchvision") or next(iter(processors.values()))
    square = {"size": {"height": height, "width": width}, "do_center_crop": False}
    told = {"image_processor_type": processor, **PROCESSORS.get(processor, square)}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


@torch.inference_mode()
def expected(folder: Path, photos: list[bytes]) -> list[np.ndarray]:
    """Probabilities [labels] of each picture."""
    processor: Any = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return [
        model(**processor(images=Image.open(BytesIO(image)), return_tensors="pt")).logits.softmax(-1)[0].numpy()
        for image in photos
    ]


def photo(width: int, height: int, seed: int) -> bytes:
    """Smooth colours, as a PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
