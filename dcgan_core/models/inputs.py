"""Pixels as the networks see them: their range, and grey where they have one channel."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from dcgan_core.models.specs import NetSpec

LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
_BLOCK = 4096


def to_inputs(pixels_N3HW: Tensor, spec: NetSpec) -> Tensor:
    """Images (N, 3, H, W) uint8 as float32 (N, C, H, W) in the net's range; they keep their memory format."""
    return scaled(pixels_N3HW, spec.channels, spec.data_range)


def scaled(pixels_N3HW: Tensor, channels: int, data_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """The same for a number of channels (1: the luma of ITU-R BT.601) and the values of black and white."""
    black, white = data_range
    x_NCHW = pixels_N3HW.float()
    if channels == 1:
        red, green, blue = x_NCHW.split(1, dim=1)
        x_NCHW = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return x_NCHW.div(255.0 / (white - black)).add_(black)


def grey_bytes(pixels_N3HW: Tensor, channels: int) -> Tensor:
    """uint8 (N, C, H, W): as they are, or for one channel their luma, which leaves grey images unchanged."""
    if channels != 1:
        return pixels_N3HW
    blocks = pixels_N3HW.split(_BLOCK)  # grey goes by way of float32, of which all would be much memory
    return torch.cat([scaled(block, 1, (0.0, 255.0)).round().to(torch.uint8) for block in blocks])
