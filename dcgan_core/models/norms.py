"""Which statistics batch norm uses: the batch's own, running averages, or means re-estimated over batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

_BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
Net = TypeVar("Net", bound=nn.Module)


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """All batch norm layers, in the order of the module tree."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[nn.Module]:
    """Let batch norm use each batch's own statistics (the authors' way) without touching running averages."""
    norms, before = batch_norms(net), net.training
    net.train()
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield net
    finally:
        for norm in norms:
            norm.track_running_stats = True
        net.train(before)


def recalibrated(net: Net, batches: Iterable[Tensor], forward: Callable[[Net, Tensor], object]) -> Net:
    """A copy of ``net`` in eval mode whose running statistics are plain means over ``batches``.

    Each layer gets the mean of its batch means and *biased* batch variances, fed by layers that use the
    batch's own statistics, as in the authors' ``infer_bnorm_stats``. A layer that ``forward`` does not reach
    keeps what it had. The argument is left as it was. Raises ValueError where there are no batches.
    """
    net = copy.deepcopy(net)
    norms = batch_norms(net)
    sums = [_Sums() for _ in norms]
    hooks = [norm.register_forward_pre_hook(each.add) for norm, each in zip(norms, sums, strict=True)]
    device = next(net.parameters()).device
    shown = 0
    with torch.no_grad(), batch_statistics(net):
        for batch in batches:
            forward(net, batch.to(device))
            shown += 1
    for hook in hooks:
        hook.remove()
    if norms and not shown:
        raise ValueError("there are no batches to recalibrate batch norm on")
    for norm, each in zip(norms, sums, strict=True):
        if each.batches:
            norm.running_mean, norm.running_var = each.means(device)
    return net.eval()


class _Sums:
    """Sums of one layer's batch means and biased batch variances, in float64."""

    def __init__(self) -> None:
        self.batches = 0
        self._mean_C: Tensor = torch.zeros(())
        self._variance_C: Tensor = torch.zeros(())

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A forward pre-hook: the batch norm's input is (B, C) or (B, C, H, W)."""
        values = inputs[0].float()
        other_axes = [axis for axis in range(values.ndim) if axis != 1]
        variance_C, mean_C = torch.var_mean(values, dim=other_axes, correction=0)
        self.batches += 1
        self._mean_C = self._mean_C + mean_C.cpu().double()
        self._variance_C = self._variance_C + variance_C.cpu().double()

    def means(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The two means, (C,) float32 each."""
        mean_C = (self._mean_C / self.batches).float().to(device)
        return mean_C, (self._variance_C / self.batches).float().to(device)
