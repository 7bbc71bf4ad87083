"""Generator and discriminator built from a NetSpec, initialised as in the paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dcgan_core.models.specs import ConvSpec, NetSpec


class Generator(nn.Module):
    """z (N, Z) to images (N, C, S, S) in (-1, 1): projection, then transposed convolutions.

    No bias anywhere, no batch norm on the output (paper, section 3; dcgan.md, section 2).
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.project = nn.Linear(spec.z_size, spec.project * 16, bias=False)
        self.project_norm = _project_norm(spec)
        layers: list[nn.Module] = []
        filters = spec.project
        for conv in spec.generator:
            layers.append(_up(filters, conv))
            if conv.norm:
                layers += [nn.BatchNorm2d(conv.filters, eps=spec.bn_eps), nn.ReLU(inplace=True)]
            filters = conv.filters
        self.layers = nn.Sequential(*layers)

    def forward(self, z_NZ: Tensor) -> Tensor:
        h = self.project(z_NZ)
        if self.spec.project_norm == "units":
            h = self.project_norm(h).view(-1, self.spec.project, 4, 4)
        else:
            h = self.project_norm(h.view(-1, self.spec.project, 4, 4))
        return torch.tanh(self.layers(torch.relu(h)))


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,): convolutions, then one linear unit without bias."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList()
        filters = spec.channels
        for conv in spec.discriminator:
            block: list[nn.Module] = [
                nn.Conv2d(
                    filters,
                    conv.filters,
                    conv.kernel,
                    conv.stride,
                    padding=(conv.kernel - 1) // 2,
                    bias=False,
                )
            ]
            if conv.norm:
                block.append(nn.BatchNorm2d(conv.filters, eps=spec.bn_eps))
            block.append(nn.LeakyReLU(spec.leak, inplace=True))
            self.blocks.append(nn.Sequential(*block))
            filters = conv.filters
        self.logit = nn.Linear(filters * 16, 1, bias=False)

    @property
    def channels(self) -> int:
        return self.spec.channels

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h = x_NCHW
        for block in self.blocks:
            h = block(h)
        return self.logit(h.flatten(1)).squeeze(1)

    def feature_maps(self, x_NCHW: Tensor) -> list[Tensor]:
        """Maps (N, F, H, W) of every convolution layer after its activation, first layer first."""
        maps, h = [], x_NCHW
        for block in self.blocks:
            h = block(h)
            maps.append(h)
        return maps


def build(spec: NetSpec, seed: int) -> tuple[Generator, Discriminator]:
    """Both nets with weights N(0, 0.02), batch norm gains N(1, 0.02) and zero biases, by seed."""
    generator, discriminator = Generator(spec), Discriminator(spec)
    random = torch.Generator().manual_seed(seed)
    for net in (generator, discriminator):
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02, generator=random)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02, generator=random)
                nn.init.zeros_(module.bias)
    return generator, discriminator


def parameter_count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def training_bytes(spec: NetSpec, batch_size: int) -> int:
    """A rough upper bound of the memory of one training step in float32: weights, Adam, kept activations."""
    with torch.device("meta"):  # takes no memory, however large they are
        generator, discriminator = Generator(spec), Discriminator(spec)
    weights = (
        4 * 4 * (parameter_count(generator) + parameter_count(discriminator))
    )  # value, gradient, two moments
    side, maps = 4.0, spec.project * 16.0
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
        return nn.BatchNorm1d(spec.project * 16, eps=spec.bn_eps)
    return nn.BatchNorm2d(spec.project, eps=spec.bn_eps)


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
