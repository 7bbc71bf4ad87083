"""What D sees in an image: the maps of all its convolution layers, max-pooled to a 4x4 grid."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_core.errors import ConfigError
from dcgan_core.models.inputs import scaled
from dcgan_core.models.norms import batch_norms, recalibrated

GRID = 4  # the paper's spatial grid, section 5.1
BATCH = 128  # images a batch when statistics are estimated, as in the authors' code


@torch.inference_mode()
def extract(
    discriminator: nn.Module,
    images_NHW3: NDArray[np.uint8],
    *,
    device: torch.device | str,
    batch_size: int = BATCH,
) -> NDArray[np.float32]:
    """Features of uint8 RGB images, float32 (N, F), F = 16 x the filters of all convolution layers.

    ``discriminator`` has ``channels`` (1 or 3) and ``feature_maps(x_NCHW in [-1, 1])``, which returns one
    (N, C, H, W) map per convolution layer, after its activation. It is used in eval mode and stays so, on
    ``device``: prepare it by ``batch_norm_mode``. Batches are of equal size (to within one image), so that
    with batch statistics no image is judged in a tiny batch. Paper, section 5.1.
    """
    net = discriminator.eval().to(device)
    features_NF = np.empty((0, 0), np.float32)
    start = 0
    for chunk_BHW3 in np.array_split(images_NHW3, max(1, math.ceil(len(images_NHW3) / batch_size))):
        inputs_BCHW = as_inputs(chunk_BHW3, _described(net).channels, device)
        pooled_BF = pool_and_join(_described(net).feature_maps(inputs_BCHW))
        if start == 0:
            features_NF = np.empty((len(images_NHW3), pooled_BF.shape[1]), np.float32)
        features_NF[start : start + len(chunk_BHW3)] = pooled_BF.float().cpu().numpy()
        start += len(chunk_BHW3)
    return features_NF


def pool_and_join(maps: Iterable[Tensor]) -> Tensor:
    """Maps (N, C, H, W) of any sizes, each max-pooled to 4x4, flattened and joined: (N, 16 x sum of C)."""
    return torch.cat([F.adaptive_max_pool2d(map_NCHW, GRID).flatten(1) for map_NCHW in maps], dim=1)


def as_inputs(images_NHW3: NDArray[np.uint8], channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Float32 (N, channels, H, W) in [-1, 1]; for one channel the luma of ITU-R BT.601."""
    pixels_NHW3 = torch.from_numpy(np.ascontiguousarray(images_NHW3)).to(device)
    return scaled(pixels_NHW3.permute(0, 3, 1, 2), channels).contiguous()


def calibration_batches(
    discriminator: nn.Module, images_NHW3: NDArray[np.uint8], *, batch_size: int = BATCH
) -> Iterator[Tensor]:
    """Inputs for ``batch_norm_mode`` in the images' order; a last part batch is dropped if others came."""
    whole = len(images_NHW3) // batch_size * batch_size or len(images_NHW3)
    for start in range(0, whole, batch_size):
        yield as_inputs(images_NHW3[start : start + batch_size], _described(discriminator).channels)


def batch_norm_mode(
    discriminator: nn.Module,
    mode: Literal["recalibrated", "running", "batch"],
    batches: Iterable[Tensor] = (),
) -> nn.Module:
    """A copy of ``discriminator`` in eval mode whose batch norms use the wanted statistics.

    ``running``: the running averages as they are. ``batch``: those of each batch shown to it.
    ``recalibrated``: the plain means of batch means and biased batch variances over ``batches``
    ((B, channels, H, W) in [-1, 1], of training images only), as the authors. The argument is left as it
    was. Raises ConfigError where ``running`` finds no averages, ValueError where ``recalibrated`` gets no
    batches.
    """
    if mode == "recalibrated":
        return recalibrated(discriminator, batches, lambda net, x_BCHW: _described(net).feature_maps(x_BCHW))
    net = copy.deepcopy(discriminator).eval()
    norms = batch_norms(net)
    if mode == "running" and any(norm.running_mean is None for norm in norms):
        raise ConfigError(
            "this discriminator keeps no running averages; "
            "set evaluate.batch_norm to 'recalibrated' or 'batch'"
        )
    if mode == "batch":
        for norm in norms:  # in eval mode a norm without averages takes the batch's own statistics
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    return net


class _Described(Protocol):
    @property
    def channels(self) -> int: ...

    def feature_maps(self, x_NCHW: Tensor) -> list[Tensor]: ...


def _described(discriminator: nn.Module) -> _Described:
    return cast("_Described", discriminator)
