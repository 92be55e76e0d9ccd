"""fastembed on a local ONNX export behind FastAPI and uvicorn, asked and answering as OpenAI's /v1/embeddings."""

import argparse

import uvicorn
from fastapi import FastAPI
from fastembed import TextEmbedding
from pydantic import BaseModel


class Body(BaseModel):
    input: list[str]


def build(folder):
    app = FastAPI()
    model = TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", specific_model_path=folder)

    # Not async: FastAPI calls it in a thread, so that the loop stays free.
    @app.post("/v1/embeddings")
    def route(body: Body):
        vectors = model.embed(body.input, batch_size=64)
        data = [{"object": "embedding", "index": n, "embedding": v.tolist()} for n, v in enumerate(vectors)]
        return {"object": "list", "data": data}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    uvicorn.run(build(options.model), host="127.0.0.1", port=options.port, log_level="warning")
