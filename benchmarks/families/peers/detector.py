"""The `transformers` object-detection pipeline behind LitServe."""

import argparse
import base64
import os
from io import BytesIO

import litserve as ls
import torch
from PIL import Image
from transformers import pipeline


class Detector(ls.LitAPI):
    def __init__(self, folder, threads, **options):
        super().__init__(**options)
        self.folder, self.threads = folder, threads

    def setup(self, device):
        torch.set_num_threads(self.threads)
        self.detect = pipeline("object-detection", model=self.folder, device=device)

    def decode_request(self, request):
        asked = request["ObjectDetection"]
        picture = Image.open(BytesIO(base64.b64decode(asked["image_data"]))).convert("RGB")
        return picture, asked["threshold"]

    def predict(self, asked):
        picture, threshold = asked
        return self.detect(picture, threshold=threshold)

    def encode_response(self, objects):
        return {"objects": objects}


class BatchingDetector(Detector):
    def batch(self, requests):
        return requests

    def predict(self, requests):
        pictures = [picture for picture, _ in requests]
        return self.detect(pictures, threshold=requests[0][1], batch_size=len(pictures))

    def unbatch(self, answers):
        return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    batching = options.batch > 1
    kind = BatchingDetector if batching else Detector
    # What has arrived by then is one batch; a longer wait only costs a lone request more.
    api = kind(options.model, threads, max_batch_size=options.batch, batch_timeout=0.01 if batching else 0.0)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=options.workers)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
