"""sentence-transformers behind LitServe, asked and answering as OpenAI's /v1/embeddings."""

import argparse

import litserve as ls
from sentence_transformers import SentenceTransformer


class Encoder(ls.LitAPI):
    def __init__(self, folder, **options):
        super().__init__(**options)
        self.folder = folder

    def setup(self, device):
        self.model = SentenceTransformer(self.folder, device=device)

    def decode_request(self, request):
        return request["input"]

    def predict(self, texts):
        return self.model.encode(texts, batch_size=64)

    def encode_response(self, vectors):
        data = [{"object": "embedding", "index": n, "embedding": v.tolist()} for n, v in enumerate(vectors)]
        return {"object": "list", "data": data}


class BatchingEncoder(Encoder):
    def batch(self, requests):
        return requests

    def predict(self, requests):
        vectors = iter(self.model.encode([text for texts in requests for text in texts], batch_size=64))
        return [[next(vectors) for _ in texts] for texts in requests]

    def unbatch(self, answers):
        return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    batching = options.batch > 1
    kind = BatchingEncoder if batching else Encoder
    # What has arrived by then is one batch; a longer wait only costs a lone request more.
    api = kind(options.model, max_batch_size=options.batch, batch_timeout=0.01 if batching else 0.0)
    server = ls.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
