"""Batch norm over the batches of all ranks together, on any backend of torch.distributed."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class _Synced:
    """Mixed into batch norm: in training with running averages, statistics are those of the global batch.

    torch's own SyncBatchNorm refuses processors. All ranks must have equally many images, and all of them
    must run the net. With ``batch_statistics`` (samples drawn by one rank) it is plain batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:
        norm = cast("nn.BatchNorm2d", self)
        if not (norm.training and norm.track_running_stats):
            return nn.BatchNorm2d.forward(norm, input)
        values = input.float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        own_variance_C, own_mean_C = torch.var_mean(values, dim=axes, correction=0)
        world_size = dist.get_world_size()
        mean_C = all_reduce(own_mean_C) / world_size
        # Two steps: E[x^2] - E[x]^2 loses the digits that matter.
        variance_C = all_reduce(own_variance_C + (own_mean_C - mean_C).square()) / world_size
        _follow(norm, mean_C, variance_C, values.numel() // values.shape[1] * world_size)
        shape = (1, -1, *(1 for _ in axes[1:]))
        scaled = (values - mean_C.view(shape)) * (variance_C + norm.eps).rsqrt().view(shape)
        if norm.affine:
            scaled = scaled * norm.weight.view(shape) + norm.bias.view(shape)
        return scaled.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Both kinds, (N, C) and (N, C, H, W)."""


class SyncedBatchNorm1d(_Synced, nn.BatchNorm1d):
    """After the projection."""


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """After convolutions."""


def synchronised(net: nn.Module) -> None:
    """Turn every batch norm of a net into a synchronised one; parameters and buffers stay as they are."""
    for module in net.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncedBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean_C, norm.momentum)
    norm.running_var.lerp_(variance_C * (count / (count - 1)), norm.momentum)
