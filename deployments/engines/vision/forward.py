"""The forward of an image classifier: probabilities from pixel values. Knows tensors, not images or compilers."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from deployments.engines.measuring import fastest_of
from deployments.engines.vision.inputs import Item, arguments, batch_of

BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
ROUNDS = 2
"""How often all batch sizes are measured: at start-up other processes compute meanwhile."""
BUSY_S = 0.05
"""A forward of one image that takes longer has the device busy: larger batches are not tried."""
WORTH_WAITING = 1.25
"""A larger batch must give so many times as many images a second, since its callers wait for each other."""
EAGER = "PyTorch, eager"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to compute logits [batch, labels] from pixel values [batch, channels, height, width]."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    note: str
    resident_bytes: int
    batch_size: int = 1
    """The largest batch that pays."""
    at_once: int = 1
    """How many batches may be computed side by side, each on its share of the cores."""
    exclusive: Callable[[torch.Tensor], torch.Tensor] | None = None
    """`logits` on all cores, where it is compiled separately for the case that nothing else computes."""
    threads: int | None = None
    """How many threads of its own it has. Then torch's OpenMP pool would only spin on their cores after each copy."""

    def with_exclusive(self, other: "Form") -> "Form":
        """This form; `other`, which has all cores, where nothing else computes."""
        return replace(self, exclusive=other.logits, resident_bytes=self.resident_bytes + other.resident_bytes)


class Forward:
    """Probabilities, float32 [batch, labels], on `cores` cores. For any thread.

    `form` may be replaced while others call. `model`: what `form` runs, while it may still be compiled.
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
    def __call__(self, items: Sequence[Item], exclusive: bool = False) -> torch.Tensor:
        """`items`: of one shape. `exclusive`: nothing else computes meanwhile."""
        form = self.form
        threads = 1 if form.threads else self.cores
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of the calling thread
        compute = form.exclusive if exclusive and form.exclusive else form.logits
        logits = compute(batch_of(items)).float()
        return (logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu()

    def with_form(self, form: Form) -> "Forward":
        return Forward(form, self.multi_label, self.cores)

    @property
    def runtime_info(self) -> tuple[str, ...]:
        form = self.form
        threads = (form.threads or self.cores) // form.at_once
        each = f"{threads} thread{'s' if threads > 1 else ''}"
        alone = f"; alone on {self.cores}" if form.exclusive else ""
        return (f"forward: {form.note}", f"largest batch: {form.batch_size}; {form.at_once} at once, on {each}{alone}")

    def tune(self, example: Item) -> None:
        """Measures the batch size that pays for items like `example`."""
        size, _ = best_batch_size(lambda _: self, example, BATCH_SIZES[self.model.device.type])
        self.form = replace(self.form, batch_size=size)


def eager(model: Any) -> Form:
    """The model as transformers runs it."""
    model.to(memory_format=torch.channels_last)
    return Form(lambda batch: model(**arguments(batch, model)).logits, EAGER, storage_bytes(model))


def best_batch_size(
    forward_of: Callable[[int], Callable[[Sequence[Item]], object]], example: Item, sizes: tuple[int, ...]
) -> tuple[int, float]:
    """The smallest size that no other beats by WORTH_WAITING, and the seconds for an image in the fastest one.

    `forward_of`: the forward that would run batches of a size.
    """
    per_image: dict[int, float] = {}
    for _ in range(ROUNDS):
        for size in sizes:
            try:
                seconds = fastest_of(partial(forward_of(size), [example] * size)) / size
            except torch.OutOfMemoryError:
                break
            per_image[size] = min(seconds, per_image.get(size, seconds))
            if per_image[1] > BUSY_S or seconds > 1.1 * min(per_image.values()):
                break  # the device is busy, or larger batches no longer fit into its caches
    best = min(per_image.values())
    return next(size for size, seconds in per_image.items() if seconds <= WORTH_WAITING * best), best


def storage_bytes(model: torch.nn.Module) -> int:
    """Bytes of distinct tensor storage under a model's parameters and buffers; tied weights count once."""
    storages = (tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers()))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
