"""Draws what was found into the picture. Knows Pillow, not tensors."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deployments.contract.types import ObjectDetection, ObjectDetectionResult
from deployments.engines.vision.decoding import decoded

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
"""One for each label, in the order of their best scores."""


def save_drawing(request: ObjectDetection, result: ObjectDetectionResult, file: Path) -> None:
    """Writes the upright picture with its boxes, labels and scores, in the format that the file's name ends with.

    Raises InvalidImage, OSError, and ValueError for an ending that Pillow does not know.
    """
    with decoded(request.image_data) as image:
        _draw(image, result)
        image.save(file)


def _draw(image: Image.Image, result: ObjectDetectionResult) -> None:
    draw = ImageDraw.Draw(image)
    line = max(1, round(min(image.size) / 200))
    font = ImageFont.load_default(max(10, min(image.size) / 40))
    colour_of = {label: COLOURS[n % len(COLOURS)] for n, label in enumerate(dict.fromkeys(result.class_labels))}
    found = list(zip(result.class_labels, result.scores, result.boxes, strict=True))
    for label, score, box in reversed(found):  # the best on top
        x_min, y_min, x_max, y_max = np.minimum(box, [image.width - 1, image.height - 1] * 2).tolist()
        draw.rectangle((x_min, y_min, x_max, y_max), outline=colour_of[label], width=line)
        text = f"{label} {score:.2f}"
        left, top, right, bottom = draw.textbbox((x_min, y_min), text, font)
        below = max(0, top - y_min)
        draw.rectangle((left, y_min, right + line, bottom + below), fill=colour_of[label])
        draw.text((x_min, y_min), text, "white", font)
