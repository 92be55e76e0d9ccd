"""Small random image models in real Hugging Face folders, images for them, and what transformers answers."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    MobileNetV2Config,
    ResNetConfig,
    ViTConfig,
)
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.convnext import ConvNextImageProcessorPil
from transformers.models.mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.vit import ViTImageProcessorPil

from deployments.engines.loading import build_in_turn
from deployments.engines.vision import forward
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.engines.vision.inputs import Item
from tests.support import pretrained

build_in_turn()  # as replicas do: another test's thread may still load a model

LABELS = ["background", "tench, Tinca tinca", "crane", "crane", "goldfish"]


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """Two that share their cores with other programs wait for each other at every operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def labelled(**options: Any) -> dict[str, Any]:
    return {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}, **options}


def vit(**options: Any) -> ViTConfig:
    return ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        **labelled(**options),
    )


def resnet(**options: Any) -> ResNetConfig:
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labelled(**options)
    )


def mobilenet(**options: Any) -> MobileNetV2Config:
    return MobileNetV2Config(image_size=32, depth_multiplier=0.35, **labelled(**options))


CONFIGS = {"vit": vit, "resnet": resnet, "mobilenet": mobilenet}
PROCESSORS: dict[str, Callable[[], Any]] = {
    "vit": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "resnet": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    "mobilenet": lambda: MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3]
    ),
}


def saved(folder: Path, kind: str = "vit", dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    torch.manual_seed(3)
    model = AutoModelForImageClassification.from_config(CONFIGS[kind](**options))
    tell_images_apart(model)
    model.to(dtype).save_pretrained(folder)
    PROCESSORS[kind]().save_pretrained(folder)
    return folder


@torch.no_grad()
def tell_images_apart(model: Any) -> None:
    """Sets norms and logits by images: with random weights alone nearly every image has the same answer."""
    for tensor in model.parameters():
        tensor.add_(torch.rand_like(tensor) * 0.4 - 0.2)  # biases and norms start as zeros and ones
        if tensor.ndim == 4:  # kernels: where they are all noise, a rounded pixel changes the answer
            tensor.copy_(tensor.mean((2, 3), keepdim=True) + 0.05 * tensor)
    images = np.stack([np.asarray(photo(32, 32, seed), np.float32) for seed in range(32)])
    pixel_values = torch.from_numpy(images).permute(0, 3, 1, 2)[:, : model.config.num_channels] / 127.5 - 1
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    model.train()(pixel_values=pixel_values)
    logits = model.eval()(pixel_values=pixel_values).logits
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.weight /= 4 * logits.std(0)[:, None]
    last.bias.copy_((last.bias - logits.mean(0)) / (4 * logits.std(0)))


def loaded(folder: Path, **options: Any) -> ImageClassificationEngine:
    return ImageClassificationEngine.load(folder, **options)


def photo(width: int = 61, height: int = 47, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def expected(folder: Path, image: Image.Image) -> np.ndarray:
    """Probabilities by the library's own model and processor."""
    processor: Any = pretrained(AutoImageProcessor, folder)
    model = pretrained(AutoModelForImageClassification, folder)
    with torch.no_grad():
        logits: torch.Tensor = model(**processor(images=image, return_tensors="pt").to(model.dtype)).logits.float()
    probabilities: np.ndarray = logits.softmax(-1)[0].numpy()
    return probabilities


def answer(engine: ImageClassificationEngine, image_data: bytes) -> np.ndarray:
    """Probabilities, float32 [labels]."""
    return answers(engine, [engine.preprocess(image_data)])[0]


def answers(
    engine: ImageClassificationEngine, images: Sequence[Item | bytes], exclusive: bool = False
) -> list[np.ndarray]:
    """Probabilities of each; an error of one fails the test."""
    got = engine.classify(images, exclusive)
    assert all(isinstance(one, np.ndarray) for one in got), got
    return [one for one in got if isinstance(one, np.ndarray)]


def pixels(engine: ImageClassificationEngine, image_data: bytes) -> torch.Tensor:
    item = engine.preprocess(image_data)
    assert isinstance(item, torch.Tensor)
    return item


class Plain(torch.nn.Module):
    """A convolution; `mixing`: the other images of a batch change the answer."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, mixing: float = 0.0) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.mixing = mixing

    def forward(self, pixel_values: torch.Tensor) -> Any:
        logits = self.convolution(pixel_values).mean((2, 3))
        return ImageClassifierOutput(logits=logits * (1 + self.mixing * logits.mean()))


def forward_of(model: Any) -> forward.Forward:
    return forward.Forward(forward.eager(model), multi_label=False, cores=1, model=model)
