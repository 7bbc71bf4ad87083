"""The supervised baseline: D's architecture as a classifier of few images, tuned by random search."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_core.errors import ConfigError, NoUsableData
from dcgan_core.models.dcgan import build
from dcgan_core.models.inputs import to_inputs
from dcgan_core.models.specs import NetSpec
from dcgan_core.progress import Progress, silent

Augmentation = Literal["none", "flip", "translation", "flip+translation"]
SHIFT = 0.125
"""Largest translation, as a share of the image's side."""


@dataclass(frozen=True)
class Settings:
    """What random search draws for one trial."""

    learning_rate: float
    weight_decay: float
    """L2, coupled as in the paper's Adam."""
    dropout: float
    """Share of the last maps' values that are dropped before the linear layer."""
    batch_size: int
    augmentation: Augmentation


@dataclass(frozen=True)
class Space:
    """What is drawn from: rates uniform in their logarithm, the rest uniform."""

    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    weight_decay: tuple[float, float] = (1e-6, 1e-2)
    dropout: tuple[float, float] = (0.0, 0.7)
    batch_size: tuple[int, ...] = (16, 32, 64, 128)
    augmentation: tuple[Augmentation, ...] = ("none", "flip", "translation", "flip+translation")

    def draw(self, random: np.random.Generator) -> Settings:
        """Every setting takes one number each, so that a narrower range changes no other setting."""
        low_high = (self.learning_rate, self.weight_decay)
        rates = [math.exp(random.uniform(math.log(low), math.log(high))) for low, high in low_high]
        dropout = random.uniform(*self.dropout)
        batch_size = self.batch_size[int(random.random() * len(self.batch_size))]
        augmentation = self.augmentation[int(random.random() * len(self.augmentation))]
        return Settings(rates[0], rates[1], dropout, batch_size, augmentation)


@dataclass(frozen=True)
class SearchTrial:
    """One trial of the search: a row of its table."""

    number: int
    settings: Settings
    status: Literal["ok", "diverged"]
    reason: str
    """Empty where all is well."""
    epochs: int
    """Those it ran, up to where validation stopped it."""
    best_epoch: int
    """The epoch, from 1, whose net counts; 0 for a trial that failed."""
    validation_error: float | None
    """Share of validation images classified wrongly at the best epoch."""


@dataclass(frozen=True, eq=False)
class SearchOutcome:
    """All trials, which of them was chosen by its validation error alone, and what its net says."""

    trials: tuple[SearchTrial, ...]
    chosen: SearchTrial
    net: Classifier
    predictions_M: NDArray[np.int64]


class Classifier(nn.Module):
    """D's blocks with a softmax layer in place of its one linear unit; logits (N, classes)."""

    def __init__(self, spec: NetSpec, classes: int, seed: int) -> None:
        super().__init__()
        self.spec = replace(spec, classes=0)  # a conditional D would be told the answer
        _, discriminator = build(self.spec, seed)
        self.blocks, self.dense = discriminator.blocks, discriminator.dense
        self.output = nn.Linear(discriminator.logit.in_features, classes)
        nn.init.normal_(self.output.weight, 0.0, 0.02, generator=torch.Generator().manual_seed(seed + 1))
        nn.init.zeros_(self.output.bias)

    def forward(self, x_NCHW: Tensor, kept_NF: Tensor | None = None) -> Tensor:
        """``kept_NF`` float32: what the last features are multiplied by (dropout), where given."""
        h = x_NCHW
        for block in self.blocks:
            h = block(h)
        h = h.flatten(1)
        for layer in self.dense:
            h = layer(h)
        return self.output(h if kept_NF is None else h * kept_NF)


