"""The AOT artifacts of one model: found on disk or compiled in a child process, checked, timed, then used.

Until then, and without a compiler, the decoder runs the model eagerly. Nothing here delays it.
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

from deployments.engines.device import resize_openmp_pool
from deployments.engines.text.compiled import compile_worker
from deployments.engines.text.compiled import modules as compiled_modules
from deployments.engines.text.compiled.modules import PromptModule, StepModule
from deployments.engines.text.compiled.runner import AotiRunner
from deployments.engines.text.layers import attention, int8, kv_cache, linear
from deployments.system.artifact_cache import ArtifactCache, digest_key
from deployments.system.worker_process import RequestFailed, WorkerFailed, WorkerProcess

log = logging.getLogger(__name__)

PAYS_AFTER_STEPS = 256  # Compiling takes a minute: it pays for models that are used more than this.
COMPILE_S = 1_800.0
NICENESS = 19
CACHE_BYTES = 1 << 30
"""Of all compiled forwards on disk: about 1 MB each."""
WORTH_IT = 1.0
"""A compiled forward is used if it is more than so many times as fast as the eager one."""
LIBRARY = "step.so"
COMPILERS = ("c++", "g++", "clang++")

Kind = Literal["single", "many", "prompts"]
"""The step of one row, the step of many, and prompts. They are made in this order."""

Step = Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]

_one_compile_at_a_time = threading.Lock()


class AotArtifacts:
    """The compiled forwards of one model. Its thread ends when all are there, or at `close`."""

    def __init__(self, model: PreTrainedModel, folder: Path, shapes: Sequence[tuple[int, int]], linears: str) -> None:
        self.settled = threading.Event()  # No further forward will come.
        self._model = model
        self._folder = folder.absolute()
        self._shapes = list(shapes)
        self._linears = linears
        self._threads = torch.get_num_threads()
        self._blocked_weights = {f"model.{name}": weight for name, weight in linear.blocked_weights(model).items()}
        self.ready: dict[Kind, AotiRunner] = {}
        """Those that there are by now. The one of prompts is for two tokens or more, and a prefix."""
        self._counted = 0
        self._requested = threading.Event()
        self._closed = False
        self._worker = WorkerProcess(compile_worker.__name__)
        self._thread = threading.Thread(target=self._prepare, name="text-aot", daemon=True)
        self._thread.start()

    def step(self, rows: int) -> Step | None:
        """The compiled step for `rows`, if there is one by now."""
        self._counted += 1
        if self._counted == PAYS_AFTER_STEPS:
            self.compile_soon()
        return self.ready.get("single" if rows == 1 else "many")

    def compile_soon(self) -> None:
        """Compile the forwards that are not on disk."""
        self._requested.set()

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """How the model runs, for the status page."""
        steps = ("compiled decode step",) if self.ready.keys() - {"prompts"} else ()
        return (*steps, "compiled prompts") if "prompts" in self.ready else steps

    def close(self) -> None:
        """Ends the child, if there is one, and the thread; drops the model."""
        self._closed = True
        self._requested.set()
        self._worker.close()
        self._thread.join()
        for forward in self.ready.values():
            forward.close()
        self.ready.clear()
        self._blocked_weights.clear()
        del self._model

    def _prepare(self) -> None:
        try:
            cache = ArtifactCache(Path(cache_dir()) / "text-steps", CACHE_BYTES)
            for kind in get_args(Kind):
                library = self._find(kind, cache) or self._make(kind, cache)
                if library is None or self._closed:
                    break
                self._load_and_check(kind, library)
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
        modules = (attention, kv_cache, compile_worker, int8, linear, compiled_modules)
        sources = [Path(module.__file__ or "").read_text() for module in modules]
        versions = [torch.__version__, transformers.__version__, torch.backends.cpu.get_cpu_capability()]
        return digest_key(versions, config, self._arguments(kind), sources)

    def _arguments(self, kind: Kind) -> list[Any]:
        dtype, kernel = str(self._model.dtype).removeprefix("torch."), self._model.config._attn_implementation
        form = "blocked" if kind == "single" and self._blocked_weights else kind
        return [dtype, kernel, self._linears, self._shapes, form, self._threads]

    def _make(self, kind: Kind, cache: ArtifactCache) -> Path | None:
        """Compiles in a child once it is requested; None without a compiler, or once closed."""
        if not any(shutil.which(compiler) for compiler in COMPILERS):
            return None
        self._requested.wait()
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
                self._worker.ask([NICENESS, library, str(self._folder), *self._arguments(kind)], COMPILE_S)
        except (RequestFailed, WorkerFailed) as failure:
            log.info("a forward does not compile: %s", failure)
            return None
        return self._find(kind, cache)

    @torch.inference_mode()
    def _load_and_check(self, kind: Kind, library: Path) -> None:
        """Keeps the library's forward if it matches the eager one and is faster."""
        eager: nn.Module = PromptModule(self._model) if kind == "prompts" else StepModule(self._model)
        compiled = AotiRunner(library, eager, self._blocked_weights if kind == "single" else {})
        mine, theirs = self._example(kind), self._example(kind)  # A step writes into its cache.
        wanted = [tensor for tensor in eager(*mine) if tensor.is_floating_point()]
        part = 1e-3 if self._model.dtype == torch.float32 else 0.1

        def matches(threads: int) -> bool:
            resize_openmp_pool(threads)
            given = [tensor for tensor in compiled(*theirs) if tensor.is_floating_point()]
            return all(
                bool(((one - other).abs() <= part * one.abs().max()).all())
                for one, other in zip(wanted, given, strict=True)
            )

        if not (matches(1) and matches(self._threads)):
            log.warning("a compiled forward differs from the eager one and is not used")
            compiled.close()
            return

        def seconds(forward: Callable[..., object]) -> float:
            start = time.perf_counter()
            forward(*mine)
            return time.perf_counter() - start

        # In turns, and the best of each, since others use the machine too.
        times = [(seconds(compiled), seconds(eager)) for _ in range(5)]
        if WORTH_IT * min(ours for ours, _ in times) < min(plain for _, plain in times):
            self.ready[kind] = compiled
        else:
            compiled.close()

    def _example(self, kind: Kind) -> tuple[Any, ...]:
        """Inputs of a forward of this kind, always the same."""
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
