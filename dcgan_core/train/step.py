"""One minibatch's updates of D and G (paper, sections 3 and 4; dcgan.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Adam
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dcgan_core.models.dcgan import Discriminator, Generator
from dcgan_core.models.inputs import to_inputs
from dcgan_core.models.norms import Net
from dcgan_core.models.specs import NetSpec
from dcgan_core.train.augment import augment
from dcgan_core.train.losses import Objective, discriminator_loss, generator_loss
from dcgan_core.train.runtime import Runtime
from dcgan_core.train.schedule import Update


@dataclass
class Player(Generic[Net]):
    """A net and its optimiser."""

    net: Net
    optimiser: Adam


@dataclass
class Pair:
    """The two players."""

    generator: Player[Generator]
    discriminator: Player[Discriminator]


@dataclass
class Inputs:
    """One rank's share of a minibatch, on the training device."""

    z_NZ: Tensor
    real_NCHW: Tensor | None = None
    """Pixels uint8 (N, 3, S, S); None where D is not updated."""
    label_N: Tensor | None = None
    """Classes int64, of real images and samples alike (the authors' way); None for nets without classes."""
    noise_real_NK: Tensor | None = None
    noise_fake_NK: Tensor | None = None
    noise_answer_NK: Tensor | None = None
    """Numbers in [0, 1) for the augmentation of real images, of samples for D, and of samples for G."""

    def tensors(self) -> dict[str, Tensor]:
        """What is there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Recipe:
    """How an update is computed."""

    spec: NetSpec
    objective: Objective = "non-saturating"
    augment: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    """Of the forward and backward passes; weights, batch statistics, losses and Adam stay float32."""


SEEN = ("loss_d", "loss_g", "d_real", "d_fake", "logit_spread", "grad_d", "grad_g")


def _nan() -> Tensor:
    return torch.tensor(float("nan"))


@dataclass
class Seen:
    """Numbers of the latest updates, kept on the device until somebody asks."""

    loss_d: Tensor = field(default_factory=_nan)
    loss_g: Tensor = field(default_factory=_nan)
    d_real: Tensor = field(default_factory=_nan)
    """Mean D(x)."""
    d_fake: Tensor = field(default_factory=_nan)
    """Mean D(G(z)), as D saw it before its update."""
    logit_spread: Tensor = field(default_factory=_nan)
    """Standard deviation of D's logits over real images and samples together."""
    grad_d: Tensor = field(default_factory=_nan)
    grad_g: Tensor = field(default_factory=_nan)
    """Euclidean norms of all gradients, averaged over the ranks, before L2 is added."""

    def to(self, device: torch.device) -> Seen:
        return Seen(**{name: value.to(device) for name, value in vars(self).items()})

    def put(self, **values: Tensor) -> None:
        """Overwrite in place: a CUDA graph writes to the same memory each time."""
        for name, value in values.items():
            getattr(self, name).copy_(value.detach())

    def read(self) -> dict[str, float]:
        """As numbers; waits for the device once."""
        values = torch.stack(list(vars(self).values())).tolist()
        return dict(zip(vars(self), values, strict=True))


def adam(
    net: torch.nn.Module,
    *,
    learning_rate: float,
    beta1: float,
    weight_decay: float,
    capturable: bool = False,
) -> Adam:
    """Adam with coupled L2 on all parameters, as the authors' (not AdamW).

    ``capturable``: for CUDA graphs; the rate is then a tensor on the device.
    """
    device = next(net.parameters()).device
    rate = torch.tensor(learning_rate, device=device) if capturable else learning_rate
    return Adam(
        net.parameters(),
        lr=rate,
        betas=(beta1, 0.999),
        weight_decay=weight_decay,
        fused=True,
        capturable=capturable,
    )


def set_rate(optimiser: Adam, rate: float) -> None:
    """Change the learning rate; one on the device is overwritten in place."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def update(pair: Pair, inputs: Inputs, which: Update, recipe: Recipe, runtime: Runtime, seen: Seen) -> None:
    """Update D, G, or D and then G.

    G is run once: its weights do not change between D's update and its own, so both take the same samples.
    """
    with torch.set_grad_enabled(which.g), _autocast(runtime, recipe):
        fake_NCHW = pair.generator.net(inputs.z_NZ, inputs.label_N)
    if which.d:
        _update_discriminator(pair.discriminator, fake_NCHW.detach(), inputs, recipe, runtime, seen)
    if which.g:
        _update_generator(pair, fake_NCHW, inputs, recipe, runtime, seen)


@torch.no_grad()
def update_average(average: Generator, generator: Generator, decay: float, updates: int) -> None:
    """Move the average of G's parameters; the decay grows with the number of updates up to its value."""
    decay = min(decay, (1 + updates) / (10 + updates))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(generator.parameters()), None)


def _update_discriminator(
    player: Player[Discriminator],
    fake_NCHW: Tensor,
    inputs: Inputs,
    recipe: Recipe,
    runtime: Runtime,
    seen: Seen,
) -> None:
    """Real and fake go through D as separate batches for batch norm; gradients are averaged once."""
    assert inputs.real_NCHW is not None
    real_NCHW = _augmented(to_inputs(inputs.real_NCHW, recipe.spec), inputs.noise_real_NK, recipe)
    fake_NCHW = _augmented(fake_NCHW, inputs.noise_fake_NK, recipe)
    player.optimiser.zero_grad(set_to_none=True)
    with _autocast(runtime, recipe):
        real_logits = player.net(real_NCHW, inputs.label_N).float()
        fake_logits = player.net(fake_NCHW, inputs.label_N).float()
    loss = discriminator_loss(real_logits, fake_logits)
    loss.backward()
    runtime.average_gradients(player.net.parameters())
    player.optimiser.step()
    with torch.no_grad():
        seen.put(
            loss_d=loss,
            d_real=real_logits.sigmoid().mean(),
            d_fake=fake_logits.sigmoid().mean(),
            logit_spread=torch.cat([real_logits, fake_logits]).std(),
            grad_d=_gradient_norm(player.net),
        )


def _update_generator(
    pair: Pair, fake_NCHW: Tensor, inputs: Inputs, recipe: Recipe, runtime: Runtime, seen: Seen
) -> None:
    """D is frozen, so that no gradients of its weights are computed."""
    player, judge = pair.generator, pair.discriminator.net
    player.optimiser.zero_grad(set_to_none=True)
    judge.requires_grad_(False)
    fake_NCHW = _augmented(fake_NCHW, inputs.noise_answer_NK, recipe)
    with _autocast(runtime, recipe):
        logits = judge(fake_NCHW, inputs.label_N).float()
    loss = generator_loss(logits, recipe.objective)
    loss.backward()
    judge.requires_grad_(True)
    runtime.average_gradients(player.net.parameters())
    player.optimiser.step()
    with torch.no_grad():
        seen.put(loss_g=loss, grad_g=_gradient_norm(player.net))


def _augmented(images_NCHW: Tensor, noise_NK: Tensor | None, recipe: Recipe) -> Tensor:
    if noise_NK is None:
        return images_NCHW
    return augment(images_NCHW.float(), noise_NK, recipe.augment, recipe.spec.data_range)


def _gradient_norm(net: torch.nn.Module) -> Tensor:
    return get_total_norm([each.grad for each in net.parameters() if each.grad is not None])


def _autocast(runtime: Runtime, recipe: Recipe) -> torch.autocast:
    wanted = recipe.dtype is torch.bfloat16
    return torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=wanted)
