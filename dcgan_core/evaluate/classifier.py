"""A small classifier trained on the labelled set at hand, whose features samples are compared in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_core.errors import ConfigError, TrainingDiverged
from dcgan_core.models.inputs import scaled
from dcgan_core.progress import Progress, silent

_KERNEL = 5
_LEAK = 0.2


class ClassifierFeatures(nn.Module):
    """D's convolutions (5x5, stride 2, batch norm but on the first, leaky ReLU) with a softmax behind.

    Maps are halved until their side is at most 4, filters double from ``width``; the last maps' means are
    the features, 4 x width of them at 32 px. Images of any side from 8 px on. Distances in these features
    are of this net and this set: they are no FID.
    """

    def __init__(self, size: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.size = size
        blocks: list[nn.Module] = []
        filters, side = 3, size
        while side > 4 or not blocks:
            wanted = width * 2 ** len(blocks)
            norm = nn.BatchNorm2d(wanted) if blocks else nn.Identity()
            convolution = nn.Conv2d(filters, wanted, _KERNEL, 2, _KERNEL // 2, bias=not blocks)
            blocks.append(nn.Sequential(convolution, norm, nn.LeakyReLU(_LEAK, inplace=True)))
            filters, side = wanted, (side + 1) // 2
        self.blocks = nn.Sequential(*blocks)
        self.logits = nn.Linear(filters, classes)

    def features(self, x_N3HW: Tensor) -> Tensor:
        """The layer before the softmax, float32 (N, F), of images in [-1, 1]."""
        return self.blocks(x_N3HW).mean((2, 3))

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.logits(self.features(x_N3HW))


def trained_classifier(
    images_NHW3: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    *,
    seed: int,
    epochs: int = 10,
    width: int = 64,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> ClassifierFeatures:
    """A net for labels 0, 1, ..., trained by Adam with a linear decay, in eval mode on ``device``.

    Weights, orders and so the net follow from ``seed``; on a processor bit by bit for one number of
    threads. Give it no test image: its features are to judge these. Raises ConfigError for images that are
    not square or fewer than two classes, and TrainingDiverged where the loss is not finite.
    """
    if images_NHW3.shape[1] != images_NHW3.shape[2] or images_NHW3.shape[1] < 8:
        raise ConfigError(f"images of shape {images_NHW3.shape[1:]}: the classifier takes squares from 8 px")
    classes = int(labels_N.max(initial=-1)) + 1
    if classes < 2 or len(images_NHW3) < 2:
        raise ConfigError(f"{len(images_NHW3)} images of {classes} classes: the classifier needs two or more")
    random = torch.Generator().manual_seed(seed)
    net = ClassifierFeatures(images_NHW3.shape[1], classes, width)
    _initialise(net, random)
    net.to(device).train()
    adam = torch.optim.Adam(net.parameters(), lr=learning_rate)
    steps, step = epochs * max(1, len(images_NHW3) // batch_size), 0
    labels = torch.from_numpy(labels_N)
    for _ in range(epochs):
        for rows in _minibatches(len(images_NHW3), batch_size, random):
            for group in adam.param_groups:
                group["lr"] = learning_rate * (1 - step / steps)
            loss = F.cross_entropy(net(_inputs(images_NHW3[rows.numpy()], device)), labels[rows].to(device))
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            step += 1
            if step % 20 == 0 or step == steps:  # reading the loss waits for the device
                _require_finite(loss, step)
                progress(step, steps, f"classifier: step {step} of {steps}, loss {loss.item():.3f}")
    return net.eval()


@torch.inference_mode()
def classifier_features(
    net: ClassifierFeatures, images_NHW3: NDArray[np.uint8], *, batch_size: int = 256
) -> Tensor:
    """Features of the layer before the softmax, float32 (N, F), on the net's device."""
    return torch.cat([net.features(x_B3HW) for x_B3HW in _in_batches(net, images_NHW3, batch_size)])


@torch.inference_mode()
def classifier_logits(
    net: ClassifierFeatures, images_NHW3: NDArray[np.uint8], *, batch_size: int = 256
) -> Tensor:
    """Logits float32 (N, K), on the net's device: for its accuracy, which belongs beside its distances."""
    return torch.cat([net(x_B3HW) for x_B3HW in _in_batches(net, images_NHW3, batch_size)])


def _in_batches(net: ClassifierFeatures, images_NHW3: NDArray[np.uint8], batch_size: int) -> Iterator[Tensor]:
    net.eval()  # so that an image's features do not depend on those beside it
    side = images_NHW3.shape[1:3]
    if side != (net.size, net.size):
        raise ConfigError(f"images of {side} px for a classifier of {net.size} px: scale them first")
    device = next(net.parameters()).device
    for start in range(0, len(images_NHW3), batch_size):
        yield _inputs(images_NHW3[start : start + batch_size], device)


def _inputs(images_BHW3: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    pixels_BHW3 = torch.from_numpy(np.ascontiguousarray(images_BHW3)).to(device)
    return scaled(pixels_BHW3.permute(0, 3, 1, 2), 3).contiguous()


def _minibatches(n: int, batch_size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Rows in a new order; a last small batch, which would upset batch norm, is left out."""
    order = torch.randperm(n, generator=random)
    for start in range(0, max(1, n // batch_size) * batch_size, batch_size):
        yield order[start : start + batch_size]


def _initialise(net: ClassifierFeatures, random: torch.Generator) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, _LEAK, nonlinearity="leaky_relu", generator=random)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _require_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise TrainingDiverged(step, "classifier_loss", "the classifier's loss is not finite")
