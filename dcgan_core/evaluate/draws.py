"""Which rows of a labelled set are drawn: balanced draws and stratified splits, by a passed generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcgan_core.errors import ConfigError


def balanced_draw(labels_N: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``most`` rows in random order, as evenly over the classes as their sizes allow.

    No class gets two rows more than another that still has rows left. All rows, shuffled, if they fit.
    """
    order = np.lexsort((rng.random(len(labels_N)), _ranks(labels_N, rng)))
    return rng.permutation(order[:most])


def stratified_draw(labels_N: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``most`` rows in random order that keep the classes' shares (each to within one row or so)."""
    _, places_N, sizes_K = np.unique(labels_N, return_inverse=True, return_counts=True)
    quantiles_N = (_ranks(labels_N, rng) + 0.5) / sizes_K[places_N]
    order = np.lexsort((rng.random(len(labels_N)), quantiles_N))
    return rng.permutation(order[:most])


def stratified_split(
    labels_N: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kept, held): rows in random order, ``share`` of every class held, at least one on either side.

    Raises ConfigError for a class with a single row, which cannot be on both sides.
    """
    classes_K, places_N, sizes_K = np.unique(labels_N, return_inverse=True, return_counts=True)
    if sizes_K.min() < 2:
        raise ConfigError(
            f"class {classes_K[sizes_K.argmin()]} has a single image and cannot be split; "
            "add images of it, leave it out, or raise evaluate.max_train"
        )
    held_K = np.clip(np.rint(share * sizes_K), 1, sizes_K - 1)
    is_held_N = _ranks(labels_N, rng) < held_K[places_N]
    return rng.permutation(np.flatnonzero(~is_held_N)), rng.permutation(np.flatnonzero(is_held_N))


def _ranks(labels_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Each row's place (0, 1, ...) in a random order of its own class."""
    shuffled = rng.permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    sorted_labels = labels_N[by_class]
    ranks_N = np.empty(len(labels_N), np.int64)
    ranks_N[by_class] = np.arange(len(labels_N)) - np.searchsorted(sorted_labels, sorted_labels)
    return ranks_N
