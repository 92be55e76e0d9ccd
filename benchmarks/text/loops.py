"""`python -m benchmarks.text.loops`: the rows of the engine table, side by side in one process.

A Llama of 6 M parameters, and a Mistral of that size with a window of 64 tokens. Tokens for each second of CPU time, on
one thread: others may use the machine meanwhile.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, MistralConfig
from transformers.utils.logging import disable_progress_bar

from benchmarks.models import save_llama
from benchmarks.text.bare_engine import complete
from benchmarks.text.text import POINTS, PROMPTS, Point
from deployments.engines.device import default_device, use_threads
from deployments.engines.text.decoders.model import CausalModel
from deployments.engines.text.decoders.single import SingleDecoder
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.openvino.artifacts import read_or_make
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.select_backend import Selected
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.tokenizer import Tokenizer
from deployments.system.artifact_cache import ArtifactCache
from serve_app.bench.loops import generate

ROWS, WAITING = 16, 64
LEAD_IN_S, SECONDS = 1.0, 3.0

Make = Callable[[Path, RequestQueue], Selected]


def _openvino(folder: Path, queue: RequestQueue) -> Selected:
    cache = ArtifactCache(folder.parent / "converted", 1 << 30)
    compiled, about = read_or_make(folder, None, 1, cache)
    decoder = PagedDecoder(compiled, about.weight_bytes, ROWS, about.context)
    return Selected(DecoderLoop(about.facts, decoder, queue, ""), about.facts, about.weight_bytes)


def _pages(folder: Path, queue: RequestQueue) -> Selected:
    loaded = CausalModel.load(folder, default_device(), None)
    return Selected(PagedLoop(loaded, queue), loaded, loaded.nbytes)


def _row_by_row(folder: Path, queue: RequestQueue) -> Selected:
    loaded = CausalModel.load(folder, default_device(), None)
    loop = DecoderLoop(loaded, SingleDecoder(loaded.model, "past_key_values"), queue, "")
    return Selected(loop, loaded, loaded.nbytes)


LOOPS: dict[str, Make] = {"OpenVINO": _openvino, "pages (transformers)": _pages, "row by row": _row_by_row}


def measure(folder: Path, make: Make, point: Point) -> float:
    """Tokens for each second of CPU time."""
    recorder = StatsRecorder()
    engine = TextGenerationEngine(make(folder, RequestQueue(ROWS, WAITING, recorder)), Tokenizer.load(folder), recorder)

    async def ask(prompt: str, length: int) -> int:
        return (await complete(engine, prompt, length))[1]

    async def run(seconds: float) -> None:
        await generate(ask, PROMPTS, point.connections, point.lengths, 0, seconds)

    try:
        asyncio.run(run(LEAD_IN_S))
        tokens, used_s = recorder.generated_tokens, time.process_time()
        asyncio.run(run(SECONDS))
        return (recorder.generated_tokens - tokens) / (time.process_time() - used_s)
    finally:
        engine.close()


def save_mistral(llama: Path, folder: Path) -> Path:
    """With the Llama's tokenizer and shape."""
    source = AutoModelForCausalLM.from_pretrained(llama).config
    config = MistralConfig(
        num_hidden_layers=source.num_hidden_layers,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_attention_heads=source.num_attention_heads,
        num_key_value_heads=source.num_attention_heads,
        vocab_size=source.vocab_size,
        max_position_embeddings=source.max_position_embeddings,
        initializer_range=source.initializer_range,
        sliding_window=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in llama.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def main() -> None:
    disable_progress_bar()
    use_threads(1)  # Those of a team wait for each other in circles, which CPU time would count.
    with tempfile.TemporaryDirectory() as place:
        llama = save_llama(Path(place) / "llama")
        folders = {"llama": llama, "mistral": save_mistral(llama, Path(place) / "mistral")}
        for kind, folder in folders.items():
            print(f"\n| {kind} | {' | '.join(point.name for point in POINTS)} |\n|---|{'---|' * len(POINTS)}")
            for name, make in LOOPS.items():
                rates = [measure(folder, make, point) for point in POINTS]
                print(f"| {name} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
