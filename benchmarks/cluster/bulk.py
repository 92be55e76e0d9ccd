"""`python -m benchmarks.cluster.bulk`: mixed lines by `model-runtime batch`.

`runtime`: through a running runtime, once as a whole, once killed in the middle and run again. `own`: by the replicas'
own classes, one process a family, without HTTP, Serve and Ray. `actors`: by `--actors 2`, in Ray Data. `plain`: by Ray
Data with transformers' pipelines and nothing of ours. The last two need the extra `data`; `plain` gets a tenth of the
lines.
"""

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.environment import FOLDER, OUR_BIN
from benchmarks.models import jpeg, save_llama, save_mobilenet
from benchmarks.servers import Server, running, settle
from deployments.contract import wire
from deployments.contract.types import Error, ImageClassification, InferRequest, InferResponse, TextGeneration
from deployments.families.table import FAMILIES
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.families import ModelFormat
from serve_app.bulk import computed, spans_of
from serve_app.client.bulk import in_order
from serve_app.config.config import RuntimeConfig

TOKENS = 16
PICTURES = 16
"""Different ones."""
AT_ONCE = 64
ACTORS = 2
DEADLINE_S = 600.0
WAYS = ["runtime", "own", "actors", "plain"]
VARIANTS = {"text_generation": TextGeneration, "image_classification": ImageClassification}


def requests(count: int) -> list[InferRequest]:
    """Texts and pictures in turns, so that no two neighbours have the same answer."""
    pictures = [jpeg(96, 72, seed, at_most_bytes=8192) for seed in range(PICTURES)]
    return [
        ImageClassification(model_id="picture", image_data=pictures[number % PICTURES])
        if number % 2
        else TextGeneration(model_id="text", prompt=f"Line {number} begins", max_tokens=TOKENS, ignore_eos=True)
        for number in range(count)
    ]


def own(family_name: str, models: Path, lines: Path) -> None:
    """What a child does: it says when it is ready, waits for a word, and answers its family's lines."""
    family = next(family for family in FAMILIES if family.name == family_name)
    formats: dict[str, ModelFormat] = model_formats(FAMILIES)
    settings = RuntimeConfig().settings(family_name).model_copy(update={"num_gpus": 0.0})
    options = ReplicaOptions(family, models, formats, settings)
    known = options.repository().models()
    with lines.open("rb") as file:
        asked = [wire.decode(line, wire.JSON, InferRequest) for line in file]
    asked = [request for request in asked if isinstance(request, VARIANTS[family_name])]

    async def answer_all() -> None:
        replica = family.replica(options)  # type: ignore[call-arg]  # each family's class takes them
        await replica.ready()

        async def answer(request: InferRequest) -> InferResponse:
            number = next(numbers)
            call = Call(request, str(number), DEADLINE_S, known[request.model_id], call_id=str(number))
            return await replica.respond(call, None)

        numbers = iter(range(10**9))
        await asyncio.gather(*map(answer, asked[:AT_ONCE]))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begin, failed = time.perf_counter(), 0
        async for response in in_order(answer, asked, AT_ONCE):
            failed += isinstance(response, Error)
        print(json.dumps({"seconds": time.perf_counter() - begin, "failed": failed}), flush=True)

    asyncio.run(answer_all())


def engines_own(models: Path, lines: Path) -> float:
    """Seconds until both have answered their lines."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.cluster.bulk", "--child", family, str(models), str(lines), "-"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for family in VARIANTS
        ]
        for child in children:
            assert child.stdin
            assert child.stdout
            while child.stdout.readline().strip() != "ready":
                assert child.poll() is None, "the child ended"
        settle(60)
        for child in children:
            assert child.stdin
            print("go", file=child.stdin, flush=True)
        told = [json.loads(child.stdout.readline()) for child in children if child.stdout]
        print("the engines' own:", dict(zip(VARIANTS, told, strict=True)))
        return max(float(one["seconds"]) for one in told)


def batch(url: str, lines: Path, answers: Path) -> float:
    """Seconds, the command's start included."""
    begin = time.perf_counter()
    subprocess.run([str(OUR_BIN / "model-runtime"), "batch", str(lines), str(answers), "--url", url], check=True)
    return time.perf_counter() - begin


def killed_batch(url: str, lines: Path, answers: Path, count: int) -> float:
    """Seconds of both runs, the killed one's until it was killed."""
    command = [str(OUR_BIN / "model-runtime"), "batch", str(lines), str(answers), "--url", url]
    begin = time.perf_counter()
    killed = subprocess.Popen(command)
    while not answers.exists() or answers.read_bytes().count(b"\n") < count // 2:
        assert killed.poll() is None, "it ended by itself"
        time.sleep(0.2)
    killed.kill()
    killed.wait()
    done = answers.read_bytes().count(b"\n")
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    print(f"killed after {done} of {count} lines; {seconds:.1f} s in all")
    return seconds


def by_ray_data(what: str, models: Path, lines: Path, answers: Path) -> None:
    """What a child does, with a Ray of its own."""
    import ray

    from serve_app.local_ray import init_on_loopback

    init_on_loopback(num_cpus=ACTORS, object_store_memory=200 << 20, log_to_driver=False, logging_level=logging.ERROR)
    said: Iterator[bytes]
    if what == "actors":
        said = computed(RuntimeConfig(models=models), lines, spans_of(lines, 0), ACTORS)
    else:
        said = _plain(models, lines)
    begin, times = time.perf_counter(), list[float]()
    with answers.open("wb") as out:
        for answer in said:
            out.write(answer)
            times.append(time.perf_counter())
    # Without the start of the actors, and the lines that came with the first one's.
    late = [at for at in times if at - times[0] > 1.0]
    rate = len(late) / (times[-1] - times[0] - 1.0) if late else 0.0
    print(json.dumps({"first": times[0] - begin, "seconds": times[-1] - begin, "rate": rate}), flush=True)
    ray.shutdown()


