"""Generator and discriminator built from a NetSpec, initialised as in the paper."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from dcgan_core.errors import ConfigError
from dcgan_core.models.norms import SpectralNorm, spectral_norms
from dcgan_core.models.specs import ConvSpec, NetSpec


class Generator(nn.Module):
    """z (N, Z) to images (N, C, S, S) in the net's range: dense layers, projection, transposed convolutions.

    No bias anywhere, no batch norm on the output (paper, section 3; dcgan.md, section 2). Nets with classes
    are given them beside z and beside the input of every later layer (the authors' MNIST code).
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dense = nn.ModuleList()
        units = spec.z_size
        for wanted in spec.dense:
            linear = nn.Linear(units + spec.classes, wanted, bias=False)
            norm = nn.BatchNorm1d(wanted, eps=spec.bn_eps, affine=spec.affine)
            self.dense.append(nn.Sequential(linear, norm, nn.ReLU(inplace=True)))
            units = wanted
        self.project = nn.Linear(units + spec.classes, spec.project * spec.start**2, bias=False)
        self.project_norm = _project_norm(spec)
        layers: list[nn.Module] = []
        filters = spec.project
        for conv in spec.generator:
            layers.append(_up(filters + spec.classes, conv))
            if conv.norm:
                norm = nn.BatchNorm2d(conv.filters, eps=spec.bn_eps, affine=spec.affine)
                layers += [norm, nn.ReLU(inplace=True)]
            filters = conv.filters
        self.layers = nn.Sequential(*layers)

    def forward(self, z_NZ: Tensor, y_N: Tensor | None = None) -> Tensor:
        """``y_N`` int64: the classes to draw, for nets that have some. ConfigError where it is missing."""
        y_NK = _one_hot(self.spec, y_N)
        h = z_NZ
        for layer in self.dense:
            h = layer(_joined(h, y_NK))
        h = self.project(_joined(h, y_NK))
        maps = (-1, self.spec.project, self.spec.start, self.spec.start)
        if self.spec.project_norm == "units":
            h = self.project_norm(h).view(maps)
        else:
            h = self.project_norm(h.view(maps))
        h = torch.relu(h)
        if _is_channels_last(self):
            h = h.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            h = layer(_joined(h, y_NK) if isinstance(layer, nn.ConvTranspose2d) else h)
        return torch.tanh(h) if self.spec.output == "tanh" else torch.sigmoid(h)


class Discriminator(nn.Module):
    """Images (N, C, S, S) in the net's range to logits (N,): convolutions, dense layers, one linear unit.

    No bias but batch norm's; classes as in the generator.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList()
        filters = spec.channels
        for conv in spec.discriminator:
            padding = (conv.kernel - 1) // 2
            block: list[nn.Module] = [
                nn.Conv2d(filters + spec.classes, conv.filters, conv.kernel, conv.stride, padding, bias=False)
            ]
            if conv.norm:
                block.append(nn.BatchNorm2d(conv.filters, eps=spec.bn_eps, affine=spec.affine))
            block.append(_activation(spec, conv.filters))
            self.blocks.append(nn.Sequential(*block))
            filters = conv.filters
        self.dense = nn.ModuleList()
        units = filters * spec.start**2
        for wanted in reversed(spec.dense):
            linear = nn.Linear(units + spec.classes, wanted, bias=False)
            norm = nn.BatchNorm1d(wanted, eps=spec.bn_eps, affine=spec.affine)
            self.dense.append(nn.Sequential(linear, norm, _activation(spec, wanted)))
            units = wanted
        self.logit = nn.Linear(units + spec.classes, 1, bias=False)
        if spec.spectral_norm:
            for layer in _weighted(self):
                parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))

    @property
    def channels(self) -> int:
        return self.spec.channels

    def forward(self, x_NCHW: Tensor, y_N: Tensor | None = None) -> Tensor:
        """``y_N`` int64: what is shown, for nets with classes. ConfigError where it is missing."""
        y_NK = _one_hot(self.spec, y_N)
        h = x_NCHW
        for block in self.blocks:
            h = block(_joined(h, y_NK))
        if not self.dense and y_NK is None and h.is_contiguous(memory_format=torch.channels_last):
            return self._logits_of_rows(h)
        h = h.flatten(1)
        for layer in self.dense:
            h = layer(_joined(h, y_NK))
        return self.logit(_joined(h, y_NK)).squeeze(1)

    def _logits_of_rows(self, h_NCHW: Tensor) -> Tensor:
        """The same with values in the order in which they lie in memory: maps and gradients keep theirs."""
        weight_1HWC = self.logit.weight.view(1, *h_NCHW.shape[1:]).permute(0, 2, 3, 1)
        return F.linear(h_NCHW.permute(0, 2, 3, 1).flatten(1), weight_1HWC.flatten(1)).squeeze(1)

    def feature_maps(self, x_NCHW: Tensor, y_N: Tensor | None = None) -> list[Tensor]:
        """Maps (N, F, H, W) of every convolution layer after its activation, first layer first."""
        y_NK = _one_hot(self.spec, y_N)
        maps, h = [], x_NCHW
        for block in self.blocks:
            h = block(_joined(h, y_NK))
            maps.append(h)
        return maps


def build(spec: NetSpec, seed: int) -> tuple[Generator, Discriminator]:
    """Both nets with weights N(0, 0.02), batch norm gains N(1, 0.02) and zero biases, by seed."""
    generator, discriminator = Generator(spec), Discriminator(spec)
    random = torch.Generator().manual_seed(seed)
    for net in (generator, discriminator):
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(_own_weight(module), 0.0, 0.02, generator=random)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
                nn.init.normal_(module.weight, 1.0, 0.02, generator=random)
                nn.init.zeros_(module.bias)
    for weight, norm in spectral_norms(discriminator):
        norm.reset(weight, random)
    return generator, discriminator


def classes_in_turn(spec: NetSpec, n: int, device: torch.device | str = "cpu") -> Tensor | None:
    """Classes (n,) int64 0, 1, ... and again from 0, for drawing without a wish; None for nets without."""
    return torch.arange(n, device=device) % spec.classes if spec.classes else None


def parameter_count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def training_bytes(spec: NetSpec, batch_size: int) -> int:
    """A rough upper bound of the memory of one training step in float32: weights, Adam, kept activations."""
    with torch.device("meta"):  # takes no memory, however large they are
        generator, discriminator = Generator(spec), Discriminator(spec)
    weights = (
        4 * 4 * (parameter_count(generator) + parameter_count(discriminator))
    )  # value, gradient, two moments
    side = float(spec.start)
    maps = spec.project * side * side + 3 * sum(spec.dense) * 3  # of G, and of D for real and fake
    for conv in spec.generator:
        side *= conv.stride
        maps += conv.filters * side * side * (3 if conv.norm else 2)
    side = float(spec.size)
    for conv in spec.discriminator:
        side = math.ceil(side / conv.stride)
        maps += 2 * conv.filters * side * side * (3 if conv.norm else 2)  # real and fake
    return int(weights + 4 * batch_size * maps)


def _project_norm(spec: NetSpec) -> nn.Module:
    if spec.project_norm == "units":
        return nn.BatchNorm1d(spec.project * spec.start**2, eps=spec.bn_eps, affine=spec.affine)
    return nn.BatchNorm2d(spec.project, eps=spec.bn_eps, affine=spec.affine)


def _is_channels_last(net: nn.Module) -> bool:
    """Whether a net's kernels lie in memory as for training."""
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)


