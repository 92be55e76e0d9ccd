"""Compiled forwards of one model: found on disk or made in a child process, checked, timed, then offered.

Until then, and where there is no compiler, the decoder runs the model eagerly. Nothing here delays it.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import cache_dir
from transformers import PreTrainedModel

from deployments.engines.device import use_team
from deployments.engines.text.compiled import compile_worker
from deployments.engines.text.compiled import modules as text_modules
from deployments.engines.text.compiled.modules import PromptModule, StepModule
from deployments.engines.text.compiled.runner import CompiledForward
from deployments.engines.text.layers import attention as text_attention
from deployments.engines.text.layers import int8, kv_cache, linear
from deployments.system.artifact_cache import ArtifactCache, digest_key
from deployments.system.worker_process import Limits, RequestFailed, WorkerFailed, WorkerProcess

log = logging.getLogger(__name__)

PAYS_AFTER_STEPS = 256  # A model that is used less is not worth a minute of compiling.
COMPILE_S = 1_800.0
NICENESS = 19
CACHE_BYTES = 1 << 30
"""Of all compiled forwards on disk: about 1 MB each."""
WORTH_IT = 1.0
"""So many times faster than the eager forward a compiled one has to be."""
LIBRARY = "step.so"
COMPILERS = ("c++", "g++", "clang++")

Kind = Literal["single", "many", "prompts"]
"""The step of one row, the step of many, and prompts. They are made in this order."""

Step = Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
Prompts = Callable[..., Sequence[Tensor]]

_one_compile_at_a_time = threading.Lock()


class Programs:
    """What is compiled of one model. Its thread ends when all is there, or at `close`."""

    def __init__(self, model: PreTrainedModel, folder: Path, shapes: Sequence[tuple[int, int]], linears: str) -> None:
        self.settled = threading.Event()  # Nothing more will come.
        self._model = model
        self._folder = folder.absolute()
        self._shapes = list(shapes)
        self._linears = linears
        self._threads = torch.get_num_threads()
        self._blocks = {f"model.{name}": weight for name, weight in linear.weight_blocks(model).items()}
        self._ready: dict[Kind, CompiledForward] = {}
        self._counted = 0
        self._wanted = threading.Event()
        self._closed = False
        self._worker = WorkerProcess(compile_worker.__name__, Limits(niceness=NICENESS))
        self._thread = threading.Thread(target=self._prepare, name="text-programs", daemon=True)
        self._thread.start()

    def step(self, rows: int) -> Step | None:
        """The compiled step for so many rows, if there is one by now."""
        self._counted += 1
        if self._counted == PAYS_AFTER_STEPS:
            self.want()
        return self._ready.get("single" if rows == 1 else "many")

    @property
    def prompts(self) -> Prompts | None:
        """The compiled forward of prompts, if there is one by now: two or more, with something known."""
        return self._ready.get("prompts")

    def want(self) -> None:
        """Compile what is not on disk."""
        self._wanted.set()

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """What a status page should say of it."""
        steps = ("compiled decode step",) if self._ready.keys() - {"prompts"} else ()
        return (*steps, "compiled prompts") if "prompts" in self._ready else steps

    def close(self) -> None:
        """Ends the child, if there is one, and the thread; drops the model."""
        self._closed = True
        self._wanted.set()
        self._worker.close()
        self._thread.join()
        for forward in self._ready.values():
            forward.close()
        self._ready.clear()
        self._blocks.clear()
        del self._model

    def _prepare(self) -> None:
        try:
            cache = ArtifactCache(Path(cache_dir()) / "text-steps", CACHE_BYTES)
            for kind in get_args(Kind):
                library = self._find(kind, cache) or self._make(kind, cache)
                if library is None or self._closed:
                    break
                self._offer(kind, library)
        except Exception as failure:  # Whatever it is: the eager forwards serve.
            log.info("no compiled forward: %s", failure)
        finally:
            self._worker.close()
            self.settled.set()

    def _find(self, kind: Kind, cache: ArtifactCache) -> Path | None:
        entry = cache.find(self._key(kind))
        return entry / LIBRARY if entry else None

    def _key(self, kind: Kind) -> str:
        """Of all that the code of the library depends on."""
        config = {key: value for key, value in self._model.config.to_dict().items() if key != "_name_or_path"}
        modules = (text_attention, kv_cache, compile_worker, int8, linear, text_modules)
        sources = [Path(module.__file__ or "").read_text() for module in modules]
        versions = [torch.__version__, transformers.__version__, torch.backends.cpu.get_cpu_capability()]
        return digest_key(versions, config, self._arguments(kind), sources)

    def _arguments(self, kind: Kind) -> list[str]:
        shapes = ",".join(f"{heads}x{dim}" for heads, dim in self._shapes)
        dtype, attention = str(self._model.dtype).removeprefix("torch."), self._model.config._attn_implementation
        form = "blocks" if kind == "single" and self._blocks else kind
        return [dtype, attention, self._linears, shapes, form, str(self._threads)]

    def _make(self, kind: Kind, cache: ArtifactCache) -> Path | None:
        """Compiles in a child once it is wanted; None if there is no compiler or no time."""
        if not any(shutil.which(compiler) for compiler in COMPILERS):
            return None
        self._wanted.wait()
        while not _one_compile_at_a_time.acquire(timeout=0.2):
            if self._closed:
                return None
        try:
            # An equal model may have made it meanwhile.
            return self._find(kind, cache) or (None if self._closed else self._compile(kind, cache))
        finally:
            _one_compile_at_a_time.release()

    def _compile(self, kind: Kind, cache: ArtifactCache) -> Path | None:
        try:
            with cache.draft(self._key(kind)) as draft:
                library = str(draft / LIBRARY)
                self._worker.ask([str(self._folder), *self._arguments(kind), library], COMPILE_S)
        except (RequestFailed, WorkerFailed) as failure:
            log.info("a forward does not compile: %s", failure)
            return None
        return self._find(kind, cache)

    @torch.inference_mode()
    def _offer(self, kind: Kind, library: Path) -> None:
        """Load a library; keep it if it says what the eager forward says, sooner."""
        eager: nn.Module = PromptModule(self._model) if kind == "prompts" else StepModule(self._model)
        compiled = CompiledForward(library, eager, self._blocks if kind == "single" else {})
        mine, theirs = self._example(kind), self._example(kind)  # A step writes into its cache.
        wanted = [tensor for tensor in eager(*mine) if tensor.is_floating_point()]
        part = 1e-3 if self._model.dtype == torch.float32 else 0.1

        def agrees(threads: int) -> bool:
            use_team(threads)
            given = [tensor for tensor in compiled(*theirs) if tensor.is_floating_point()]
            return all(
                bool(((one - other).abs() <= part * one.abs().max()).all())
                for one, other in zip(wanted, given, strict=True)
            )

        if not (agrees(1) and agrees(self._threads)):
            log.warning("a compiled forward differs from the eager one and is not used")
            compiled.close()
            return

        def seconds(forward: Callable[..., object]) -> float:
            begun = time.perf_counter()
            forward(*mine)
            return time.perf_counter() - begun

        # In turns, and the best of each, since others use the machine too.
        times = [(seconds(compiled), seconds(eager)) for _ in range(5)]
        if WORTH_IT * min(ours for ours, _ in times) < min(plain for _, plain in times):
            self._ready[kind] = compiled
        else:
            compiled.close()

    def _example(self, kind: Kind) -> tuple[Any, ...]:
        """What a forward of this kind may be given; always the same."""
        if kind == "prompts":
            known, new = (0, 30, 3), (5, 19, 1)
            prompts = torch.arange(3).repeat_interleave(torch.tensor(new))
            positions = torch.cat([torch.arange(start, start + more) for start, more in zip(known, new, strict=True)])
            known_prompts = torch.arange(3).repeat_interleave(torch.tensor(known))
            known_positions = torch.cat([torch.arange(start) for start in known])
            caches = self._random([(heads, sum(known), dim) for heads, dim in self._shapes])
            last = torch.tensor(new).cumsum(0) - 1
            return positions % 7, positions, prompts, last, known_positions, known_prompts, *caches
        rows, columns = (1 if kind == "single" else 8), 128
        tokens, positions = torch.arange(rows) % 7, torch.arange(rows) * 11 % columns + 1
        return tokens, positions, *self._random([(rows, heads, columns, dim) for heads, dim in self._shapes])

    def _random(self, shapes: Sequence[tuple[int, ...]]) -> list[list[Tensor]]:
        """Keys and values."""
        generator, dtype = torch.Generator().manual_seed(0), self._model.dtype
        return [[torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(2)]
