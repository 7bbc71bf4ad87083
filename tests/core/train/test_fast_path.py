"""The fast path computes what a plain loop does: within float32's rounding, and within bf16's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim import Adam

from dcgan_core.models.dcgan import build
from dcgan_core.models.inputs import to_inputs
from dcgan_core.models.specs import NetSpec, net_spec
from dcgan_core.shard.order import Sampler
from dcgan_core.storage import Store
from dcgan_core.train.data import in_memory
from dcgan_core.train.loop import train
from dcgan_core.train.noise import draw_batch_z
from dcgan_core.train.state import Job
from tests.core.train.runs import ADDRESS, CPU, config

STEPS, BATCH = 100, 16
FLOAT32_TOLERANCE = 0.01
"""Relative, of losses averaged over ten steps: two orders of summation drift apart in a game of two nets."""
BF16_TOLERANCE = 0.05


def smooth(count: int = 64, size: int = 16) -> np.ndarray:
    """Pictures with something to learn: soft blobs (count, 3, size, size) uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    centres, colours = random.uniform(4, 12, (count, 2)), random.uniform(0.2, 1, (count, 3))
    blob = np.exp(-((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2) / 12)
    return (255 * colours[:, :, None, None] * blob[:, None]).astype(np.uint8)


def plain_losses(spec: NetSpec, schedule: str) -> tuple[list[float], list[float]]:
    """Goodfellow's algorithm as anybody would write it: float32, nothing shared, nothing fused."""
    generator, discriminator = build(spec, 1)
    optimisers = [
        Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-5, foreach=False, fused=False)
        for net in (generator, discriminator)
    ]
    pixels, sampler = torch.from_numpy(smooth()), Sampler(64, 1, BATCH)
    losses_d, losses_g = [], []
    for step in range(STEPS):
        z, numbers = draw_batch_z(spec, 1, step, BATCH), next(sampler)
        if schedule == "both" or step % 2 == 1:
            real, fake = to_inputs(pixels[torch.from_numpy(numbers)], spec), generator(z).detach()
            ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
            loss_d = F.binary_cross_entropy_with_logits(discriminator(real), ones)
            loss_d = loss_d + F.binary_cross_entropy_with_logits(discriminator(fake), zeros)
            discriminator.zero_grad()
            loss_d.backward()
            optimisers[1].step()
            losses_d.append(loss_d.item())
        if schedule == "both" or step % 2 == 0:
            loss_g = F.binary_cross_entropy_with_logits(discriminator(generator(z)), torch.ones(BATCH))
            generator.zero_grad()
            loss_g.backward()
            optimisers[0].step()
            losses_g.append(loss_g.item())
    return losses_d, losses_g


def fast_losses(store: Store, spec: NetSpec, **changes: object) -> tuple[list[float], list[float]]:
    chosen = config(steps=STEPS, batch_size=BATCH, checkpoint_every=1000, sample_every=1000, **changes)
    run = train(in_memory(smooth(), CPU.device), Job(chosen, spec, 1, store, ADDRESS, "key", CPU))
    return (
        [line["loss_d"] for line in run.log if chosen.schedule == "both" or line["step"] % 2 == 0],
        [line["loss_g"] for line in run.log if chosen.schedule == "both" or line["step"] % 2 == 1],
    )


def by_tens(losses: list[float]) -> list[float]:
    return [float(np.mean(losses[start : start + 10])) for start in range(0, len(losses), 10)]


@pytest.mark.parametrize("schedule", ["both", "alternate"])
@pytest.mark.parametrize("net", ["paper64", "torch64"])
def test_in_float32_the_losses_are_those_of_a_plain_loop(store: Store, net: str, schedule: str) -> None:
    spec = net_spec(net, size=16, width=8)
    for fast, plain in zip(
        fast_losses(store, spec, net=net, schedule=schedule), plain_losses(spec, schedule), strict=True
    ):
        assert fast[:3] == pytest.approx(plain[:3], rel=1e-4)
        assert by_tens(fast) == pytest.approx(by_tens(plain), rel=FLOAT32_TOLERANCE)


def test_in_bf16_the_losses_are_near_those_of_a_plain_loop(store: Store) -> None:
    spec = net_spec("torch64", size=16, width=8)
    fast = fast_losses(store, spec, net="torch64", schedule="both", precision="bf16")
    for one, other in zip(fast, plain_losses(spec, "both"), strict=True):
        assert one[0] == pytest.approx(other[0], rel=0.02)
        assert by_tens(one) == pytest.approx(by_tens(other), rel=BF16_TOLERANCE)
