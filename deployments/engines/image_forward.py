"""The forward of an image classifier, in the form that is fastest on this device. Knows tensors, not pictures.

Each form is tried at load and kept only where it measures faster and answers the same: batch norms folded into their
convolutions, channels-last layout, all cores for one forward or a forward on each, the batch size, and, from a thread
behind the first answers, `torch.compile`.
"""

import logging
import shutil
import threading
import time
import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from deployments.engines.image_folding import fold_batch_norms

logger = logging.getLogger(__name__)

WORTH_COMPILING_S = 0.004
"""Below this a forward is mostly overhead: compiling it costs a minute of two cores and gains little."""
BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
MEASURING_S = 0.4
"""What measuring one form may take, beyond its first two runs."""
QUICK_S = 0.05
"""A forward that takes longer on one core gets all of them, since a lone caller waits for it. Otherwise each core runs
one of its own, on one picture: none waits for another at every operation, nor for a core that others use."""
SAME = 5e-6
"""Probabilities of a rearranged float32 forward may differ by this much."""

_one_compilation_at_a_time = threading.Lock()


class Forward:
    """Probabilities of a model, float32 [batch, labels], from pixel values of any float dtype.

    `batch_size` is the smallest batch that is within a tenth of the best throughput, `at_a_time` how many threads
    should call at the same time.
    """

    def __init__(self, model: Any, multi_label: bool, cores: int | None = None) -> None:
        """As the library runs it, until `tune`. `cores`: to compute on; as many as torch uses where it is not said."""
        self.batch_size = self.at_a_time = 1
        self.threads = cores or torch.get_num_threads()
        self.layout = torch.contiguous_format
        self.folded = 0
        self.compilation = "eager"
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._multi_label = multi_label
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._compiled_shape: torch.Size | None = None
        self._compiled_sizes = range(0)

    @property
    def notes(self) -> tuple[str, ...]:
        layout = "channels-last" if self.layout == torch.channels_last else "contiguous"
        folded = f", {self.folded} batch norms folded" if self.folded else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"forward: {self.compilation}, {layout}{folded}",
            f"largest batch: {self.batch_size}; {self.at_a_time} at a time, {threads} each",
        )

    @torch.inference_mode()
    def __call__(self, pixel_values: list[torch.Tensor]) -> torch.Tensor:
        """`pixel_values`: pictures of one shape, each [channels, height, width]. For any thread."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)  # of the calling thread
        batch = self._batched(pixel_values)
        compiled = self._compiled
        if compiled is not None and batch.shape[1:] == self._compiled_shape and len(batch) in self._compiled_sizes:
            return self._run(compiled, batch)
        return self._run(self._logits, batch)

    def tune(self, example: torch.Tensor, compile_forward: bool) -> None:
        """Find the fastest form for pictures like `example`, [channels, height, width]."""
        has_norms = any(isinstance(module, torch.nn.BatchNorm2d) for module in self._model.modules())
        if has_norms and self._dtype == torch.float32:
            self.folded = self._fold(example)
        one = self._choose_threads(example) if self._device.type == "cpu" else self._choose_layout(example)
        if self.at_a_time == 1 or one < WORTH_COMPILING_S:
            one = self._choose_batch_size(example)
            if self.batch_size > 1:
                self.at_a_time = 1  # Mostly overhead: one larger batch does more than several beside each other.
        if compile_forward and one >= WORTH_COMPILING_S and _can_compile(self._device):
            self.compilation = "eager, being compiled"
            arguments = (weakref.ref(self), example)
            threading.Thread(target=_compile_in_turn, args=arguments, name="compile", daemon=True).start()

    def _batched(self, pixel_values: list[torch.Tensor]) -> torch.Tensor:
        """Always the same strides, whatever the pictures came in: the compiled forward is made for one layout."""
        shape = (len(pixel_values), *pixel_values[0].shape)
        batch = torch.empty(shape, dtype=self._dtype, memory_format=self.layout)
        for row, item in zip(batch, pixel_values, strict=True):
            row.copy_(item)
        return batch.to(self._device)

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(pixel_values=batch).logits
        return logits

    def _run(self, logits_of: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        logits = logits_of(batch).float()
        return (logits.sigmoid() if self._multi_label else logits.softmax(-1)).cpu()

    def _fold(self, example: torch.Tensor) -> int:
        pictures = [example, torch.rand_like(example) * 2 - 1]
        before = self(pictures)
        folding = fold_batch_norms(self._model, lambda: self([example]))
        if (self(pictures) - before).abs().max() <= SAME:
            return folding.count
        folding.undo()
        return 0

    def _choose_threads(self, example: torch.Tensor) -> float:
        """Seconds for a picture alone, afterwards."""
        cores, self.threads = self.threads, 1
        one = self._choose_layout(example)
        if one > QUICK_S:
            self.threads = cores
        else:
            self.at_a_time = cores
        return one

    def _choose_layout(self, example: torch.Tensor) -> float:
        """Seconds for a picture alone, afterwards."""
        seconds = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            self._model.to(memory_format=layout)
            self.layout = layout
            seconds[layout] = fastest_of(partial(self, [example]))
        self.layout = min(seconds, key=lambda layout: seconds[layout])
        self._model.to(memory_format=self.layout)
        return seconds[self.layout]

    def _choose_batch_size(self, example: torch.Tensor) -> float:
        """Seconds for a batch of one."""
        per_picture: dict[int, float] = {}
        for size in BATCH_SIZES[self._device.type]:
            pictures = [example] * size
            try:
                per_picture[size] = fastest_of(partial(self, pictures)) / size
            except torch.OutOfMemoryError:
                break
            slower = per_picture[size] > (1.1 if per_picture[1] > WORTH_COMPILING_S else 2) * min(per_picture.values())
            if per_picture[1] > MEASURING_S or slower:
                break  # the device is busy with one already, or larger batches only fall out of its caches
        best = min(per_picture.values())
        self.batch_size = next(size for size, seconds in per_picture.items() if seconds <= 1.1 * best)
        return per_picture[1]

    def _compile(self, example: torch.Tensor) -> None:
        """inductor keeps its work on disk, so that the next start takes seconds."""
        torch.set_num_threads(self.threads)  # the compiler writes their number into the code
        try:
            compiled = torch.compile(_own_code(self._logits), fullgraph=True)
            sizes = self._compile_sizes(compiled, example)
            gain = self._gain(compiled, example, sizes)
        except Exception:
            logger.info("the forward stays eager: it cannot be compiled", exc_info=True)
            self.compilation = "eager (it cannot be compiled)"
            return
        if gain < 1.05:
            self.compilation = "eager (compiled it is no faster)"
            return
        self._compiled_shape, self._compiled_sizes, self._compiled = example.shape, sizes, compiled
        self.compilation = "compiled"

    @torch.inference_mode()
    def _compile_sizes(self, compiled: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor) -> range:
        """One code for one picture, another for any larger batch."""
        compiled(self._batched([example]))
        if self.batch_size == 1:
            return range(1, 2)
        batch = self._batched([example] * self.batch_size)
        torch._dynamo.mark_dynamic(batch, 0, min=2, max=self.batch_size)
        compiled(batch)
        return range(1, self.batch_size + 1)

    @torch.inference_mode()
    def _gain(self, compiled: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, sizes: range) -> float:
        """How many times faster the compiled forward is; 0 if it answers something else."""
        gains = []
        for size in {sizes[0], sizes[-1]}:
            batch = self._batched([example] * size)
            same = SAME if self._dtype == torch.float32 else 1e-2
            eager, fast = partial(self._run, self._logits, batch), partial(self._run, compiled, batch)
            if (eager() - fast()).abs().max() > same:
                return 0.0
            gains.append(fastest_of(eager) / fastest_of(fast))
        return min(gains)


def _compile_in_turn(reference: "weakref.ref[Forward]", example: torch.Tensor) -> None:
    """A forward that was dropped while others were compiled is not held here."""
    with _one_compilation_at_a_time:
        forward = reference()
        if forward is not None:
            forward._compile(example)


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


def _can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++"))


def _own_code(method: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """`method` under a code object of its own.

    What torch.compile makes hangs on the code object: shared, it would outlive the engine, and the ninth engine would
    find it full.
    """
    function = method.__func__
    return types.MethodType(types.FunctionType(function.__code__.replace(), function.__globals__), method.__self__)
