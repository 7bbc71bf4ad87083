"""One update of D and one of G (paper, section 4; dcgan.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dcgan_core.models.dcgan import Discriminator, Generator
from dcgan_core.models.norms import Net
from dcgan_core.models.specs import NetSpec
from dcgan_core.train.runtime import Runtime


@dataclass
class Player(Generic[Net]):
    """A net and its optimiser."""

    net: Net
    optimiser: Adam


@dataclass
class Seen:
    """Losses and mean D outputs of the latest updates, kept on the device until somebody asks."""

    loss_d: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    loss_g: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    d_real: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    d_fake: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))

    def read(self) -> dict[str, float]:
        """As numbers; waits for the device."""
        return {name: round(float(value), 6) for name, value in vars(self).items()}


def adam(net: torch.nn.Module, *, learning_rate: float, beta1: float, weight_decay: float) -> Adam:
    """Adam with coupled L2 on all parameters, as the authors' (not AdamW)."""
    return Adam(
        net.parameters(), lr=learning_rate, betas=(beta1, 0.999), weight_decay=weight_decay, fused=True
    )


def draw_batch_z(spec: NetSpec, seed: int, step: int, batch_size: int) -> Tensor:
    """z (batch_size, Z) float32 of the whole global batch: a function of seed and step alone.

    Every rank draws all and takes its stretch, so any number of ranks sees the same z, and there is no
    generator state to store.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, step]))
    shape = (batch_size, spec.z_size)
    if spec.z_kind == "uniform":
        return torch.from_numpy(random.random(shape, dtype=np.float32) * 2 - 1)
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))


def update_discriminator(
    generator: Player[Generator],
    discriminator: Player[Discriminator],
    real_NCHW: Tensor,
    z_NZ: Tensor,
    runtime: Runtime,
    dtype: torch.dtype,
    seen: Seen,
) -> None:
    """Real and fake go through D as separate batches for batch norm; gradients are averaged once."""
    with torch.no_grad(), _autocast(runtime, dtype):
        fake_NCHW = generator.net(z_NZ)
    discriminator.optimiser.zero_grad(set_to_none=True)
    with _autocast(runtime, dtype):
        real_logits, fake_logits = discriminator.net(real_NCHW), discriminator.net(fake_NCHW)
    real_logits, fake_logits = real_logits.float(), fake_logits.float()
    loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    loss.backward()
    runtime.average_gradients(discriminator.net.parameters())
    discriminator.optimiser.step()
    seen.loss_d = loss.detach()
    seen.d_real, seen.d_fake = real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()


def update_generator(
    generator: Player[Generator],
    discriminator: Player[Discriminator],
    z_NZ: Tensor,
    runtime: Runtime,
    dtype: torch.dtype,
    seen: Seen,
) -> None:
    """Non-saturating loss; D is frozen, so that no gradients of its weights are computed."""
    generator.optimiser.zero_grad(set_to_none=True)
    discriminator.net.requires_grad_(False)
    with _autocast(runtime, dtype):
        logits = discriminator.net(generator.net(z_NZ))
    loss = F.softplus(-logits.float()).mean()
    loss.backward()
    discriminator.net.requires_grad_(True)
    runtime.average_gradients(generator.net.parameters())
    generator.optimiser.step()
    seen.loss_g = loss.detach()


@torch.no_grad()
def update_average(average: Generator, generator: Generator, decay: float, updates: int) -> None:
    """Move the average of G's parameters; the decay grows with the number of updates up to its value."""
    decay = min(decay, (1 + updates) / (10 + updates))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(generator.parameters()), None)


def _autocast(runtime: Runtime, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
