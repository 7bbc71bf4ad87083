"""Differentiable augmentation of what D sees, real and drawn alike (Zhao et al. 2020, arXiv 2006.10738)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_SHIFT, _CUT = 0.125, 0.5
"""Largest shift and side of the hole, as shares of the image's side."""


def noise_size(policy: Sequence[str]) -> int:
    """Columns of noise that ``augment`` takes for a policy. ValueError for one that is not known."""
    return sum(_found(name)[1] for name in policy)


def augment(
    x_NCHW: Tensor,
    noise_NK: Tensor,
    policy: Sequence[str],
    data_range: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Images (N, C, H, W), each changed by its own row of noise; differentiable, with static shapes.

    ``noise_NK`` float32 in [0, 1) has ``noise_size(policy)`` columns; nothing else is random. ``policy``, in
    the order given: ``color`` (brightness +-1/4 of the data's range, saturation 0 to 2, contrast 0.5 to 1.5),
    ``translation`` (up to 1/8 of the side), ``cutout`` (a square of half the side). The paper defines them on
    [-1, 1] and fills with 0; so other ranges are filled with their middle. Dtype and memory format stay.
    """
    wanted = noise_size(policy)
    if noise_NK.shape[1] != wanted:
        raise ValueError(f"{'+'.join(policy)} takes {wanted} columns of noise, not {noise_NK.shape[1]}")
    black, white = data_range
    middle, half = (black + white) / 2, (white - black) / 2
    h = x_NCHW if (middle, half) == (0, 1) else (x_NCHW - middle) / half
    first = 0
    for name in policy:
        change, columns = _found(name)
        h = change(h, noise_NK[:, first : first + columns])
        first += columns
    h = h if (middle, half) == (0, 1) else h * half + middle
    lies_as = torch.channels_last if x_NCHW.is_contiguous(memory_format=torch.channels_last) else None
    return h.contiguous(memory_format=lies_as or torch.contiguous_format)


def _color(x_NCHW: Tensor, noise_N3: Tensor) -> Tensor:
    brightness, saturation, contrast = (
        column.view(-1, 1, 1, 1).to(x_NCHW.dtype) for column in noise_N3.unbind(1)
    )
    h = x_NCHW + (brightness - 0.5)
    if h.shape[1] > 1:  # grey has no saturation
        grey = h.mean(1, keepdim=True)
        h = (h - grey) * (saturation * 2) + grey
    mean = h.mean((1, 2, 3), keepdim=True)
    return (h - mean) * (contrast + 0.5) + mean


def _translation(x_NCHW: Tensor, noise_N2: Tensor) -> Tensor:
    """Rows and columns are taken from further on; where there are none, the image is 0."""
    h = x_NCHW
    for axis, column in ((2, noise_N2[:, 0]), (3, noise_N2[:, 1])):
        side = h.shape[axis]
        most = int(side * _SHIFT + 0.5)
        shift_N1 = (column * (2 * most + 1)).long()[:, None] - most
        from_NS = torch.arange(side, device=h.device) + shift_N1
        inside_NS = (from_NS >= 0) & (from_NS < side)
        shape = (-1, 1, side, 1) if axis == 2 else (-1, 1, 1, side)
        index = from_NS.clamp(0, side - 1).view(shape).expand_as(h)
        h = h.gather(axis, index) * inside_NS.view(shape).to(h.dtype)
    return h


def _cutout(x_NCHW: Tensor, noise_N2: Tensor) -> Tensor:
    """A square, whose centre may be anywhere in the image, becomes 0."""
    height, width = x_NCHW.shape[2:]
    rows_NS = _in_hole(height, noise_N2[:, 0])
    columns_NS = _in_hole(width, noise_N2[:, 1])
    hole_N1HW = rows_NS[:, None, :, None] & columns_NS[:, None, None, :]
    return x_NCHW * (~hole_N1HW).to(x_NCHW.dtype)


def _in_hole(side: int, noise_N: Tensor) -> Tensor:
    """Which places (N, side) along one axis the hole takes."""
    cut = int(side * _CUT + 0.5)
    # An even hole has no centre pixel, so there is one place more for it.
    first_N1 = (noise_N * (side + 1 - cut % 2)).long()[:, None] - cut // 2
    places_S = torch.arange(side, device=noise_N.device)
    return (places_S >= first_N1) & (places_S < first_N1 + cut)


_POLICIES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "color": (_color, 3),
    "translation": (_translation, 2),
    "cutout": (_cutout, 2),
}


def _found(name: str) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    if name not in _POLICIES:
        raise ValueError(f"there is no augmentation {name!r}; there are {', '.join(_POLICIES)}")
    return _POLICIES[name]