def _activation(spec: NetSpec, channels: int) -> nn.Module:
    if spec.d_activation == "prelu":
        return nn.PReLU(channels, init=spec.leak)  # begins as the net it deviates from
    return nn.LeakyReLU(spec.leak, inplace=True)


def _weighted(net: nn.Module) -> Iterator[nn.Linear | nn.Conv2d]:
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield module


def _own_weight(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The parameter itself, not what spectral norm makes of it."""
    if parametrize.is_parametrized(module, "weight"):
        return module.parametrizations["weight"].original  # pyright: ignore
    return module.weight


def _one_hot(spec: NetSpec, y_N: Tensor | None) -> Tensor | None:
    if not spec.classes:
        return None
    if y_N is None:
        raise ConfigError(f"{spec.name} is conditional: give it a class, 0 to {spec.classes - 1}, an image")
    # Compared rather than scattered, so that no device has to look at the values.
    return (y_N[:, None] == torch.arange(spec.classes, device=y_N.device)).float()


def _joined(h: Tensor, y_NK: Tensor | None) -> Tensor:
    """Units (N, F) or maps (N, F, H, W) with the one-hot class beside them, as constant maps."""
    if y_NK is None:
        return h
    y_NK = y_NK.to(h.dtype)
    if h.ndim == 2:
        return torch.cat([h, y_NK], dim=1)
    return torch.cat([h, y_NK[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)


def _up(filters: int, conv: ConvSpec) -> nn.ConvTranspose2d:
    padding = (conv.kernel - 1) // 2
    return nn.ConvTranspose2d(
        filters,
        conv.filters,
        conv.kernel,
        conv.stride,
        padding,
        output_padding=conv.stride
        - conv.kernel
        + 2 * padding,  # so that the side is exactly stride times larger
        bias=False,
    )
