"""The protocol `mnist-nn`: test images take the label of the nearest sample of a conditional generator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.datasets import Labelled
from dcgan_core.evaluate.nearest import NearestNeighbours, at_marks
from dcgan_core.evaluate.protocols import Outcome, outcome_of
from dcgan_core.models.inputs import grey_bytes
from dcgan_core.models.sampling import Weights, pixels_in_batches
from dcgan_core.models.weights import Model
from dcgan_core.progress import Progress, silent

_BATCH = 1024
_Batch = tuple[Tensor, Tensor | None]


def name_of(count: int) -> str:
    """The protocol's name in tables for so many samples."""
    return f"nearest of {count:,}"


def of_samples(
    model: Model,
    data: Labelled,
    counts: Sequence[int],
    *,
    seed: int,
    weights: Weights,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Outcome]:
    """An outcome for each number of samples, which are streamed in one pass (paper, appendix: MNIST).

    Classes are drawn in turn, so that any number of samples has all of them. Nothing is chosen or fitted:
    test labels judge alone. Raises ConfigError for a net without the set's classes.
    """
    if model.spec.classes != len(data.classes):
        has = f"draws {model.spec.classes} classes" if model.spec.classes else "is not told classes"
        raise ConfigError(
            f"the protocol mnist-nn needs a generator of the set's {len(data.classes)} classes, and "
            f"{model.spec.name} {has}: train mnist28, or judge the set by another protocol"
        )
    batches = pixels_in_batches(
        model, max(counts), seed=seed, weights=weights, device=device, batch_size=_BATCH
    )
    return _judged(data, batches, counts, model.spec.channels, device, progress)


def of_images(
    data: Labelled,
    counts: Sequence[int],
    *,
    channels: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Outcome]:
    """The same by the nearest of so many real training images, as far as there are so many.

    One outcome at least: of all training images, where no number is small enough.
    """
    many = len(data.train_labels_N)
    fitting = [count for count in counts if count <= many] or [many]

    def batches() -> Iterator[_Batch]:
        for start in range(0, many, _BATCH):
            rows = slice(start, start + _BATCH)
            pixels_BCSS = grey_bytes(_channels_first(data.train_images_NHW3[rows]), channels)
            yield pixels_BCSS, torch.from_numpy(data.train_labels_N[rows])

    return _judged(data, batches(), fitting, channels, device, progress)


def _judged(
    data: Labelled,
    batches: Iterable[_Batch],
    counts: Sequence[int],
    channels: int,
    device: str,
    progress: Progress,
) -> list[Outcome]:
    search = NearestNeighbours(grey_bytes(_channels_first(data.test_images_NHW3), channels), device=device)
    classes, found = len(data.classes), []
    for count in at_marks(search, batches, counts, progress):
        said_M = search.label_Q.cpu().numpy().copy()  # further samples change it
        found.append(outcome_of(name_of(count), count, data.test_labels_N, classes, [said_M]))
    return found


def _channels_first(images_NHW3: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHW3.transpose(0, 3, 1, 2)))
