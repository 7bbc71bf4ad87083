"""Descriptions of networks: sizes, filters, strides; no tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dcgan_core.errors import ConfigError


@dataclass(frozen=True)
class ConvSpec:
    """One (transposed) convolution: its output filters, kernel and stride, and whether batch norm follows."""

    filters: int
    kernel: int
    stride: int
    norm: bool = True


@dataclass(frozen=True)
class NetSpec:
    """A generator and a discriminator that fit each other (paper, section 3; dcgan.md, section 1)."""

    name: str
    size: int
    """Side of the images in pixels."""
    channels: int
    z_size: int
    z_kind: Literal["uniform", "normal"]
    """z is drawn from U(-1, 1) or N(0, 1)."""
    project: int
    """Filters of the 4x4 maps that z is projected to."""
    project_norm: Literal["units", "filters"]
    """Batch norm after the projection over all units (the authors) or over filters (torch's example)."""
    generator: tuple[ConvSpec, ...]
    discriminator: tuple[ConvSpec, ...]
    bn_eps: float
    leak: float = 0.2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def spec_from_json(values: dict[str, Any]) -> NetSpec:
    """The inverse of ``to_json``."""
    layers = {
        side: tuple(ConvSpec(**layer) for layer in values[side]) for side in ("generator", "discriminator")
    }
    return NetSpec(**{**values, **layers})


def net_spec(
    name: str,
    *,
    size: int | None = None,
    width: int | None = None,
    z_size: int | None = None,
    channels: int = 3,
) -> NetSpec:
    """A net by name, with another image size (4 * 2^k; depth follows from it), width or z where given.

    Raises ConfigError for an unknown name or a size that no depth draws.
    """
    if name not in NETS:
        raise ConfigError(f"there is no net {name!r}; nets: {', '.join(NETS)}")
    build, own_size, own_width, own_z = NETS[name]
    side = size or own_size
    doublings = (side // 4).bit_length() - 1
    if side != 4 * 2**doublings or doublings < 1:
        raise ConfigError(
            f"train.size {side} cannot be drawn: depth follows from it, so it must be 8, 16, 32, 64, 128 ..."
        )
    return build(name, side, doublings, width or own_width, z_size or own_z, channels)


def _strided(
    kernel: int,
    z_kind: Literal["uniform", "normal"],
    project_norm: Literal["units", "filters"],
    bn_eps: float,
) -> Callable[[str, int, int, int, int, int], NetSpec]:
    """Nets whose every layer doubles or halves the side, filters doubling towards 4x4."""

    def build(name: str, size: int, doublings: int, width: int, z_size: int, channels: int) -> NetSpec:
        filters = [width * 2**level for level in range(doublings)]
        down = tuple(ConvSpec(f, kernel, 2, norm=level > 0) for level, f in enumerate(filters))
        up = tuple(ConvSpec(f, kernel, 2) for f in reversed(filters[:-1]))
        last = ConvSpec(channels, kernel, 2, norm=False)
        return NetSpec(
            name, size, channels, z_size, z_kind, filters[-1], project_norm, (*up, last), down, bn_eps
        )

    return build


def _paired(name: str, size: int, doublings: int, width: int, z_size: int, channels: int) -> NetSpec:
    """The ImageNet net: 3x3 kernels, strides 1 and 2 alternating, each width twice."""
    filters = [width * 2**level for level in range(doublings)]
    down: list[ConvSpec] = []
    for level, f in enumerate(filters):
        down += [ConvSpec(f, 3, 1, norm=level > 0), ConvSpec(f, 3, 2)]
    up: list[ConvSpec] = []
    for level in range(doublings - 1, -1, -1):
        after = ConvSpec(filters[level - 1], 3, 1) if level else ConvSpec(channels, 3, 1, norm=False)
        up += [ConvSpec(filters[level], 3, 2), after]
    return NetSpec(
        name, size, channels, z_size, "uniform", filters[-1], "units", tuple(up), tuple(down), AUTHORS_EPS
    )


AUTHORS_EPS = 1e-8
_Build = Callable[[str, int, int, int, int, int], NetSpec]
NETS: dict[str, tuple[_Build, int, int, int]] = {
    "paper64": (_strided(5, "uniform", "units", AUTHORS_EPS), 64, 128, 100),
    "imagenet32": (_paired, 32, 128, 256),
    "svhn32": (_strided(5, "normal", "units", AUTHORS_EPS), 32, 64, 100),
    "torch64": (_strided(4, "normal", "filters", 1e-5), 64, 64, 100),
}
"""Name: how it is built, its own image size, width of D's first layer, and length of z."""
