"""Whether a labelled set has as many images as its protocol draws, told before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcgan_core.config import CIFAR_LABELS, SVHN_LABELS, SVHN_VALIDATION, EvaluateConfig, LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import most_drawn


@dataclass(frozen=True, eq=False)
class Counts:
    """Training images of each class (K,): those used, and those there would be without a limit."""

    classes: tuple[str, ...]
    used_K: NDArray[np.int64]
    available_K: NDArray[np.int64]


def check_enough(spec: LabelledSet, config: EvaluateConfig, counts: Counts) -> None:
    """Raises ConfigError where a protocol of the set needs more training images than are used.

    It names the class that has too few, and what to set: `evaluate.max_train` with the value that is needed
    where the set has enough, another setting where it has not.
    """
    if spec.protocol == "mnist-nn":  # learns from samples
        return
    if spec.protocol == "svhn":
        _check_svhn(spec, config, counts)
        return
    _check_each(spec, config, counts, 2, "to learn from and to choose C by", "add images, or leave it out")
    few = (CIFAR_LABELS,) if spec.protocol == "cifar10" else config.labels_per_class
    for per_class in sorted(few):
        why = f"{per_class:,} labels in each of evaluate.folds = {config.folds}"
        smallest = int(counts.available_K.min())
        cures = (
            [f"set evaluate.folds to {smallest // per_class} at most"] if smallest >= 2 * per_class else []
        )
        if spec.protocol == "cifar10":
            cures.append("give the set the protocol labelled")
        elif smallest // config.folds >= 2:
            cures.append(f"have no more than {smallest // config.folds} in evaluate.labels_per_class")
        else:
            cures.append(f"leave {per_class} out of evaluate.labels_per_class")
        _check_each(spec, config, counts, per_class * config.folds, why, ", or ".join(cures))


def _check_each(
    spec: LabelledSet, config: EvaluateConfig, counts: Counts, needed: int, why: str, otherwise: str
) -> None:
    """Every class needs so many images."""
    if counts.used_K.min() >= needed:
        return
    if counts.available_K.min() >= needed:  # as many of each are drawn before any gets more
        cure = _max_train(config, counts, needed * len(counts.classes))
        raise ConfigError(f"{_needs(spec, needed, why)}, and {_has(counts, counts.used_K)}; {cure}")
    raise ConfigError(
        f"{_needs(spec, needed, why)}, and the whole training part's {_has(counts, counts.available_K)}; "
        f"{otherwise}"
    )


def _check_svhn(spec: LabelledSet, config: EvaluateConfig, counts: Counts) -> None:
    """Enough of every class are left beside the images that choose C, whatever draw holds these back."""
    if _left(counts.used_K) >= SVHN_LABELS:
        return
    classes, available = len(counts.classes), int(counts.available_K.sum())
    balanced = SVHN_VALIDATION + classes * SVHN_LABELS
    each = -(-balanced // classes)
    what = (
        f"labelled set {spec.name}: the protocol svhn chooses C by {SVHN_VALIDATION:,} training images and "
        f"learns from {SVHN_LABELS} others of each class, and {int(counts.used_K.sum()):,} training images "
        "are used"
    )
    if counts.available_K.min() >= each:
        raise ConfigError(f"{what}; {_max_train(config, counts, each * classes)}")
    if _left(counts.available_K) >= SVHN_LABELS:
        raise ConfigError(f"{what}; {_max_train(config, counts, available)}")
    raise ConfigError(
        f"{what}, where the whole training part's {available:,} are too few; give the set the protocol "
        "labelled"
    )


def _left(sizes_K: NDArray[np.int64]) -> int:
    """Images of the class with the fewest once the validation part is held back; 0 where nothing is left."""
    if sizes_K.sum() <= SVHN_VALIDATION:
        return 0
    return int((sizes_K - most_drawn(sizes_K, SVHN_VALIDATION)).min())


def _needs(spec: LabelledSet, needed: int, why: str) -> str:
    what = f"labelled set {spec.name}: the protocol {spec.protocol}"
    return f"{what} needs {needed:,} images of each class ({why})"


def _has(counts: Counts, sizes_K: NDArray[np.int64]) -> str:
    fewest = int(sizes_K.argmin())
    return f"class {counts.classes[fewest]} has {sizes_K[fewest]:,}"


def _max_train(config: EvaluateConfig, counts: Counts, needed: int) -> str:
    return (
        f"set evaluate.max_train to {needed} or more (it is {config.max_train}, and the training part has "
        f"{int(counts.available_K.sum()):,} images)"
    )
