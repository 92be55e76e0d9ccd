"""The forward of an image classifier, in the form that is fastest on this device. Knows tensors, not pictures.

It starts as the library runs it. Behind the first answers, in a thread of its own, the model is compiled: for OpenVINO
on a CPU (`image_prepared`), by inductor on a GPU. It takes over where it answers the same and measures faster.
"""

import logging
import threading
import time
import types
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from deployments.engines.vision.inputs import Item, arguments, batch_of
from deployments.system.worker_process import WorkerFailed

logger = logging.getLogger(__name__)

BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
MEASURING_S = 0.2
"""What measuring one batch size once may take, beyond its first two runs."""
ROUNDS = 2
"""In which all of them are measured: others compute meanwhile, when a runtime starts."""
LIGHT_S = 0.02
"""A forward that takes one core no longer runs on one, and others beside it: no thread waits for another. Not where
batches pay: handing each picture over would take longer than computing it."""
BUSY_S = 0.05
"""A forward of one picture that takes longer has the device busy: no batches are tried."""
WORTH_WAITING = 1.25
"""So many times as many pictures a second a larger batch has to give: its callers wait for each other."""
WORTH_IT = 1.05
"""So many times faster a compiled forward has to be."""
SAME, SAME_ROUNDED = 5e-5, 0.05
"""By how much its probabilities may differ: from those of float32, of narrower floats (compiled, they are widened)."""
EAGER = "PyTorch, eager"

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Form:
    """One way to compute logits [batch, labels] from pixel values [batch, channels, height, width]."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    note: str
    resident_bytes: int
    batch_size: int = 1
    """The largest batch worth making."""
    at_once: int = 1
    """How many batches may be computed side by side, each on its share of the cores."""
    exclusive: Callable[[torch.Tensor], torch.Tensor] | None = None
    """`logits` on all cores, where there is a way of its own for what has them to itself."""
    own_threads: bool = False
    """Whether it brings its own. A team of torch's would spin after each copy, on the cores that the others need."""

    def with_exclusive(self, other: "Form") -> "Form":
        """This one, and `other`, which has all cores."""
        return replace(self, exclusive=other.logits, resident_bytes=self.resident_bytes + other.resident_bytes)


