"""Batch norms folded into the convolutions before them: the same numbers from a third fewer passes over memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@dataclass(frozen=True, slots=True)
class _Fold:
    convolution: nn.Conv2d
    weight: torch.Tensor
    bias: torch.Tensor | None
    norm: nn.BatchNorm2d
    parents: list[tuple[nn.Module, str]]


class Folding:
    """What was folded, and the way back."""

    def __init__(self, folds: list[_Fold]) -> None:
        self.count = len(folds)
        self._folds = folds

    def undo(self) -> None:
        for fold in self._folds:
            fold.convolution.weight, fold.convolution.bias = fold.weight, fold.bias
            for parent, name in fold.parents:
                setattr(parent, name, fold.norm)


def fold_batch_norms(model: nn.Module, run: Callable[[], object]) -> Folding:
    """Fold each norm whose input, in one `run` of the model, is the very tensor that a convolution made.

    That another part of the model reads that tensor too cannot be seen here: the caller compares the answers.
    """
    folds = []
    for convolution, norm in _pairs(model, run):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        parents = [
            (parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is norm
        ]
        folds.append(_Fold(convolution, convolution.weight, convolution.bias, norm, parents))
        convolution.weight, convolution.bias = _frozen(weight), _frozen(bias)
        for parent, name in parents:
            setattr(parent, name, nn.Identity())
    return Folding(folds)


def _pairs(model: nn.Module, run: Callable[[], object]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and norms that ran once each, one on the other's output."""
    outputs: list[tuple[nn.Conv2d, torch.Tensor]] = []  # kept alive, so that no two share an identity
    norms: list[tuple[nn.BatchNorm2d, torch.Tensor]] = []

    def made(convolution: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        outputs.append((convolution, output))

    def taken(norm: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        norms.append((norm, inputs[0]))

    hooks = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(made))
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            hooks.append(module.register_forward_hook(taken))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    makers = {id(output): convolution for convolution, output in outputs}
    pairs = [(makers[id(tensor)], norm) for norm, tensor in norms if id(tensor) in makers]
    convolutions = [convolution for convolution, _ in outputs]
    taken_by = [norm for norm, _ in norms]
    return [pair for pair in pairs if convolutions.count(pair[0]) == 1 and taken_by.count(pair[1]) == 1]


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=False)
