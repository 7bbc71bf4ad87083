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
    """Filters of the maps that z is projected to."""
    project_norm: Literal["units", "filters"]
    """Batch norm after the projection over all units (the authors) or over filters (torch's example)."""
    generator: tuple[ConvSpec, ...]
    discriminator: tuple[ConvSpec, ...]
    bn_eps: float
    leak: float = 0.2
    classes: int = 0
    """Both nets are told the class, one-hot beside the input of every layer; 0: they are not."""
    output: Literal["tanh", "sigmoid"] = "tanh"
    """What bounds G's images, and with it the range of all images."""
    affine: bool = True
    """Whether batch norm has a gain and a bias."""
    dense: tuple[int, ...] = ()
    """Units of the dense layers before G's projection; D has the same after its convolutions, reversed."""
    start: int = 4
    """Side of the maps that z is projected to, and of those that D ends with."""
    d_activation: Literal["leaky", "prelu"] = "leaky"
    """`prelu`: D learns one slope a channel."""
    spectral_norm: bool = False
    """Whether every weight of D is divided by its largest singular value (Miyato et al. 2018)."""

    @property
    def data_range(self) -> tuple[float, float]:
        """Black and white in the images of both nets."""
        return (-1.0, 1.0) if self.output == "tanh" else (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def spec_from_json(values: dict[str, Any]) -> NetSpec:
    """The inverse of ``to_json``. Fields that came later than a description have their defaults."""
    layers = {
        side: tuple(ConvSpec(**layer) for layer in values[side]) for side in ("generator", "discriminator")
    }
    return NetSpec(**{**values, **layers, "dense": tuple(values.get("dense", ()))})


def net_spec(
    name: str,
    *,
    size: int | None = None,
    width: int | None = None,
    z_size: int | None = None,
    channels: int | None = None,
    d_activation: Literal["leaky", "prelu"] = "leaky",
    spectral_norm: bool = False,
) -> NetSpec:
    """A net by name, with another image size (depth follows from it), width, z or channels where given.

    Sizes are 4 * 2^k, of ``mnist28`` 7 * 2^k. Raises ConfigError for an unknown name or another size.
    """
    if name not in NETS:
        raise ConfigError(f"there is no net {name!r}; nets: {', '.join(NETS)}")
    net = NETS[name]
    side = size or net.size
    doublings = (side // net.start).bit_length() - 1
    if side != net.start * 2**doublings or doublings < 1:
        sizes = ", ".join(str(net.start * 2**k) for k in range(1, 6))
        raise ConfigError(
            f"train.size {side} cannot be drawn by {name}: depth follows from it, so it must be {sizes} ..."
        )
    filters = [(width or net.width) * 2**level for level in range(doublings)]
    up, down = net.layers(filters, channels or net.channels)
    return NetSpec(
        name=name,
        size=side,
        channels=channels or net.channels,
        z_size=z_size or net.z_size,
        z_kind=net.z_kind,
        project=filters[-1],
        project_norm=net.project_norm,
        generator=up,
        discriminator=down,
        bn_eps=net.bn_eps,
        classes=net.classes,
        output=net.output,
        affine=net.affine,
        dense=tuple(units * filters[0] for units in net.dense),
        start=net.start,
        d_activation=d_activation,
        spectral_norm=spectral_norm,
    )


_Layers = tuple[tuple[ConvSpec, ...], tuple[ConvSpec, ...]]


def _strided(kernel: int) -> Callable[[list[int], int], _Layers]:
    """Every layer doubles or halves the side, filters doubling towards the smallest maps."""

    def layers(filters: list[int], channels: int) -> _Layers:
        down = tuple(ConvSpec(f, kernel, 2, norm=level > 0) for level, f in enumerate(filters))
        up = tuple(ConvSpec(f, kernel, 2) for f in reversed(filters[:-1]))
        return (*up, ConvSpec(channels, kernel, 2, norm=False)), down

    return layers


def _paired(filters: list[int], channels: int) -> _Layers:
    """The ImageNet net: 3x3 kernels, strides 1 and 2 alternating, each width twice."""
    down: list[ConvSpec] = []
    for level, f in enumerate(filters):
        down += [ConvSpec(f, 3, 1, norm=level > 0), ConvSpec(f, 3, 2)]
    up: list[ConvSpec] = []
    for level in range(len(filters) - 1, -1, -1):
        after = ConvSpec(filters[level - 1], 3, 1) if level else ConvSpec(channels, 3, 1, norm=False)
        up += [ConvSpec(filters[level], 3, 2), after]
    return tuple(up), tuple(down)


@dataclass(frozen=True)
class _Net:
    """A net by its own sizes; ``layers`` makes G's and D's convolutions of D's filters and the channels."""

    layers: Callable[[list[int], int], _Layers]
    size: int
    width: int
    """Filters of D's first layer."""
    z_size: int = 100
    z_kind: Literal["uniform", "normal"] = "uniform"
    project_norm: Literal["units", "filters"] = "units"
    bn_eps: float = 1e-8  # the authors'
    channels: int = 3
    classes: int = 0
    output: Literal["tanh", "sigmoid"] = "tanh"
    affine: bool = True
    dense: tuple[int, ...] = ()
    """Units of dense layers as multiples of the width."""
    start: int = 4


NETS: dict[str, _Net] = {
    "paper64": _Net(_strided(5), 64, 128),
    "imagenet32": _Net(_paired, 32, 128, z_size=256),
    "svhn32": _Net(_strided(5), 32, 64, z_kind="normal"),
    "mnist28": _Net(
        _strided(5), 28, 64, channels=1, classes=10, output="sigmoid", affine=False, dense=(16,), start=7
    ),
    "torch64": _Net(_strided(4), 64, 64, z_kind="normal", project_norm="filters", bn_eps=1e-5),
}
"""Nets by name: the paper's, the authors' for MNIST, and that of PyTorch's example."""
