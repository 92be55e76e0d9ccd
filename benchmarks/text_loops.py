"""`python -m benchmarks.text_loops`: what can run a model, side by side in one process, none of it compiled.

A Llama of 6 M parameters: one contiguous cache, pages, row by row. A Mistral of that size, whose window of 64 tokens
only the last two know. Tokens a second; each is measured for some seconds at each point.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, MistralConfig
from transformers.utils.logging import disable_progress_bar

from benchmarks.bare_engine import complete
from benchmarks.load import Measure, generate
from benchmarks.models import save_llama
from benchmarks.report import Table
from benchmarks.text import POINTS, PROMPTS, Point
from deployments.engines.device import default_device, use_threads
from deployments.engines.text_decoders import SingleDecoder
from deployments.engines.text_generation import TextGenerationEngine
from deployments.engines.text_loop import Loop, StepLoop
from deployments.engines.text_model import CausalModel
from deployments.engines.text_paged import PagedLoop
from deployments.engines.text_slots import SlotDecoder
from deployments.engines.text_stats import Meter
from deployments.engines.text_step import Decoder
from deployments.engines.text_tokens import Tokens
from deployments.engines.trials import Trials

ROWS, WAITING = 16, 64
LEAD_IN_S, SECONDS = 1.0, 5.0

Make = Callable[[CausalModel, Meter], Loop]


def _stepped(decoder: Callable[[CausalModel], Decoder]) -> Make:
    return lambda loaded, meter: StepLoop(loaded, decoder(loaded), ROWS, WAITING, meter, ())


CONTIGUOUS = _stepped(lambda loaded: SlotDecoder(loaded.model, loaded.nbytes))
ROW_BY_ROW = _stepped(lambda loaded: SingleDecoder(loaded.model, "past_key_values"))


def pages(loaded: CausalModel, meter: Meter) -> Loop:
    return PagedLoop(loaded, ROWS, WAITING, meter)


CONTESTS: dict[str, dict[str, Make]] = {
    "llama": {"one contiguous cache": CONTIGUOUS, "pages (transformers)": pages, "row by row": ROW_BY_ROW},
    "mistral": {"pages (transformers)": pages, "row by row": ROW_BY_ROW},
}


def measure(folder: Path, make: Make, point: Point) -> Measure:
    loaded, meter = CausalModel.load(folder, default_device(), None, Trials(None)), Meter()
    engine = TextGenerationEngine(loaded, Tokens.load(folder), make(loaded, meter), meter)

    async def ask(prompt: str, length: int) -> int:
        return (await complete(engine, prompt, length))[1]

    try:
        return asyncio.run(generate(ask, PROMPTS, point.connections, point.lengths, LEAD_IN_S, SECONDS))
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
    use_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as place:
        llama = save_llama(Path(place) / "llama")
        folders = {"llama": llama, "mistral": save_mistral(llama, Path(place) / "mistral")}
        for kind, contestants in CONTESTS.items():
            results = {
                (point.name, name): [measure(folders[kind], make, point)]
                for point in POINTS
                for name, make in contestants.items()
            }
            table = Table(kind, "tokens/s", [point.name for point in POINTS], list(contestants), results)
            print(table.markdown(), flush=True)


if __name__ == "__main__":
    main()
