"""OpenVINO GenAI's continuous batching behind a thin HTTP server: one thread steps, requests wait for their end.

--model is a folder of transformers with `openvino_model.xml` beside it, as `benchmarks.text.genai.converted` makes it.
"""

import argparse
import asyncio
import json
import os
import threading

import numpy as np
import openvino_genai as genai
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from openvino import Tensor
from tokenizers import Tokenizer


class Pipeline:
    """Adds requests and steps until all have ended; only its own thread touches the pipeline."""

    def __init__(self, folder, cache_gb):
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size, scheduler.enable_prefix_caching = cache_gb, True
        properties = {"INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
        if precision := os.environ.get("PRECISION"):
            properties |= {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
        self.pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        # openvino_tokenizers does not convert one without merges.
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.changed, self.waiting, self.number = threading.Condition(), [], 0
        threading.Thread(target=self.run, daemon=True).start()

    async def tokens(self, prompt, length):
        """Lists of new tokens, as they come."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        with self.changed:
            self.waiting.append((prompt, length, lambda new: loop.call_soon_threadsafe(queue.put_nowait, new)))
            self.changed.notify()
        while new := await queue.get():
            yield new

    def run(self):
        running = {}
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or running)
                waiting, self.waiting = self.waiting, []
            for prompt, length, emit in waiting:
                config = genai.GenerationConfig(max_new_tokens=length, do_sample=False, ignore_eos=True)
                config.eos_token_id, config.stop_token_ids = 0, {0}  # It wants one.
                self.number += 1
                ids = Tensor(np.array([self.tokenizer.encode(prompt).ids]))
                running[self.number] = self.pipeline.add_request(self.number, ids, config), emit
            self.pipeline.step()
            for number, (handle, emit) in list(running.items()):
                if handle.can_read():
                    for output in handle.read().values():
                        emit(output.generated_ids)
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    emit(None)
                    del running[number]


def application(pipeline):
    app = FastAPI()

    @app.post("/v1/completions")
    async def completions(request: Request):
        asked = await request.json()
        found = pipeline.tokens(asked["prompt"], asked["max_tokens"])
        if asked.get("stream"):
            return StreamingResponse(events(found), media_type="text/event-stream")
        ids = [token async for new in found for token in new]
        text = pipeline.tokenizer.decode(ids)
        return {"choices": [{"text": text}], "usage": {"completion_tokens": len(ids)}}

    async def events(found):
        async for new in found:
            yield f"data: {json.dumps({'choices': [{'text': pipeline.tokenizer.decode(new)}]})}\n\n"
        yield "data: [DONE]\n\n"

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache-gb", type=int, default=1)
    options = parser.parse_args()
    pipeline = Pipeline(options.model, options.cache_gb)
    uvicorn.run(application(pipeline), host="127.0.0.1", port=options.port, log_level="warning")
