"""Builds models one at a time, since `from_pretrained` is not thread-safe.

While it builds, transformers changes torch's default dtype and functions of `torch.nn.init` for the whole process.
Two builds at once gave tensors of the wrong dtype in 96 of 160 models, and the changes stayed. Only the building is
serialised, a tenth of a second for 15 MB; the rest of a load runs beside others.
"""

import functools
import threading
from typing import Any

from transformers import PreTrainedModel

_one_at_a_time = threading.RLock()


def leave_file(model: PreTrainedModel) -> None:
    """Copies the tensors that still lie in the mapping of the weight file. The mapping is freed with its last tensor.

    Where most weights were rearranged, the few that were not would keep the whole file in memory.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_mkldnn:  # these have memory of their own
            tensor.data = tensor.data.clone()


def build_in_turn() -> None:
    """Replaces `from_pretrained`, for every engine of this process. May be called more than once."""
    method = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    if getattr(method, "in_turn", False):
        return

    @functools.wraps(method)
    def in_turn(cls: Any, *arguments: Any, **options: Any) -> Any:
        with _one_at_a_time:
            return method(cls, *arguments, **options)

    in_turn.in_turn = True  # type: ignore[attr-defined]
    PreTrainedModel.from_pretrained = classmethod(in_turn)  # type: ignore[method-assign, assignment]
