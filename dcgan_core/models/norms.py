"""Which statistics batch norm uses, the batch's own, running or re-estimated ones; and spectral norm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

_BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
Net = TypeVar("Net", bound=nn.Module)


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """All batch norm layers, in the order of the module tree."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[nn.Module]:
    """Let batch norm use each batch's own statistics (the authors' way) without touching running averages,
    nor what spectral norm has found."""
    norms, before = batch_norms(net), net.training
    net.train()
    for _, spectral in spectral_norms(net):
        spectral.eval()
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


class SpectralNorm(nn.Module):
    """A parametrisation that divides a weight by its largest singular value (Miyato et al. 2018).

    What ``torch.nn.utils.parametrizations.spectral_norm`` computes, with two differences: the first vectors
    come from the caller's generator, not from global randomness, and it stays in float32 under autocast
    (where torch's multiplies in bfloat16 and its dtypes then disagree).
    """

    u_M: Tensor
    v_K: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("u_M", torch.ones(rows, device=weight.device) / rows**0.5)
        self.register_buffer("v_K", torch.ones(columns, device=weight.device) / columns**0.5)

    @torch.no_grad()
    def reset(self, weight: Tensor, random: torch.Generator) -> None:
        """Begin anew: random vectors, then as many iterations as torch makes at its beginning."""
        for vector in (self.u_M, self.v_K):
            nn.init.normal_(vector, generator=random)
            vector.div_(vector.norm())
        self._iterate(weight.flatten(1), 15)

    def forward(self, weight: Tensor) -> Tensor:
        kind = weight.device.type  # the meta device, where memory is foreseen, knows no autocast
        autocasts = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if autocasts else nullcontext():
            matrix_MK = weight.flatten(1)
            if self.training:
                self._iterate(matrix_MK, 1)
            # Copies: the next forward pass changes them in place before the backward pass of this one.
            u_M, v_K = self.u_M.clone(), self.v_K.clone()
            return weight / torch.dot(u_M, torch.mv(matrix_MK, v_K))

    @torch.no_grad()
    def _iterate(self, matrix_MK: Tensor, times: int) -> None:
        for _ in range(times):
            self.u_M.copy_(F.normalize(matrix_MK @ self.v_K, dim=0, eps=1e-12))
            self.v_K.copy_(F.normalize(matrix_MK.T @ self.u_M, dim=0, eps=1e-12))


def spectral_norms(net: nn.Module) -> list[tuple[Tensor, SpectralNorm]]:
    """Each weight under spectral norm, itself, and its norm."""
    found: list[tuple[Tensor, SpectralNorm]] = []
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(
            norm := module[0], SpectralNorm
        ):
            found.append((module.original, norm))
    return found
