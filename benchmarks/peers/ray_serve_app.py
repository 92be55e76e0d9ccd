"""Ray Serve alone: one deployment, default settings. Without --model: no model. Runs in the project's environment."""

import argparse
import base64
import signal
import sys
from io import BytesIO

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment
class Classifier:
    def __init__(self, folder):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.model = AutoModelForImageClassification.from_pretrained(folder).eval()

    async def __call__(self, request: Request):
        import torch
        from PIL import Image

        image_data = (await request.json())["image_data"]
        picture = Image.open(BytesIO(base64.b64decode(image_data))).convert("RGB")
        inputs = self.processor(picture, return_tensors="pt")
        with torch.inference_mode():
            probabilities = self.model(**inputs).logits.softmax(-1)[0]
        best = probabilities.topk(min(5, len(probabilities)))
        labels = [self.model.config.id2label[index] for index in best.indices.tolist()]
        return {"class_labels": labels, "probabilities": best.values.tolist()}


@serve.deployment(num_replicas=2)
class Multiplexed:
    """Many models, as Serve's documentation shows it: each is loaded by the replica that is first asked for it."""

    def __init__(self, folder):
        self.folder = folder

    @serve.multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id):
        return Classifier.func_or_class(f"{self.folder}/{model_id}")

    async def __call__(self, request: Request):
        classifier = await self.get_model(serve.get_multiplexed_model_id() or ".")
        return await classifier(request)


@serve.deployment
class Echo:
    async def __call__(self, request: Request):
        return {"size": len(base64.b64decode((await request.json())["image_data"]))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model")
    parser.add_argument("--multiplexed", action="store_true", help="with two replicas")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    classifier = Multiplexed if options.multiplexed else Classifier
    serve.run(classifier.bind(options.model) if options.model else Echo.bind())
    signal.pause()
