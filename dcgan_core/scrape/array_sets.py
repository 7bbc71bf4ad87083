"""CIFAR-10, SVHN, MNIST and their like: arrays of torchvision's, each picture as a PNG of its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_core.artifacts import fingerprint_of
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.images import encode_png
from dcgan_core.scrape.image_sets import check_split, explained, files_identity, known_files, provide, root_of
from dcgan_core.scrape.listings import Listings
from dcgan_core.scrape.sources import Item, Outcome, checked, item_key

SPLITS = {"cifar10": ("train", "test"), "svhn": ("train", "test", "extra"), "mnist": ("train", "test")}

_CIFAR = "cifar-10-batches-py"
_CIFAR_FILES = {
    "train": [f"{_CIFAR}/data_batch_{number}" for number in range(1, 6)],
    "test": [f"{_CIFAR}/test_batch"],
}
_MNIST_FILES = {
    "train": ["raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte"],
    "test": ["raw/t10k-images-idx3-ubyte", "raw/t10k-labels-idx1-ubyte"],
}
_MNIST_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_STL = "stl10_binary"
_STL_SHAPE = (3, 96, 96)  # an image in a file: colour, column, row
_MNIST_LEGACY = {"train": "MNIST/processed/training.pt", "test": "MNIST/processed/test.pt"}


@dataclass(frozen=True)
class ArraySource:
    """Pictures of a set that torchvision keeps as arrays, in its order and with its classes.

    An item's locator is ``SET/SPLIT#INDEX``; its PNG is RGB, and always the same. Where files are missing
    ConfigError says which; where they are damaged, what torchvision says.
    """

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        """Names, sizes and times of the split's files, none of which is opened."""
        return {"split": self._split, "files": len(self._files), "listing": fingerprint_of(self._files, 64)}

    def items(self) -> Sequence[Item]:
        pixels, _ = self._opened()
        state, seen = fingerprint_of(self._files, 16), self._seen
        items = []
        for index in range(len(pixels))[: self.config.limit]:
            locator = f"{self.config.source}/{self._split}#{index}"
            items.append(Item(item_key(locator), locator, state, offset=index, url=locator, seen=seen))
        return items

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        pixels, labels = self._opened()
        seen = self._seen
        for item in items:
            if item.seen != seen or item.offset is None:
                yield Outcome(item, "read_failed", "the set's files are not those that were listed")
                continue
            png = encode_png(np.ascontiguousarray(pixels[item.offset]))
            yield checked(replace(item, label=int(labels[item.offset])), png, self.config.max_bytes)

    def _opened(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        with explained(self.config):
            return open_arrays(self.config.source, str(root_of(self.config)), self._split, self._seen)

    @property
    def _seen(self) -> str:
        return fingerprint_of(files_identity(root_of(self.config), self._own), 16)

    @property
    def _split(self) -> str:
        return check_split(self.config, SPLITS[self.config.source])

    @cached_property
    def _files(self) -> list[Json]:
        return known_files(root_of(self.config), self._own, self.known)

    @cached_property
    def _own(self) -> list[str]:
        root, split = root_of(self.config), self._split
        needed, own = files_of(self.config.source, split)
        legacy = list(_MNIST_LEGACY.values())
        if self.config.source == "mnist" and all((root / name).is_file() for name in legacy):
            needed, own = legacy, [_MNIST_LEGACY[split]]  # torchvision takes these first, too
        hint = (
            "put them there as torchvision keeps them, or let it download them: -o scrape.download=true"
            if not self.config.download
            else "torchvision was asked to download them, and did not: get them by hand"
        )
        set_of = (self.config.source, str(root), split)
        provide(self.config, needed, lambda: torchvision_set(*set_of, download=True), hint)
        return own


def files_of(source: str, split: str) -> tuple[list[str], list[str]]:
    """Files, below the root, that have to be there to open a split, and those that the split is made of."""
    if source == "svhn":
        return [f"{split}_32x32.mat"], [f"{split}_32x32.mat"]
    if source == "stl10":
        own = [f"{_STL}/{split}_X.bin", f"{_STL}/{split}_y.bin"]
        return own, own
    if source == "cifar10":
        by_split, more = _CIFAR_FILES, [f"{_CIFAR}/batches.meta"]
    else:
        folder, more = _MNIST_FOLDERS[source], []
        by_split = {each: [f"{folder}/{name}" for name in names] for each, names in _MNIST_FILES.items()}
    return [*by_split["train"], *by_split["test"], *more], by_split[split]


def torchvision_set(source: str, root: str, split: str, *, download: bool = False) -> Any:
    """torchvision's own object for a split; ``download`` lets it get what is not there."""
    from torchvision import datasets

    if source in ("svhn", "stl10"):
        kind = datasets.SVHN if source == "svhn" else datasets.STL10
        return kind(root, split=split, download=download)
    kinds = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}
    return kinds[source](root, train=split == "train", download=download)


@lru_cache(maxsize=1)  # a worker does many parts of one set; ``state`` tells when its files have changed
def open_arrays(
    source: str, root: str, split: str, state: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, H, W, 3) and classes (N,) of a split; torchvision's errors where it cannot be opened."""
    if source == "stl10":
        return _open_stl10(Path(root) / _STL, split)
    opened = torchvision_set(source, root, split)
    if source == "cifar10":
        pixels, labels = opened.data, opened.targets
    elif source == "svhn":
        pixels, labels = opened.data.transpose(0, 2, 3, 1), opened.labels
    else:
        grey_NHW = opened.data.numpy()
        pixels = np.broadcast_to(grey_NHW[..., None], (*grey_NHW.shape, 3))
        labels = opened.targets.numpy()
    labels_N = np.atleast_1d(np.asarray(labels, np.int64))
    if len(pixels) != len(labels_N):
        raise ValueError(f"{len(pixels)} pictures and {len(labels_N)} classes")
    return pixels, labels_N


def _open_stl10(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """As torchvision, which wants 2.6 GB of images without classes beside them and hashes these each time."""
    labels_N = np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(np.int64) - 1
    images = folder / f"{split}_X.bin"
    wanted = len(labels_N) * int(np.prod(_STL_SHAPE))
    if images.stat().st_size != wanted or not len(labels_N):
        raise ValueError(f"{images.name} has {images.stat().st_size} bytes, {len(labels_N)} classes {wanted}")
    if labels_N.min() < 0 or labels_N.max() > 9:
        raise ValueError(f"{split}_y.bin holds {labels_N.min() + 1} to {labels_N.max() + 1}, not 1 to 10")
    stored = np.memmap(images, np.uint8, "r", shape=(len(labels_N), *_STL_SHAPE))
    return stored.transpose(0, 3, 2, 1), labels_N
