"""Tiny random models, saved as real Hugging Face folders."""

import io
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ResNetConfig
from transformers.models.vit import ViTImageProcessorPil

from tests.support.text_models import save_model

LABELS = ["tench, Tinca tinca", "crane", "crane", "goldfish"]  # commas and a repetition, as ImageNet has them


def save_text_model(folder: Path) -> Path:
    return save_model(folder, "llama")


def save_image_model(folder: Path) -> Path:
    torch.manual_seed(7)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def padded_picture(size: int) -> bytes:
    """A small picture in a file of about `size` bytes: decoders ignore what follows its end."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(file, "PNG")
    return file.getvalue() + bytes(size)


def save_picture(file: Path, size: tuple[int, int] = (64, 48)) -> Path:
    gradient = Image.linear_gradient("L").resize(size)
    Image.merge("RGB", [gradient, gradient.rotate(180), gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]).save(file)
    return file
