"""LitServe as its documentation shows it: AutoImageProcessor and an eager forward. Without --model: no model."""

import argparse
import base64
import os
from io import BytesIO

import litserve as ls
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification


class Classifier(ls.LitAPI):
    def __init__(self, folder, threads, **options):
        super().__init__(**options)
        self.folder, self.threads = folder, threads

    def setup(self, device):
        torch.set_num_threads(self.threads)
        self.processor = AutoImageProcessor.from_pretrained(self.folder)
        self.model = AutoModelForImageClassification.from_pretrained(self.folder).to(device).eval()

    def decode_request(self, request):
        return Image.open(BytesIO(base64.b64decode(request["image_data"]))).convert("RGB")

    def predict(self, picture):
        return self.probabilities([picture])[0]

    def probabilities(self, pictures):
        inputs = self.processor(pictures, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            return self.model(**inputs).logits.softmax(-1)

    def encode_response(self, probabilities):
        best = probabilities.topk(min(5, len(probabilities)))
        labels = [self.model.config.id2label[index] for index in best.indices.tolist()]
        return {"class_labels": labels, "probabilities": best.values.tolist()}


class BatchingClassifier(Classifier):
    def batch(self, pictures):
        return pictures

    def predict(self, pictures):
        return self.probabilities(pictures)

    def unbatch(self, probabilities):
        return list(probabilities)


class Echo(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return base64.b64decode(request["image_data"])

    def predict(self, image_data):
        return len(image_data)

    def encode_response(self, size):
        return {"size": size}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model")
    parser.add_argument("--max-batch-size", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.model is None:
        api = Echo()
    else:
        threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
        batching = options.max_batch_size > 1
        kind = BatchingClassifier if batching else Classifier
        # What has arrived by then is one batch; a longer wait only costs a lone request more.
        batch_timeout = 0.01 if batching else 0.0
        api = kind(options.model, threads, max_batch_size=options.max_batch_size, batch_timeout=batch_timeout)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=options.workers)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
