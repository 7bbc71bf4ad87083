"""Which images are held out of training: each photo's own key decides, whatever else is in the set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dcgan_core.artifacts import Address, Manifest, all_manifests
from dcgan_core.errors import ConfigError
from dcgan_core.storage import Store

PATH = "held-out.json"
"""The threshold that the first training with a number of images has set for all later ones under the root."""

BELOW = "held_out_below"
"""Metric of a training's manifest: the threshold it was made with."""

_SALT = "held out"
"""Never the seed: a training with another seed holds out the same images."""


def share(key: str, seed: int | str) -> float:
    """A number in [0, 1) that depends on the key and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64


def places(keys: Iterable[str]) -> NDArray[np.float64]:
    """Where on [0, 1) each key lies (N,): what lies below a threshold is held out."""
    return np.fromiter((share(key, _SALT) for key in keys), np.float64)


@dataclass(frozen=True)
class Threshold:
    """The content of ``held-out.json``."""

    below: float
    """Photos whose keys lie below it are held out."""
    wanted: int
    """Images that were asked for when it was set."""
    training: str
    """The training that set it."""


def threshold(
    store: Store, address: Address, held_out: float, photo_keys: Callable[[], Sequence[str]]
) -> Threshold:
    """What ``train.held_out`` means for a training under a root; ``photo_keys`` gives that of each image.

    A share is its own threshold. A number of images becomes one when the first training under the root asks
    for it; later ones take that over, whatever number they name. So an image that was held out once is
    never trained on, and the reverse. It is written to ``held-out.json`` before training begins, and is in
    the manifest of every training that used it, from where the file is written again if it is lost.

    Raises ConfigError if fewer than two images would be on either side, or if the file cannot be read.
    """
    if held_out < 1:
        return Threshold(float(held_out), 0, str(address))
    if found := _written(store) or _in_manifests(store):
        if not store.exists(PATH):
            _write(store, found)
        return found
    wanted, places_N = int(held_out), np.sort(places(photo_keys()))
    if not 2 <= wanted <= len(places_N) - 2:
        raise ConfigError(_too_few(held_out, min(wanted, len(places_N)), len(places_N)))
    above_N = places_N[places_N > places_N[wanted - 1]]  # all images of a photo lie at one place
    # Between two photos and at neither: a threshold should not tell whether a certain photo was there.
    below = float((places_N[wanted - 1] + above_N[0]) / 2) if len(above_N) else 1.0
    check_sides(held_out, places_N < below)
    new = Threshold(below, wanted, str(address))
    _write(store, new)
    return new


def check_sides(held_out: float, is_held_N: NDArray[np.bool_], found: Threshold | None = None) -> None:
    """ConfigError unless two images or more are held out, and two or more are not."""
    held, total = int(np.count_nonzero(is_held_N)), len(is_held_N)
    if 2 <= held <= total - 2:
        return
    words = _too_few(held_out, held, total)
    if found is not None and held_out >= 1:
        words += (
            f". The threshold {found.below:.4f} in {PATH} was set by {found.training} for {found.wanted:,} "
            "images and holds for the whole root"
        )
    raise ConfigError(words)


def in_words(held_out: float, held: int, total: int, found: Threshold) -> str:
    """What is held out of a training, and by what, for its log."""
    words = f"holding out {held:,} of {total:,} images"
    if held_out < 1:
        return words
    return f"{words}, by the threshold {found.below:.4f} that {found.training} set for {found.wanted:,}"


def below_of(train: Manifest) -> float:
    """The threshold that a training was made with; 0 if it held nothing out."""
    return float(train.metrics.get(BELOW, 0.0))


def _too_few(held_out: float, held: int, total: int) -> str:
    return (
        f"train.held_out={held_out} holds out {held} of the {total} images in the shards: at least two must "
        "be held out, and two left to train on; set another share (train.held_out=0.1), or 0"
    )


def _written(store: Store) -> Threshold | None:
    try:
        found = json.loads(store.read_bytes(PATH))
        return Threshold(float(found["below"]), int(found["wanted"]), str(found["training"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{store.uri(PATH)} cannot be read; delete it: finished trainings note the same threshold, and "
            "the next training writes the file again from these"
        ) from None


def _in_manifests(store: Store) -> Threshold | None:
    for train in all_manifests(store, "train"):
        if (wanted := train.config.get("held_out", 0)) >= 1 and BELOW in train.metrics:
            return Threshold(below_of(train), int(wanted), str(train.address))
    return None


def _write(store: Store, found: Threshold) -> None:
    store.write_bytes(PATH, (json.dumps(asdict(found), indent=1) + "\n").encode())
