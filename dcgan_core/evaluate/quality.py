"""Measures of a generator: samples beside real images, each measure by its name in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcgan_core.config import Json
from dcgan_core.evaluate.classifier import ClassifierFeatures
from dcgan_core.evaluate.distances import classifier_distances, inception_distances
from dcgan_core.evaluate.diversity import mean_pairwise_distance, vendi_score
from dcgan_core.evaluate.inception import Inception
from dcgan_core.evaluate.memorisation import Memorisation, memorisation
from dcgan_core.evaluate.nearest import distance_curve
from dcgan_core.evaluate.summary import Summary
from dcgan_core.models.inputs import scaled
from dcgan_core.progress import Progress, silent

NEAREST_MARKS = (1_000, 10_000, 100_000)
"""Numbers of samples after which the authors looked at the nearest one."""
PAIRS_OF = 2_000
"""Images whose pairs diversity is the mean of: two million pairs."""
Batches = Iterable[Tensor]
"""Images uint8 (B, C, S, S), on the device that computes."""


_ONE_CLASSIFIER = "in features of a classifier trained here, comparable for it alone"
_COPIES = "distances to the nearest training image, of samples beside unseen images"
TITLES: dict[str, tuple[str, str]] = {
    "mean_pairwise_distance": (
        "Mean distance of two samples",
        "root mean square per value, pixels in [-1, 1]; like real images is best",
    ),
    "pixels_copying_z": (
        "Copying (z), pixels",
        f"{_COPIES}; about 0, below -3: copies, far above 0: far off",
    ),
    "pixels_copied_share": ("Copied share, pixels", "samples nearer than 99 % of unseen images are"),
    "pixels_nearer_share": (
        "Nearer share, pixels",
        "pairs in which the sample is nearer than the unseen image",
    ),
    "classifier_copying_z": ("Copying (z), classifier", f"the same {_ONE_CLASSIFIER}"),
    "classifier_copied_share": ("Copied share, classifier", f"the same {_ONE_CLASSIFIER}"),
    "classifier_nearer_share": ("Nearer share, classifier", f"the same {_ONE_CLASSIFIER}"),
    "classifier_frechet_distance": (
        "Frechet distance, classifier",
        f"{_ONE_CLASSIFIER}: no FID; lower is better",
    ),
    "classifier_kernel_distance": (
        "Kernel distance, classifier",
        f"{_ONE_CLASSIFIER}: no KID; lower is better",
    ),
    "classifier_precision": ("Precision, classifier", f"samples that look real, {_ONE_CLASSIFIER}"),
    "classifier_recall": ("Recall, classifier", f"real images that can be drawn, {_ONE_CLASSIFIER}"),
    "classifier_vendi_score": (
        "Vendi score, classifier",
        f"effective number of different images, {_ONE_CLASSIFIER}",
    ),
    "classifier_accuracy": ("Accuracy of that classifier", "on the test images of its own set"),
    "fid": ("FID", "Inception's features, training images; lower is better"),
    "kid": ("KID", "Inception's features, 100 subsets; lower is better"),
    "precision": ("Precision", "Inception's features; higher is better"),
    "recall": ("Recall", "Inception's features; higher is better"),
    "vendi_score": ("Vendi score", "effective number of different samples in Inception's features"),
    "inception_score": ("Inception score", "of samples alone; higher is better"),
}
"""Each figure's title and meaning, for tables."""


@dataclass(frozen=True)
class Value:
    """A figure, with what it takes to read it."""

    name: str
    value: float
    error: float | None = None
    """Standard error or deviation, where there is one."""
    real: float | None = None
    """The same figure of real images, where that says what to hope for."""

    def to_json(self) -> dict[str, Json]:
        """With its title and meaning, so that whoever shows it needs nothing from here."""
        title, meaning = title_of(self.name)
        return {**vars(self), "title": title, "meaning": meaning}


@dataclass(frozen=True, eq=False)
class Measured:
    """What a measure found, of how many images."""

    values: Sequence[Value]
    images: dict[str, int]
    """Numbers of images by what they were: ``samples``, ``real``, ``training``, ``unseen``."""
    nearest: Memorisation | None = field(default=None)
    """Of pixels, where it was looked for: the pairs that lie closest can be shown."""


