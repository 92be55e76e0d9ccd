"""The `transformers` image-classification pipeline behind FastAPI and uvicorn."""

import argparse
import base64
import threading
from io import BytesIO

import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel
from transformers import pipeline


class Picture(BaseModel):
    image_data: str


def build(folder, one_at_a_time):
    app = FastAPI()
    classify = pipeline("image-classification", model=folder, device="cpu")
    turn = threading.Lock()

    # Not async: FastAPI calls it in a thread, so that the loop stays free.
    @app.post("/classify")
    def route(picture: Picture):
        image = Image.open(BytesIO(base64.b64decode(picture.image_data))).convert("RGB")
        if not one_at_a_time:
            return classify(image, top_k=5)
        with turn:
            return classify(image, top_k=5)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--one-at-a-time", action="store_true")
    options = parser.parse_args()
    app = build(options.model, options.one_at_a_time)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")
