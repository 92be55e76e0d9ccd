"""Small random detectors in real Hugging Face folders, and what transformers finds with them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    ResNetConfig,
    RTDetrResNetConfig,
)
from transformers.models.conditional_detr import ConditionalDetrImageProcessorPil
from transformers.models.deformable_detr import DeformableDetrImageProcessorPil
from transformers.models.detr import DetrImageProcessorPil
from transformers.models.hgnet_v2 import HGNetV2Config
from transformers.models.rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos import YolosImageProcessorPil

from deployments.engines.loading import build_in_turn
from tests.support import pretrained
from tests.support.image_models import photo

build_in_turn()  # as replicas do: another test's thread may still load a model

LABELS = ["N/A", "person", "N/A", "traffic light", "dog"]  # with holes and a repetition, as COCO has them

RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
DETR: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 12,
}
RT_DETR: dict[str, Any] = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [8, 8, 16],
    "decoder_in_channels": [32, 32, 32],
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 30,
    "num_denoising": 0,
}
YOLOS: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": [64, 64],
    "num_detection_tokens": 10,
}
STAGES: dict[str, Any] = {
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 8, 8, 8],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [8, 8, 8, 16],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5],
    "out_features": ["stage2", "stage3", "stage4"],
    "hidden_sizes": [8, 8, 8, 16],
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
}


ONE_STAGE: dict[str, Any] = RESNET | {"out_features": ["stage4"]}
THREE_STAGES: dict[str, Any] = RESNET | {"out_features": ["stage2", "stage3", "stage4"]}
SHORTEST: dict[str, Any] = {"size": {"shortest_edge": 64, "longest_edge": 106}}
LARGER: dict[str, Any] = {"size": {"shortest_edge": 128, "longest_edge": 213}}
SQUARE: dict[str, Any] = {"size": {"height": 96, "width": 96}}

ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "detr": (lambda: {"backbone_config": ResNetConfig(**ONE_STAGE), **DETR}, lambda: DetrImageProcessorPil(**SHORTEST)),
    "conditional_detr": (
        lambda: {"backbone_config": ResNetConfig(**ONE_STAGE), **DETR},
        lambda: ConditionalDetrImageProcessorPil(**SHORTEST),
    ),
    "deformable_detr": (
        lambda: {"backbone_config": ResNetConfig(**THREE_STAGES), **DETR, "d_model": 32, "decoder_layers": 2},
        lambda: DeformableDetrImageProcessorPil(**LARGER),
    ),
    "yolos": (lambda: YOLOS, lambda: YolosImageProcessorPil(**SHORTEST)),
    "rt_detr": (
        lambda: {"backbone_config": RTDetrResNetConfig(**THREE_STAGES), **RT_DETR},
        lambda: RTDetrImageProcessorPil(**SQUARE),
    ),
    "rt_detr_v2": (
        lambda: {"backbone_config": RTDetrResNetConfig(**THREE_STAGES), **RT_DETR},
        lambda: RTDetrImageProcessorPil(**SQUARE),
    ),
    "d_fine": (
        lambda: {"backbone_config": HGNetV2Config(**STAGES), **RT_DETR},
        lambda: RTDetrImageProcessorPil(**SQUARE),
    ),
}
"""By model type: what makes it small, and its folder's processor."""


def saved(folder: Path, model_type: str = "detr", **options: Any) -> Path:
    torch.manual_seed(3)
    small, processor = ARCHITECTURES[model_type]
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    config = AutoConfig.for_model(model_type, **small(), **labels | options)
    model = AutoModelForObjectDetection.from_config(config)
    tell_images_apart(model, processor())
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


QUERIES_AND_HEADS = ("query_position", "detection_tokens", "class_labels_classifier", "class_embed", "bbox_predictor")


@torch.no_grad()
def tell_images_apart(model: Any, processor: Any) -> None:
    """Fresh queries find the same thing, and norms that never saw an image let nothing of it through."""
    for name, tensor in model.named_parameters():
        noise = 2.0 if any(part in name for part in QUERIES_AND_HEADS) else 0.4
        tensor.add_((torch.rand_like(tensor) - 0.5) * noise)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    model.train()(**processor([photo(96, 96, seed) for seed in range(8)], return_tensors="pt"))
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=0.1)  # a smaller one makes much of what is rounded
    model.eval()


def expected(folder: Path, image: Image.Image, threshold: float = 0.5) -> list[tuple[str, float, list[float]]]:
    """Labels, scores and boxes by the library's own model and processor, best first, kept within the picture."""
    processor: Any = pretrained(AutoImageProcessor, folder)
    model = pretrained(AutoModelForObjectDetection, folder)
    with torch.inference_mode():
        outputs = model(**processor(images=image, return_tensors="pt"))
    size = (image.height, image.width)
    [found] = processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=[size])
    limit = np.array([image.width, image.height] * 2)
    rows = [
        (model.config.id2label[label], score, np.clip(box, 0, limit).tolist())
        for label, score, box in zip(*(found[name].tolist() for name in ("labels", "scores", "boxes")), strict=True)
    ]
    return sorted(rows, key=lambda row: -row[1])
