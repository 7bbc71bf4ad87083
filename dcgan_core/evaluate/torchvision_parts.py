"""CIFAR-10, SVHN, MNIST, Fashion-MNIST and STL-10 as labelled sets, from where torchvision keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcgan_core.artifacts import fingerprint_of
from dcgan_core.config import LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.hashes import files_sha256, joined
from dcgan_core.evaluate.parts import Part
from dcgan_core.scrape.array_sets import files_of, open_arrays, torchvision_set
from dcgan_core.scrape.image_sets import explained, files_identity, provide, root_of

_DIGITS = tuple("0123456789")
_CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "svhn": _DIGITS,
    "mnist": _DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "stl10": ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
}
"""As torchvision has them."""

_NAMES = {
    "cifar10": "CIFAR-10",
    "svhn": "SVHN, cropped digits",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "stl10": "STL-10",
}
SPLITS = ("train", "test")
"""SVHN's extra part is not used, nor STL-10's images without classes."""


@dataclass(frozen=True)
class _Files:
    """Where a set lies, for what reads it."""

    source: str
    path: str
    download: bool


def torchvision_part(spec: LabelledSet, split: str) -> Part:
    """A split (``train``, ``test``) as published. ConfigError where files are missing or damaged, FetchError
    where a download failed."""
    files = _files(spec)
    root, own = _provided(spec, files, split)
    with explained(files):
        state = fingerprint_of(files_identity(root, own), 16)
        pixels_NHW3, labels_N = open_arrays(spec.kind, str(root), split, state)
        used, labels_N = np.unique(labels_N, return_inverse=True)
        classes = tuple(_CLASSES[spec.kind][each] for each in used.tolist())

    def read(rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for place, row in enumerate(rows):
            yield place, np.ascontiguousarray(pixels_NHW3[row])

    return Part(labels_N.astype(np.int64), classes, _NAMES[spec.kind], read)


def torchvision_sha256(spec: LabelledSet, split: str) -> str:
    """Of the split's files."""
    root, own = _provided(spec, _files(spec), split)
    return joined(files_sha256([root / name for name in own]))


def _files(spec: LabelledSet) -> _Files:
    if not spec.root:
        raise ConfigError(
            f"labelled set {spec.name}: nothing says where {_NAMES[spec.kind]} lies; name the folder below "
            "which torchvision keeps it, -o evaluate.root=DIR (with -o evaluate.download=true it is fetched "
            "there), or judge on no labelled set, -o evaluate.sets=[]"
        )
    return _Files(spec.kind, spec.root, spec.download)


def _provided(spec: LabelledSet, files: _Files, split: str) -> tuple[Path, list[str]]:
    """The root, and the names of the split's files below it, which are there."""
    key = f"labelled set {spec.name}'s root"
    root = root_of(files, key)
    needed, own = files_of(spec.kind, split)
    hint = (
        "put them there as torchvision keeps them, name another folder (-o evaluate.root=DIR), or let it "
        "download them (-o evaluate.download=true)"
        if not spec.download
        else "torchvision was asked to download them, and did not: get them by hand"
    )
    provide(files, needed, lambda: torchvision_set(spec.kind, str(root), split, download=True), hint, key)
    return root, own
