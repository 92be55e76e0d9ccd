"""BentoML services: the classifier in the folder that BENCHMARK_MODEL names, and one without a model."""

import base64
import os
from io import BytesIO

import bentoml

WORKERS = int(os.environ.get("BENCHMARK_WORKERS", "1"))


@bentoml.service(workers=WORKERS)
class Classifier:
    def __init__(self):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // WORKERS))
        folder = os.environ["BENCHMARK_MODEL"]
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.model = AutoModelForImageClassification.from_pretrained(folder).eval()
        self.inference_mode = torch.inference_mode

    @bentoml.api
    def predict(self, image_data: str) -> dict:
        from PIL import Image

        picture = Image.open(BytesIO(base64.b64decode(image_data))).convert("RGB")
        inputs = self.processor(picture, return_tensors="pt")
        with self.inference_mode():
            probabilities = self.model(**inputs).logits.softmax(-1)[0]
        best = probabilities.topk(min(5, len(probabilities)))
        labels = [self.model.config.id2label[index] for index in best.indices.tolist()]
        return {"class_labels": labels, "probabilities": best.values.tolist()}


@bentoml.service(workers=WORKERS)
class Echo:
    # async: the call costs no thread, which is BentoML at its fastest.
    @bentoml.api
    async def predict(self, image_data: str) -> dict:
        return {"size": len(base64.b64decode(image_data))}