def pixels(
    samples: Tensor,
    real: Tensor,
    training: Tensor | None,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Measured:
    """Nearest-neighbour distances and diversity, of uint8 (N, C, S, S).

    ``real``: images whose nearest sample is sought, unseen ones where there are any. ``training``: as many
    real images as there are samples, to state the distance that real images have; None where ``real`` are
    training images themselves, which have distance 0.
    """
    marks = sorted({mark for mark in NEAREST_MARKS if mark < len(samples)} | {len(samples)})
    curve = distance_curve(real, samples.split(4096), marks, device=device, progress=progress)
    hoped: dict[int, float] = {}
    if training is not None:
        within = [mark for mark in marks if mark <= len(training)]
        batches = training.split(4096)
        points = distance_curve(real, batches, within, device=device, progress=progress) if within else []
        hoped = {point.samples: point.value for point in points}
    values = [
        Value(f"nearest_sample_distance_{point.samples}", point.value, point.error, hoped.get(point.samples))
        for point in curve
    ]
    apart, hoped_apart = (
        mean_pairwise_distance(_flat(each[:PAIRS_OF]).to(device)) for each in (samples, real)
    )
    values.append(Value("mean_pairwise_distance", apart, real=hoped_apart))
    return Measured(values, {"samples": len(samples), "real": len(real)})


def copying(
    samples: Tensor,
    training: Tensor,
    unseen: Tensor,
    features: Callable[[Tensor], Tensor] | None = None,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Measured:
    """Whether samples are nearer to training images than unseen images are, in pixels and in features."""
    found = memorisation(samples, training, unseen, device=device, progress=progress)
    values = _copying_values("pixels", found)
    if features is not None:
        three = [features(each) for each in (samples, training, unseen)]
        values += _copying_values("classifier", memorisation(*three, device=device, quick=True))
    images = {"samples": len(samples), "training": len(training), "unseen": len(unseen)}
    return Measured(values, images, found)


def in_classifier(
    net: ClassifierFeatures, samples: Batches, real: Summary, accuracy: float, rng: np.random.Generator
) -> Measured:
    """Distances in the features of a classifier trained here: comparable for that classifier alone."""
    generated = summary_of(samples, lambda batch: features_of(net, batch), "samples")
    device = next(net.parameters()).device
    found = classifier_distances(real, generated, rng, device=device)
    hoped = {"classifier_vendi_score": vendi_score(real.kept_NF.to(device))}
    values = [replace(value, real=hoped.get(value.name)) for value in _with_deviations(found)]
    values.append(Value("classifier_accuracy", accuracy))
    return Measured(values, {"samples": generated.seen.count, "real": real.seen.count})


def in_inception(net: Inception, samples: Batches, real: Summary, rng: np.random.Generator) -> Measured:
    """FID, KID, precision, recall and Inception score."""
    generated, logits = Summary("samples"), []
    for batch in samples:
        features_BF, logits_BK = net(batch.expand(-1, 3, -1, -1))
        generated.update(features_BF)
        logits.append(logits_BK)
    found = inception_distances(real, generated, torch.cat(logits), rng, device=net.device)
    images = {
        "samples": int(found.pop("fid_generated_images")),
        "real": int(found.pop("fid_real_images")),
    }
    return Measured(_with_deviations(found), images)


def summary_of(batches: Iterable[Any], features: Callable[[Any], Tensor], what: str) -> Summary:
    """Moments and rows of the features of some images, in whatever form ``features`` takes them."""
    summary = Summary(what)
    for batch in batches:
        summary.update(features(batch))
    return summary


@torch.inference_mode()
def features_of(net: ClassifierFeatures, pixels_BCSS: Tensor) -> Tensor:
    """The classifier's features float32 (B, F) of bytes with one or three channels, 256 at a time."""
    device = next(net.parameters()).device
    batches = pixels_BCSS.split(256)
    found = [net.features(scaled(batch.to(device).expand(-1, 3, -1, -1), 3)) for batch in batches]
    return torch.cat(found)


def _with_deviations(found: dict[str, float]) -> list[Value]:
    """Figures by name, with what is called ``..._sd`` beside its own figure."""
    return [
        Value(name, value, found.get(f"{name}_sd"))
        for name, value in found.items()
        if not name.endswith("_sd")
    ]


def _copying_values(space: str, found: Memorisation) -> list[Value]:
    return [
        Value(f"{space}_copying_z", found.copying_z),
        Value(f"{space}_copied_share", found.copied_share, real=0.01),
        Value(f"{space}_nearer_share", found.nearer_share, real=0.5),
    ]


def title_of(name: str) -> tuple[str, str]:
    """Title and meaning of a figure by its name."""
    if name.startswith("nearest_sample_distance_"):
        count = int(name.rpartition("_")[2])
        return f"Distance to the nearest of {count:,} samples", "mean over real images; lower is better"
    return TITLES[name]


def _flat(pixels_NCSS: Tensor) -> Tensor:
    return pixels_NCSS.flatten(1).float() / 127.5 - 1
