"""Compiles an image classifier in the background, for OpenVINO or by inductor, while the eager form answers.

The compiled form replaces the eager one where it gives the same answers and measures faster. Which compiler it is, this
module does not know.
"""

import logging
import threading
import weakref
from dataclasses import replace
from functools import partial

import torch

from deployments.engines.measuring import fastest_of
from deployments.engines.vision.forward import EAGER, Form, Forward
from deployments.system.worker_process import WorkerFailed

logger = logging.getLogger(__name__)

WORTH_IT = 1.05
"""A compiled form must be so many times as fast."""
SAME, SAME_ROUNDED = 5e-5, 0.05
"""By how much its probabilities may differ: from float32, and from narrower floats (they are widened when compiled)."""

_one_at_a_time = threading.Lock()


class Compiler:
    """A compiler of one model. Without more it compiles nothing."""

    tunes = False
    """Whether a compiled form has its own batch size. The eager form's batch size is measured only where the eager form
    stays: its larger batches take hundreds of MiB, and seconds to try."""
    rejected: str | None = None
    """Why an earlier load kept the eager form, as a note; None: it did not."""

    def found(self) -> Form | None:
        """The form that an earlier load compiled."""
        return None

    def prepare(self, example: torch.Tensor) -> None:
        """The part that takes long and needs no forward. Raises anything for a model that cannot be compiled, OSError
        and WorkerFailed where another attempt may succeed."""

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        """As `prepare`."""
        raise NotImplementedError

    def settle(self, form: Form) -> None:
        """Keeps the result for later loads: the compiled form, or another one, whose note gives the reason."""


def compile_in_background(forward: Forward, example: torch.Tensor, compiler: Compiler) -> None:
    """For images of the shape of `example`, unless an earlier load rejected it. `forward.settled` is set at the end."""
    if compiler.rejected is not None or not compiler.tunes:
        forward.tune(example)
    if compiler.rejected is not None:
        forward.form = replace(forward.form, note=compiler.rejected)
        return
    forward.form = replace(forward.form, note=f"{EAGER}, being compiled")
    forward.settled.clear()
    arguments = (weakref.ref(forward), forward.settled, example, compiler)
    threading.Thread(target=_compile_in_turn, args=arguments, daemon=True).start()


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
    """How many times as fast `form` is; 0 where its answers differ."""
    other = forward.with_form(form)
    noise = torch.Generator().manual_seed(0)  # The result is kept: the examples must be the same each time.
    items = [example, torch.rand(example.shape, generator=noise) * 2 - 1]
    same = SAME if forward.model.dtype == torch.float32 else SAME_ROUNDED
    expected = torch.cat([forward([item]) for item in items])
    for exclusive in (True, False):
        answers = torch.cat([other([item], exclusive) for item in items])
        if not (answers - expected).abs().max() <= same:
            return 0.0
    size = form.batch_size
    batch = (items * size)[:size]
    if not (other(batch) - torch.cat([answers] * size)[:size]).abs().max() <= same:
        return 0.0  # it mixes the images of a batch
    return fastest_of(partial(forward, [example])) / fastest_of(partial(other, [example]))