class Forward:
    """Probabilities of a model, float32 [batch, labels], from pixel values. For any thread.

    `cores`: to compute on. `model`: what `form` runs, as long as something else may take its place.
    """

    def __init__(self, form: Form, multi_label: bool, cores: int, model: Any = None) -> None:
        self.form = form
        self.cores = cores
        self.multi_label = multi_label
        self.model = model
        self.settled = threading.Event()
        """Set while nothing is being compiled that may replace `form`."""
        self.settled.set()

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Item], exclusive: bool = False) -> torch.Tensor:
        """`pictures`: of one shape. `exclusive`: nothing else computes."""
        form = self.form
        threads = 1 if form.own_threads else self.cores
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of the calling thread
        logits = (form.exclusive if exclusive and form.exclusive else form.logits)(batch_of(pictures)).float()
        return (logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu()

    def beside(self, form: Form) -> "Forward":
        return Forward(form, self.multi_label, self.cores)

    @property
    def runtime_info(self) -> tuple[str, ...]:
        form = self.form
        threads = self.cores // form.at_once
        each = f"{threads} thread{'s' if threads > 1 else ''}"
        lone = f"; alone on {self.cores}" if form.exclusive else ""
        return (f"forward: {form.note}", f"largest batch: {form.batch_size}; {form.at_once} at once, on {each}{lone}")

    def tune(self, example: Item) -> None:
        """Finds the batch size for pictures like `example`."""
        size, _ = best_batch_size(lambda _: self, example, BATCH_SIZES[self.model.device.type])
        self.form = replace(self.form, batch_size=size)

    def compile(self, example: torch.Tensor, compiler: "Compiler") -> None:
        """In the background, for pictures of the shape of `example`, unless it was tried before in vain."""
        if compiler.rejected is not None or not compiler.tunes:
            self.tune(example)
        if compiler.rejected is not None:
            self.form = replace(self.form, note=compiler.rejected)
            return
        self.form = replace(self.form, note=f"{EAGER}, being compiled")
        arguments = (weakref.ref(self), self.settled, example, compiler)
        self.settled.clear()
        threading.Thread(target=_compile_in_turn, args=arguments, daemon=True).start()


class Compiler(Protocol):
    tunes: bool
    """Whether what it makes has its own batch size. The library's is looked for only where that stays: its larger
    batches take hundreds of MiB, and seconds to be tried."""
    rejected: str | None
    """Why an earlier load left the model as it is, as a note."""

    def found(self) -> Form | None:
        """What an earlier load made."""

    def prepare(self, example: torch.Tensor) -> None:
        """What takes long and needs no forward. Raises whatever it meets in a model that it cannot take, OSError and
        WorkerFailed where another attempt may end otherwise."""

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        """As `prepare`."""

    def settle(self, form: Form) -> None:
        """What it came to in the end: the form that was made, or another one whose note says why."""


def eager(model: Any) -> Form:
    """As the library runs it."""
    model.to(memory_format=torch.channels_last)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(**arguments(batch, model)).logits
        return answer

    return Form(logits, EAGER, storage_bytes(model))


class Inductor(Compiler):
    """One code for one picture, another for any larger batch. Inductor keeps its work on disk by itself."""

    tunes = False
    rejected: str | None = None

    def found(self) -> Form | None:
        """Nothing that could be used without the model."""

    def prepare(self, example: torch.Tensor) -> None:
        """Nothing."""

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        form = forward.form
        compiled = torch.compile(_own_code(form.logits), fullgraph=True)
        with torch.inference_mode():
            compiled(example[None])
            if form.batch_size > 1:
                batch = torch.stack([example] * form.batch_size)
                torch._dynamo.mark_dynamic(batch, 0, min=2, max=form.batch_size)
                compiled(batch)
        return replace(form, logits=compiled, note="compiled by inductor")

    def settle(self, form: Form) -> None:
        """Nothing to keep."""


def _compile_in_turn(
    reference: "weakref.ref[Forward]", settled: threading.Event, example: torch.Tensor, compiler: Compiler
) -> None:
    """Holds the forward only while it measures, so that an engine that is closed meanwhile frees its memory."""
    with _one_at_a_time:
        failure = None
        try:
            if reference() is not None:
                compiler.prepare(example)
        except Exception as error:
            failure = error
        if (forward := reference()) is not None:
            _settle(forward, example, compiler, failure)
        settled.set()


def _settle(forward: Forward, example: torch.Tensor, compiler: Compiler, failure: Exception | None) -> None:
    form, note, lasting = None, f"{EAGER} (it cannot be compiled)", True
    try:
        if failure is not None:
            raise failure
        form = compiler.compile(forward, example)
        times_faster = gain(forward, form, example)
        if times_faster < WORTH_IT:
            reason = "is no faster" if times_faster else "answers something else"
            form, note = None, f"{EAGER} (compiled it {reason})"
    except Exception as error:
        logger.info("the forward stays eager", exc_info=True)
        form, lasting = None, not isinstance(error, OSError | WorkerFailed)
    if form is None:
        if compiler.tunes:
            forward.tune(example)
        form = replace(forward.form, note=note)
    if lasting:
        compiler.settle(form)
    forward.form, forward.model = form, None


def gain(forward: Forward, form: Form, example: torch.Tensor) -> float:
    """How many times faster `form` is; 0 if it answers something else."""
    other = forward.beside(form)
    noise = torch.Generator().manual_seed(0)  # What comes out is kept: it shall be the same each time.
    pictures = [example, torch.rand(example.shape, generator=noise) * 2 - 1]
    same = SAME if forward.model.dtype == torch.float32 else SAME_ROUNDED
    expected = torch.cat([forward([picture]) for picture in pictures])
    for exclusive in (True, False):
        answers = torch.cat([other([picture], exclusive) for picture in pictures])
        if not (answers - expected).abs().max() <= same:
            return 0.0
    size = form.batch_size
    batch = (pictures * size)[:size]
    if not (other(batch) - torch.cat([answers] * size)[:size]).abs().max() <= same:
        return 0.0  # it mixes the pictures of a batch
    return fastest_of(partial(forward, [example])) / fastest_of(partial(other, [example]))


def best_batch_size(forward_of: Callable[[int], Forward], example: Item, sizes: tuple[int, ...]) -> tuple[int, float]:
    """The smallest that no other beats by WORTH_WAITING, and the seconds that a picture takes in the fastest.

    `forward_of`: what would run batches of a size.
    """
    per_picture: dict[int, float] = {}
    for _ in range(ROUNDS):
        for size in sizes:
            try:
                seconds = fastest_of(partial(forward_of(size), [example] * size)) / size
            except torch.OutOfMemoryError:
                break
            per_picture[size] = min(seconds, per_picture.get(size, seconds))
            if per_picture[1] > BUSY_S or seconds > 1.1 * min(per_picture.values()):
                break  # or larger batches only fall out of its caches
    best = min(per_picture.values())
    return next(size for size, seconds in per_picture.items() if seconds <= WORTH_WAITING * best), best


def fastest_of(run: Callable[[], object]) -> float:
    """Seconds of the fastest of up to ten runs, the first left out: noise only ever adds."""
    run()
    best, until = float("inf"), time.perf_counter() + MEASURING_S
    for _ in range(10):
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        best = min(best, end - start)
        if end > until:
            break
    return best


def _own_code(function: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """`function` under a code object of its own.

    What torch.compile makes hangs on the code object: shared, it would outlive the engine, and the ninth engine would
    find it full.
    """
    code, closure = function.__code__.replace(), function.__closure__
    return types.FunctionType(code, function.__globals__, function.__name__, None, closure)


def storage_bytes(model: torch.nn.Module) -> int:
    """Bytes of distinct tensor storage under a model's parameters and buffers; tied weights count once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in [*model.parameters(), *model.buffers()]
    }
    return sum(storages.values())