def _plain(models: Path, lines: Path) -> Iterator[bytes]:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    items = [{"line": line} for line in lines.read_bytes().splitlines()]
    dataset: Any = ray.data.from_items(items, override_num_blocks=max(1, len(items) // AT_ONCE))
    pool = ray.data.ActorPoolStrategy(size=ACTORS)
    for row in dataset.map_batches(Pipelines, fn_constructor_args=(models,), compute=pool, num_cpus=1).iter_rows():
        yield row["answer"].encode() + b"\n"


class Pipelines:
    """As transformers' and Ray's pages have it: a pipeline for each kind, in batches."""

    def __init__(self, models: Path) -> None:
        import torch
        from transformers import AutoTokenizer, pipeline

        torch.set_num_threads(1)
        tokenizer: Any = AutoTokenizer.from_pretrained(models / "text", padding_side="left")
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        self.texts: Any = pipeline("text-generation", str(models / "text"), tokenizer=tokenizer)
        self.pictures: Any = pipeline("image-classification", str(models / "picture"))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        from PIL import Image

        requests = [wire.decode(line, wire.JSON, InferRequest) for line in batch["line"]]
        answers: dict[int, object] = {}
        texts = {n: one.prompt for n, one in enumerate(requests) if isinstance(one, TextGeneration)}
        pictures = {
            n: Image.open(BytesIO(one.image_data))
            for n, one in enumerate(requests)
            if isinstance(one, ImageClassification)
        }
        told = self.texts(list(texts.values()), max_new_tokens=TOKENS, do_sample=False, batch_size=16)
        answers |= dict(zip(texts, told, strict=True))
        answers |= dict(zip(pictures, self.pictures(list(pictures.values()), batch_size=16), strict=True))
        return {"answer": [json.dumps(answers[n]) for n in range(len(requests))]}


def ray_data(what: str, models: Path, lines: Path, answers: Path) -> float:
    """Its lines a second, once it computes."""
    command = [sys.executable, "-m", "benchmarks.cluster.bulk", "--child", what, str(models), str(lines), str(answers)]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    print(
        f"{what}: {told['rate']:.0f} lines/s, the first after {told['first']:.1f} s, all after {told['seconds']:.1f} s"
    )
    return float(told["rate"])


def check(asked: Sequence[InferRequest], answers: Path) -> None:
    """Raises AssertionError unless each line has its own answer."""
    said = [wire.decode(line, wire.JSON, InferResponse) for line in answers.read_bytes().splitlines()]
    assert len(said) == len(asked), f"{len(said)} answers for {len(asked)} lines"
    labels: dict[bytes, object] = {}
    for request, answer in zip(asked, said, strict=True):
        assert type(answer).__name__ == f"{type(request).__name__}Result", answer
        if isinstance(request, ImageClassification):
            label = getattr(answer, "class_labels", None)
            assert labels.setdefault(request.image_data, label) == label, "another picture's answer"
        else:
            assert answer.tokens > TOKENS
    print(f"{len(said)} lines, each answered once with its own result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=WAYS, help=", ".join(WAYS))
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *places = options.child
        models, lines, answers = map(Path, places)
        return own(what, models, lines) if what in VARIANTS else by_ray_data(what, models, lines, answers)
    with tempfile.TemporaryDirectory() as name:
        models, lines, answers = (Path(name) / part for part in ("models", "in.jsonl", "out.jsonl"))
        save_llama(models / "text")
        save_mobilenet(models / "picture")
        asked = requests(options.lines)
        lines.write_bytes(b"".join(wire.encode(request, wire.JSON) + b"\n" for request in asked))
        rates: dict[str, float] = {}
        for what in options.what:
            answers.unlink(missing_ok=True)
            if what == "runtime":
                for run, seconds in by_runtime(asked, models, lines, answers).items():
                    rates[run] = len(asked) / seconds
            elif what == "own":
                rates[what] = len(asked) / engines_own(models, lines)
            elif what == "actors":
                rates[what] = ray_data(what, models, lines, answers)
                check(asked, answers)
            else:
                rates[what] = ray_data(what, models, _first(lines, max(AT_ONCE, len(asked) // 10)), answers)
    print("| by | lines/s | / own |\n|---|---:|---:|")
    for what, rate in rates.items():
        print(
            f"| {what} | {rate:.0f} | {rate / rates['own']:.2f} |" if "own" in rates else f"| {what} | {rate:.0f} | |"
        )
    return None


def by_runtime(asked: Sequence[InferRequest], models: Path, lines: Path, answers: Path) -> dict[str, float]:
    """Seconds of each run."""
    server = Server(
        "model-runtime serve",
        (OUR_BIN / "model-runtime", "serve", "--models", models, "--port", "{port}"),
        "/infer",
        partial(json.loads),
        lambda reply: reply,
        {"PYTHONPATH": str(FOLDER.parent)},
    )
    with running(server, wire.encode(asked[0], wire.JSON)) as url:
        base, few = url.removesuffix("/infer"), _first(lines, 256)
        batch(base, few, few.with_suffix(".out"))
        settle(60)
        whole_s = batch(base, lines, answers)
        check(asked, answers)
        answers.unlink()
        settle(60)
        killed_s = killed_batch(base, lines, answers, len(asked))
        check(asked, answers)
    return {"runtime": whole_s, "runtime, killed and run again": killed_s}


def _first(lines: Path, count: int) -> Path:
    few = lines.with_name("few.jsonl")
    few.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:count]))
    return few


if __name__ == "__main__":
    main()
