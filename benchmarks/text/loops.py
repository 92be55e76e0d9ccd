"""`python -m benchmarks.text.loops`: what can run a model, side by side in one process, none of it compiled.

A Llama of 6 M parameters: one contiguous cache, pages, row by row. A Mistral of that size, whose window of 64 tokens
only the last two know. Tokens for each second of CPU time, on one thread: others may use the machine meanwhile.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, MistralConfig
from transformers.utils.logging import disable_progress_bar

from benchmarks.load import generate
from benchmarks.models import save_llama
from benchmarks.text.bare_engine import complete
from benchmarks.text.text import POINTS, PROMPTS, Point
from deployments.engines.device import default_device, use_threads
from deployments.engines.probes import ProbeCache
from deployments.engines.text.decoders.decoder import Decoder
from deployments.engines.text.decoders.single import SingleDecoder
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop, EngineLoop
from deployments.engines.text.model import CausalModel
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.tokenizer import Tokenizer

ROWS, WAITING = 16, 64
LEAD_IN_S, SECONDS = 1.0, 3.0

Make = Callable[[CausalModel, RequestQueue], EngineLoop]


def _stepped(decoder: Callable[[CausalModel], Decoder]) -> Make:
    return lambda loaded, queue: DecoderLoop(loaded, decoder(loaded), queue, "")


CONTIGUOUS = _stepped(lambda loaded: SlotDecoder(loaded.model, loaded.nbytes))
ROW_BY_ROW = _stepped(lambda loaded: SingleDecoder(loaded.model, "past_key_values"))


CONTESTS: dict[str, dict[str, Make]] = {
    "llama": {"one contiguous cache": CONTIGUOUS, "pages (transformers)": PagedLoop, "row by row": ROW_BY_ROW},
    "mistral": {"pages (transformers)": PagedLoop, "row by row": ROW_BY_ROW},
}


def measure(folder: Path, make: Make, point: Point) -> float:
    """Tokens for each second of CPU time."""
    loaded, recorder = CausalModel.load(folder, default_device(), None, ProbeCache(None)), StatsRecorder()
    engine = TextGenerationEngine(
        loaded, Tokenizer.load(folder), make(loaded, RequestQueue(ROWS, WAITING, recorder)), recorder
    )

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
        for kind, contestants in CONTESTS.items():
            print(f"\n| {kind} | {' | '.join(point.name for point in POINTS)} |\n|---|{'---|' * len(POINTS)}")
            for name, make in contestants.items():
                rates = [measure(folders[kind], make, point) for point in POINTS]
                print(f"| {name} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