def random_search(
    spec: NetSpec,
    train_images_NHW3: NDArray[np.uint8],
    train_labels_N: NDArray[np.int64],
    validation_images_VHW3: NDArray[np.uint8],
    validation_labels_V: NDArray[np.int64],
    test_images_MHW3: NDArray[np.uint8],
    *,
    classes: int,
    trials: int,
    epochs: int,
    patience: int,
    seed: int,
    space: Space | None = None,
    validate_every: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> SearchOutcome:
    """Train ``trials`` nets; the one with the smallest validation error (the earlier of equals) is tested.

    Paper, section 5.2: a CNN of D's architecture, tuned by random search, 28.87 % validation error on SVHN
    with 1,000 labels. Images are uint8 RGB of ``spec.size`` pixels, labels 0 to ``classes`` - 1. After every
    ``validate_every`` epochs the validation error is looked at, with running batch-norm statistics; a trial
    ends after ``epochs``, or ``patience`` looks without a smaller error, and counts as it was at its best.
    Test images are seen once, by the chosen net; there are no test labels here. Trial i is the same however
    many there are. ``dtype`` bfloat16 autocasts. ``progress`` counts epochs. A trial that diverges is a row
    with a reason; raises NoUsableData where all do, ConfigError where there is nothing to choose by.
    """
    if min(len(train_labels_N), len(validation_labels_V), trials, epochs) < 1:
        raise ConfigError(
            f"{trials} trials of {epochs} epochs on {len(train_labels_N)} training and "
            f"{len(validation_labels_V)} validation images choose nothing; each must be 1 or more"
        )
    net_spec = replace(spec, classes=0)
    held = _Held(_pixels(validation_images_VHW3), torch.from_numpy(validation_labels_V))
    rows: list[SearchTrial] = []
    best: tuple[SearchTrial, Classifier] | None = None
    smallest = math.inf
    for number in range(trials):
        random = np.random.default_rng([seed, number])
        settings = (space or Space()).draw(random)

        def report(epoch: int, note: str, number: int = number) -> None:
            progress(number * epochs + epoch, trials * epochs, f"trial {number + 1} of {trials}: {note}")

        fit = _Fit(
            net=Classifier(net_spec, classes, int(random.integers(2**62))),
            settings=settings,
            pixels_N3HW=_pixels(train_images_NHW3),
            labels_N=torch.from_numpy(train_labels_N),
            random=torch.Generator().manual_seed(int(random.integers(2**62))),
            device=torch.device(device),
            dtype=dtype,
        )
        row, net = _trial(number, fit, held, epochs, patience, validate_every, report)
        rows.append(row)
        if row.validation_error is not None and row.validation_error < smallest:
            best, smallest = (row, net), row.validation_error
    if best is None:
        advice = "All trials diverged; lower the learning rates that are drawn from (Space.learning_rate)"
        raise NoUsableData("the supervised baseline", {"diverged": len(rows)}, advice)
    chosen, net = best
    net = net.to(device)
    predictions_M = predict(net, test_images_MHW3, device=device, dtype=dtype)
    return SearchOutcome(tuple(rows), chosen, net.cpu(), predictions_M)


def predict(
    net: Classifier,
    images_NHW3: NDArray[np.uint8],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.int64]:
    """The classes (N,) that the net, which lies on ``device``, gives uint8 RGB images of its size."""
    return _logits(net, _pixels(images_NHW3), torch.device(device), dtype).argmax(1).numpy()


def augmented(x_NCHW: Tensor, noise_N3: Tensor, how: Augmentation, fill: float) -> Tensor:
    """Images (N, C, H, W) flipped left to right or moved by up to an eighth of their side, or both.

    ``noise_N3`` float32 in [0, 1) decides for each image: whether it is flipped, and its two shifts. What
    comes in at an edge is ``fill``.
    """
    h = x_NCHW
    if "flip" in how:
        h = torch.where(noise_N3[:, 0].view(-1, 1, 1, 1) < 0.5, h.flip(3), h)
    if "translation" in how:
        for axis, column_N in ((2, noise_N3[:, 1]), (3, noise_N3[:, 2])):
            side = h.shape[axis]
            most = max(1, round(side * SHIFT))
            shift_N1 = (column_N * (2 * most + 1)).long()[:, None] - most
            from_NS = torch.arange(side, device=h.device) + shift_N1
            shape = (-1, 1, side, 1) if axis == 2 else (-1, 1, 1, side)
            outside = ((from_NS < 0) | (from_NS >= side)).view(shape)
            h = h.gather(axis, from_NS.clamp(0, side - 1).view(shape).expand_as(h)).masked_fill(outside, fill)
    return h


@dataclass(frozen=True, eq=False)
class _Held:
    """The validation part."""

    pixels_V3HW: Tensor
    labels_V: Tensor


@dataclass(frozen=True, eq=False)
class _Fit:
    """A net and all that its training depends on."""

    net: Classifier
    settings: Settings
    pixels_N3HW: Tensor
    labels_N: Tensor
    random: torch.Generator
    device: torch.device
    dtype: torch.dtype

    def epochs(self) -> Iterator[float]:
        """Train without end; after each epoch its mean loss."""
        net = self.net.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        adam = torch.optim.Adam(
            net.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        count = len(self.labels_N)
        while True:
            net.train()
            total = torch.zeros((), device=self.device)
            # As even as can be: a small last batch would upset batch norm.
            order_N = torch.randperm(count, generator=self.random)
            for rows_B in order_N.tensor_split(max(1, count // self.settings.batch_size)):
                loss = self._loss(net, rows_B)
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
                total += loss.detach() * len(rows_B)
            yield float(total) / count

    def _loss(self, net: Classifier, rows_B: Tensor) -> Tensor:
        x_BCHW = to_inputs(self.pixels_N3HW[rows_B].to(self.device), net.spec)
        # Drawn on the processor whatever the settings and the device: the same trial everywhere.
        noise_B3 = torch.rand(len(rows_B), 3, generator=self.random).to(self.device)
        x_BCHW = augmented(x_BCHW, noise_B3, self.settings.augmentation, sum(net.spec.data_range) / 2)
        kept_BF = torch.rand(len(rows_B), net.output.in_features, generator=self.random).to(self.device)
        kept_BF = (kept_BF >= self.settings.dropout).float() / (1 - self.settings.dropout)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits_BC = net(x_BCHW.contiguous(memory_format=torch.channels_last), kept_BF)
        return F.cross_entropy(logits_BC.float(), self.labels_N[rows_B].to(self.device))


def _trial(
    number: int,
    fit: _Fit,
    held: _Held,
    epochs: int,
    patience: int,
    validate_every: int,
    report: Callable[[int, str], None],
) -> tuple[SearchTrial, Classifier]:
    """The trial's row, and its net as it was at the smallest validation error."""
    net, best_error, best_epoch, best_net = fit.net, math.inf, 0, fit.net
    looks, epoch, reason = 0, 0, ""
    for epoch, loss in zip(range(1, epochs + 1), fit.epochs(), strict=False):
        report(epoch, f"loss {loss:.3f}")
        if not math.isfinite(loss):
            reason = f"the loss was {loss} in epoch {epoch}"
            break
        if epoch % validate_every and epoch < epochs:
            continue
        logits_VC = _logits(net, held.pixels_V3HW, fit.device, fit.dtype)
        if not bool(logits_VC.isfinite().all()):
            reason = f"the outputs were not finite after epoch {epoch}"
            break
        error = float((logits_VC.argmax(1) != held.labels_V).double().mean())
        looks += 1
        if error < best_error:
            best_error, best_epoch, best_net, looks = error, epoch, copy.deepcopy(net).cpu(), 0
        elif looks >= patience:
            break
    if reason:
        return SearchTrial(number, fit.settings, "diverged", reason, epoch, 0, None), net
    return SearchTrial(number, fit.settings, "ok", "", epoch, best_epoch, best_error), best_net


@torch.inference_mode()
def _logits(
    net: Classifier, pixels_N3HW: Tensor, device: torch.device, dtype: torch.dtype, batch: int = 500
) -> Tensor:
    """Float32 (N, classes) on the processor, with running statistics."""
    net.eval()
    logits = []
    for pixels_B3HW in pixels_N3HW.split(batch):
        x_BCHW = to_inputs(pixels_B3HW.to(device), net.spec).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits.append(net(x_BCHW).float().cpu())
    return torch.cat(logits)


def _pixels(images_NHW3: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHW3)).permute(0, 3, 1, 2)
