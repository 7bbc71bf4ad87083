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


def per_class_draw(
    labels_N: NDArray[np.int64], per_class: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``per_class`` rows of every class, in random order: (classes x per_class,).

    Raises ConfigError that names the class with the fewest images where it has fewer than that.
    """
    classes_K, sizes_K = np.unique(labels_N, return_counts=True)
    if len(sizes_K) and sizes_K.min() < per_class:
        raise ConfigError(
            f"class {classes_K[sizes_K.argmin()]} has {sizes_K.min()} images and {per_class} of each class "
            "are to be drawn; add images of it, or ask for fewer labels a class"
        )
    return rng.permutation(np.flatnonzero(_ranks(labels_N, rng) < per_class))


def stratified_draw(labels_N: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``most`` rows in random order that keep the classes' shares (each to within one row or so)."""
    _, places_N, sizes_K = np.unique(labels_N, return_inverse=True, return_counts=True)
    quantiles_N = (_ranks(labels_N, rng) + 0.5) / sizes_K[places_N]
    order = np.lexsort((rng.random(len(labels_N)), quantiles_N))
    return rng.permutation(order[:most])


def most_drawn(sizes_K: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """How many rows of classes of these sizes ``stratified_draw`` takes at most, (K,), ``most`` at least 1.

    Exact but for who loses a tie for the last rows: each class is taken to win it.
    """
    quantiles = [(np.arange(size) + 0.5) / size for size in sizes_K.tolist()]
    last = np.sort(np.concatenate(quantiles))[:most][-1]
    return np.array([np.count_nonzero(quantiles_N <= last) for quantiles_N in quantiles], np.int64)


def held_out(
    labels_N: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kept, held): rows in random order, exactly ``count`` of them held with the classes' own shares.

    What the SVHN protocol splits off the training part for validation (10,000; paper, section 5.2). Raises
    ConfigError where that leaves nothing.
    """
    if not 0 < count < len(labels_N):
        raise ConfigError(
            f"{count} of {len(labels_N)} images cannot be held out; hold out fewer, or add images"
        )
    held = stratified_draw(labels_N, count, rng)
    return rng.permutation(np.setdiff1d(np.arange(len(labels_N)), held)), held


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
            "add images of it or leave it out"
        )
    held_K = np.clip(np.rint(share * sizes_K), 1, sizes_K - 1)
    is_held_N = _ranks(labels_N, rng) < held_K[places_N]
    return rng.permutation(np.flatnonzero(~is_held_N)), rng.permutation(np.flatnonzero(is_held_N))


def split_by_place(
    labels_N: NDArray[np.int64], place_N: NDArray[np.float64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kept, held): rows in random order, held if their places on [0, 1) (N,) lie below ``share``.

    A row stays on its side whatever other rows there are, so the share of a class is only about ``share``. If
    a class of two rows or more would have none on a side, its lowest row is held, or its highest one kept.
    """
    is_held_N = place_N < share
    for label in np.unique(labels_N).tolist():
        rows = np.flatnonzero(labels_N == label)
        if len(rows) > 1 and not is_held_N[rows].any():
            is_held_N[rows[place_N[rows].argmin()]] = True
        elif len(rows) > 1 and is_held_N[rows].all():
            is_held_N[rows[place_N[rows].argmax()]] = False
    return rng.permutation(np.flatnonzero(~is_held_N)), rng.permutation(np.flatnonzero(is_held_N))


def stratified_folds(
    labels_N: NDArray[np.int64], rows: NDArray[np.int64], count: int
) -> list[NDArray[np.int64]]:
    """``rows`` dealt out to ``count`` disjoint folds, each class as evenly as it goes, in the order given.

    Raises ConfigError for a class with fewer rows than folds.
    """
    classes_K, sizes_K = np.unique(labels_N[rows], return_counts=True)
    if sizes_K.min() < count:
        raise ConfigError(
            f"class {classes_K[sizes_K.argmin()]} has {sizes_K.min()} images, too few for {count} folds; "
            "take fewer folds or more labels"
        )
    by_class = rows[np.argsort(labels_N[rows], kind="stable")]
    return [by_class[first::count] for first in range(count)]


def _ranks(labels_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Each row's place (0, 1, ...) in a random order of its own class."""
    shuffled = rng.permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    sorted_labels = labels_N[by_class]
    ranks_N = np.empty(len(labels_N), np.int64)
    ranks_N[by_class] = np.arange(len(labels_N)) - np.searchsorted(sorted_labels, sorted_labels)
    return ranks_N
