"""mosec as a careful engineer would write it for one model: a process that decodes, one that computes with OpenVINO.

BENCHMARK_MODEL: the model's folder. A large JPEG is decoded small, as libjpeg can.
"""

import base64
import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
from mosec import Server, Worker
from PIL import Image

FOLDER = Path(os.environ["BENCHMARK_MODEL"])
SETTINGS = json.loads((FOLDER / "preprocessor_config.json").read_text("utf-8"))
BATCH = 8
WAIT_MS = 1
"""The shortest that mosec knows: a longer one only costs a lone request more."""


class Decode(Worker):
    """JSON with a picture in base64 to an array (3, height, width) in float32."""

    def __init__(self):
        self.size, self.resample = SETTINGS["size"], SETTINGS["resample"]
        self.crop = SETTINGS["crop_size"] if SETTINGS.get("do_center_crop") else None
        self.mean, self.std = (
            np.array(SETTINGS[name], np.float32)[:, None, None] for name in ("image_mean", "image_std")
        )
        self.factor = np.float32(SETTINGS["rescale_factor"])

    def forward(self, data):
        picture = Image.open(BytesIO(base64.b64decode(data["image_data"])))
        width, height = self.target(*picture.size)
        picture.draft("RGB", (width, height))
        picture = picture.convert("RGB").resize((width, height), self.resample)
        if self.crop:
            left, top = (width - self.crop["width"]) // 2, (height - self.crop["height"]) // 2
            picture = picture.crop((left, top, left + self.crop["width"], top + self.crop["height"]))
        return (np.asarray(picture).transpose(2, 0, 1) * self.factor - self.mean) / self.std

    def target(self, width, height):
        """(width, height) in pixels after resizing."""
        if "shortest_edge" not in self.size:
            return self.size["width"], self.size["height"]
        scale = self.size["shortest_edge"] / min(width, height)
        return int(width * scale), int(height * scale)


class Classify(Worker):
    """Up to BATCH arrays to the best five labels of each, in float32."""

    def __init__(self):
        import openvino
        import torch
        from transformers import AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(FOLDER, return_dict=False).eval()
        self.labels = model.config.id2label
        size = SETTINGS.get("crop_size", SETTINGS["size"])
        shape = (3, size["height"], size["width"])
        converted = openvino.convert_model(
            model, example_input={"pixel_values": torch.zeros(2, *shape)}, input=[-1, *shape]
        )
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = openvino.Core().compile_model(converted, "CPU", hints)

    def forward(self, data):
        logits = self.compiled(np.stack(data))[0]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return [self.answer(row) for row in exponents / exponents.sum(axis=1, keepdims=True)]

    def answer(self, probabilities):
        best = np.argsort(-probabilities)[:5]
        return {
            "class_labels": [self.labels[index] for index in best.tolist()],
            "probabilities": probabilities[best].tolist(),
        }


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode)
    server.append_worker(Classify, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
