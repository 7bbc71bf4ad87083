"""The paper's 3072-128-3072 denoising, dropout-regularised ReLU autoencoder on 32x32 RGB thumbnails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dcgan_core.errors import NoUsableData, TrainingDiverged

SIDE = 32
PIXELS = 3 * SIDE * SIDE
CONTRAST_FLOOR = 0.01
"""Standard deviation of pixels in [0, 1] below which a thumbnail counts as flat: noise is not blown up."""

RECORD_EVERY = 50
_CENTRE_BLOCK = 4096


class Autoencoder(nn.Module):
    """A ReLU layer of ``code_bits`` units between standardised pixels and their reconstruction."""

    def __init__(self, code_bits: int) -> None:
        super().__init__()
        # made on "meta" first: nn.Linear would draw its weights from the global generator
        self.encoder = nn.Linear(PIXELS, code_bits, device="meta").to_empty(device="cpu")
        self.decoder = nn.Linear(code_bits, PIXELS, device="meta").to_empty(device="cpu")

    def forward(self, standard_NP: Tensor, keep_NB: Tensor | None = None) -> Tensor:
        """Reconstruction (N, 3072) of standardised pixels; ``keep_NB`` multiplies the code (dropout)."""
        code_NB = functional.relu(self.encoder(standard_NP))
        return self.decoder(code_NB if keep_NB is None else code_NB * keep_NB)


@dataclass(frozen=True)
class Fit:
    """A trained autoencoder and its loss curve: (step, mean squared error since the last entry)."""

    model: Autoencoder
    losses: list[tuple[int, float]]


def standardise(thumbs_N3HW: Tensor) -> Tensor:
    """uint8 thumbnails (N, 3, 32, 32) as float32 (N, 3072) of mean 0 and variance 1 each.

    Takes out brightness and contrast, which differ between copies of one picture.
    """
    pixels_NP = thumbs_N3HW.reshape(len(thumbs_N3HW), -1).float() / 255
    pixels_NP = pixels_NP - pixels_NP.mean(1, keepdim=True)
    return pixels_NP / (pixels_NP.square().mean(1, keepdim=True) + CONTRAST_FLOOR**2).sqrt()


def fit(
    thumbs_N3HW: NDArray[np.uint8],
    *,
    code_bits: int,
    noise: float,
    dropout: float,
    epochs: int,
    min_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    shift: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Fit:
    """Train on thumbnails (N, 3, 32, 32), N >= 1, for ``epochs`` passes but at least ``min_steps`` steps.

    ``noise`` is the standard deviation of Gaussian noise on the standardised input (whose own is 1),
    ``shift`` moves the input by up to so many pixels each way while the target stays (0: as the paper),
    ``dropout`` is the share of code units left out (paper, section 4.1). Bit for bit the same for the same
    input and seed on one kind of processor: one thread, own generator. ``on_step(step, steps, loss)`` is
    called at every entry of the loss curve. Raises NoUsableData without images, TrainingDiverged when the
    loss is not finite.
    """
    if len(thumbs_N3HW) == 0:
        raise NoUsableData("dedup", {}, "The autoencoder needs at least one crop; look at the crop stage.")
    steps = max(min_steps, math.ceil(epochs * len(thumbs_N3HW) / batch_size))
    generator = torch.Generator().manual_seed(seed)
    with _one_thread(), torch.enable_grad():
        thumbs = torch.from_numpy(np.ascontiguousarray(thumbs_N3HW))
        centre_P = _mean_picture(thumbs)
        model = _initialised(code_bits, generator)
        # foreach is off so that the order of additions does not depend on how parameters are grouped
        adam = torch.optim.Adam(model.parameters(), lr=learning_rate, foreach=False)
        losses: list[tuple[int, float]] = []
        since_last: list[float] = []
        for step, chosen in enumerate(_batches(len(thumbs), batch_size, steps, generator), start=1):
            adam.param_groups[0]["lr"] = learning_rate * (1 - (step - 1) / steps)
            clean_NP = standardise(thumbs[chosen]) - centre_P
            moved_NP = standardise(_shifted(thumbs[chosen], shift, generator)) - centre_P
            noisy_NP = moved_NP + noise * torch.empty_like(clean_NP).normal_(generator=generator)
            keep_NB = torch.empty(len(chosen), code_bits).bernoulli_(1 - dropout, generator=generator)
            loss = functional.mse_loss(model(noisy_NP, keep_NB / (1 - dropout)), clean_NP)
            adam.zero_grad()
            loss.backward()
            adam.step()
            since_last.append(loss.item())
            if not math.isfinite(since_last[-1]):
                raise TrainingDiverged(step, "the autoencoder's loss", str(since_last[-1]))
            if step % RECORD_EVERY == 0 or step == steps:
                losses.append((step, math.fsum(since_last) / len(since_last)))
                since_last = []
                if on_step is not None:
                    on_step(step, steps, losses[-1][1])
        _absorb_centre(model, centre_P)
    return Fit(model.eval().requires_grad_(False), losses)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums split over threads depend on their number, so every machine uses one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mean_picture(thumbs: Tensor) -> Tensor:
    """Mean (3072,) of all standardised thumbnails; without taking it off, ReLU units die on aligned faces."""
    total_P = torch.zeros(PIXELS, dtype=torch.float64)
    for block in thumbs.split(_CENTRE_BLOCK):
        total_P += standardise(block).double().sum(0)
    return (total_P / len(thumbs)).float()


def _initialised(code_bits: int, generator: torch.Generator) -> Autoencoder:
    model = Autoencoder(code_bits)
    with torch.no_grad():
        for layer in (model.encoder, model.decoder):
            bound = (3 / layer.in_features) ** 0.5  # unit variance in, unit variance out
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
    return model


def _batches(n: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of full batches off an endless row of shuffles, so that even one image fills a batch."""
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(n, generator=generator)])
        yield left[:batch_size]
        left = left[batch_size:]


def _shifted(thumbs: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Thumbnails moved by one random offset of up to ``most`` pixels each way, edges repeated."""
    down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    row = (torch.arange(SIDE) + down).clamp(0, SIDE - 1)
    column = (torch.arange(SIDE) + right).clamp(0, SIDE - 1)
    return thumbs[:, :, row][..., column]


def _absorb_centre(model: Autoencoder, centre_P: Tensor) -> None:
    """Move the mean picture into the biases, so that the model takes standardised thumbnails as they are."""
    with torch.no_grad():
        model.encoder.bias.sub_(model.encoder.weight @ centre_P)
        model.decoder.bias.add_(centre_P)
