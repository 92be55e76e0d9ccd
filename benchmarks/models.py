"""The models and pictures of the benchmarks: random, but the same every time, in real folders and formats."""

import base64
import json
import shutil
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    LlamaConfig,
    MobileNetV1Config,
    MobileNetV2Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ViTConfig,
)

SEED = 20
VOCABULARY = 512
SHARPNESS = 0.1
"""How much of a random kernel is kept beside its mean."""
LOGITS_STD = 2.0
"""Of one class over many pictures."""
IMAGENET_LABELS = 1001
"""As the published MobileNetV2 has it: index 0 is the background."""


def save_mobilenet(folder: Path) -> Path:
    """MobileNetV2 1.0 at 224, 3.5 M parameters, with the published one's preprocessing."""
    config = MobileNetV2Config(**_labels(IMAGENET_LABELS))
    crop = {"height": 224, "width": 224}
    size = {"shortest_edge": 256}
    return _save_classifier(
        folder, config, 224, "MobileNetV2ImageProcessor", size=size, do_center_crop=True, crop_size=crop
    )


def save_vit(folder: Path) -> Path:
    """A small ViT at 224."""
    widths: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    config = ViTConfig(num_hidden_layers=2, **widths, **_labels(1000))
    return _save_classifier(folder, config, 224, "ViTImageProcessor", size={"height": 224, "width": 224})


def save_resnet(folder: Path) -> Path:
    """A small ResNet at 224."""
    widths: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32, 64]}
    config = ResNetConfig(depths=[1, 1, 1], layer_type="basic", **widths, **_labels(1000))
    crop = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
    return _save_classifier(folder, config, 224, "ConvNextImageProcessor", **crop)


def save_mobilenet_v1(folder: Path) -> Path:
    """MobileNetV1 0.75 at 192, with the published one's preprocessing."""
    config = MobileNetV1Config(image_size=192, depth_multiplier=0.75, **_labels(IMAGENET_LABELS))
    crop = {"height": 192, "width": 192}
    size = {"shortest_edge": 219}
    return _save_classifier(
        folder, config, 192, "MobileNetV1ImageProcessor", size=size, do_center_crop=True, crop_size=crop
    )


def save_tiny_resnet(folder: Path) -> Path:
    """A ResNet of 15,000 parameters for 32×32 pixels."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 1], layer_type="basic", **_labels(40))
    return _save_classifier(folder, config, 32, "ViTImageProcessor", size={"height": 32, "width": 32})


def save_llama(folder: Path, layers: int = 6, hidden: int = 288, intermediate: int = 768, heads: int = 6) -> Path:
    """A Llama of 6 M parameters, 512 tokens of vocabulary and no end of text, with a byte-level tokenizer."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        initializer_range=0.1,  # Wide enough that the best token stands clear of the second.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_large_llama(folder: Path) -> Path:
    """A Llama of 134 M parameters, otherwise as the small one."""
    return save_llama(folder, layers=18, hidden=768, intermediate=2176, heads=12)


def copy_model(source: Path, folder: Path) -> Path:
    """Raises SystemExit if there is no model."""
    if not (source / "config.json").is_file():
        raise SystemExit(f"{source} holds no config.json")
    return Path(shutil.copytree(source, folder))


def jpeg(width: int, height: int, seed: int, at_most_bytes: int | None = None) -> bytes:
    """A picture with detail of every size, like a photo; quality 90, less where the size asks for it."""
    picture = clouds(width, height, seed)
    for quality in (90, 75, 60, 45, 30):
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if at_most_bytes is None or file.tell() <= at_most_bytes:
            break
    return file.getvalue()


def as_base64(image_data: bytes) -> str:
    return base64.b64encode(image_data).decode()


def prompts(count: int) -> list[str]:
    """Prompts of 32 characters that differ from the first on, so that no server can share their beginnings."""
    words = ("stone", "river", "cloud", "amber", "field", "house", "night", "winter", "sailor", "garden", "copper")
    rng = np.random.default_rng(SEED)
    return [" ".join([f"{n:02d}", *rng.choice(words, 8)])[:32] for n in range(count)]


def _labels(count: int) -> dict[str, Any]:
    labels = {index: f"class {index:04d}" for index in range(count)}
    return {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}


@torch.no_grad()
def _calibrate(model: Any, size: int) -> None:
    """Makes random weights tell pictures apart by what they show.

    Kernels are smoothed, as those of trained networks are on the whole: random ones see the noise between pixels.
    Batch norms and the scale of the logits are set by pictures.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.copy_(module.weight.mean((2, 3), keepdim=True) + SHARPNESS * module.weight)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # The plain average.
    model.train()
    pixels = np.stack([np.asarray(clouds(size, size, 1000 + n), np.float32) for n in range(16)])
    pixel_values = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    model(pixel_values=pixel_values)
    model.eval()
    classifier = next(module for module in reversed(list(model.modules())) if isinstance(module, torch.nn.Linear))
    logits = model(pixel_values=pixel_values).logits
    scale = LOGITS_STD / logits.std(0).mean()
    classifier.weight *= scale
    classifier.bias.copy_((classifier.bias - logits.mean(0)) * scale)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _save_classifier(folder: Path, config: PretrainedConfig, pixels: int, processor: str, **settings: Any) -> Path:
    torch.manual_seed(SEED)
    model: Any = AutoModelForImageClassification.from_config(config)
    _calibrate(model, pixels)
    model.save_pretrained(folder)
    _save_processor(folder, image_processor_type=processor, **settings)
    return folder


def _save_processor(folder: Path, **settings: Any) -> None:
    usual = {
        "do_resize": True,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(usual | settings, indent=1), "utf-8")


def clouds(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    picture = _noise(rng, 4, 3, width, height)
    cells = 8
    while cells < min(width, height):
        picture = Image.blend(picture, _noise(rng, cells * 4 // 3, cells, width, height), 0.25)
        cells *= 2
    return picture


def _noise(rng: np.random.Generator, columns: int, rows: int, width: int, height: int) -> Image.Image:
    pixels = rng.integers(0, 256, (rows, columns, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _corpus() -> Iterable[str]:
    """Pronounceable nonsense: enough different pairs for every token of the vocabulary."""
    rng = np.random.default_rng(SEED)
    syllables = [first + second + third for first in "bdfgklmnprst" for second in "aeiou" for third in ("", "n", "r")]
    return [" ".join("".join(rng.choice(syllables, 3)) for _ in range(20)) for _ in range(200)]
