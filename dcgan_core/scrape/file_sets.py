"""CelebA and ImageNet: pictures in files of their own, passed on as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import fsspec

from dcgan_core.artifacts import fingerprint_of
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError
from dcgan_core.scrape.image_sets import check_split, explained, known_listing, provide, root_of
from dcgan_core.scrape.listings import Listings
from dcgan_core.scrape.sources import Item, Outcome, item_key, listing_identity, printable, read_item

_CELEBA_SPLITS = {"train": 0, "valid": 1, "test": 2, "all": None}
_CELEBA_IMAGES = "celeba/img_align_celeba"
_CELEBA_PARTITION = "celeba/list_eval_partition.txt"
_CELEBA_ATTRIBUTES = "celeba/list_attr_celeba.txt"


@dataclass(frozen=True)
class CelebaSource:
    """Aligned faces of CelebA, in the order of its list of splits.

    The class is the attribute (0 or 1) that ``scrape.label_column`` names, if it names one.
    """

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        return {"split": self.config.split, **listing_identity(self.items())}

    def items(self) -> Sequence[Item]:
        return self._items

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        yield from _read_files(root_of(self.config) / _CELEBA_IMAGES, items, self.config.max_bytes)

    @cached_property
    def _items(self) -> list[Item]:
        split = _CELEBA_SPLITS[check_split(self.config, tuple(_CELEBA_SPLITS))]
        attribute = None if self.config.label_column in ("label", "none") else self.config.label_column
        needed = [_CELEBA_IMAGES, _CELEBA_PARTITION, *([_CELEBA_ATTRIBUTES] if attribute else [])]
        provide(self.config, needed, self._download, self._hint)
        root = root_of(self.config)
        names = [name for name, of_split in _partition(root) if split is None or of_split == split]
        labels = _attributes(root, attribute) if attribute else {}
        files = known_listing(root / _CELEBA_IMAGES, self.known)
        return [_item(name, files, labels.get(name)) for name in names[: self.config.limit]]

    @property
    def _hint(self) -> str:
        if self.config.download:
            return "torchvision was asked to download them, and did not: get them by hand"
        return (
            "put them there as torchvision keeps them (img_align_celeba unzipped), or let it download them, "
            "which needs gdown: -o scrape.download=true"
        )

    def _download(self) -> None:
        from torchvision import datasets

        datasets.CelebA(root_of(self.config), split=self.config.split, download=True)


@dataclass(frozen=True)
class ImageNetSource:
    """Photos of ImageNet-1k in torchvision's order and with its classes; listed by names, none is opened."""

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        """Number of files, and names, sizes and times of them."""
        listed: list[Json] = [[name, size, changed] for name, (size, changed) in self._files.items()]
        return {"split": self._split, "files": len(listed), "listing": fingerprint_of(listed, 64)}

    def items(self) -> Sequence[Item]:
        files = self._files
        folder = str(self._folder)
        with explained(self.config):
            from torchvision import datasets

            found = datasets.ImageNet(root_of(self.config), split=self._split).imgs
        return [
            _item(path[len(folder) :].lstrip("/"), files, label) for path, label in found[: self.config.limit]
        ]

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        yield from _read_files(self._folder, items, self.config.max_bytes)

    @property
    def _split(self) -> str:
        return check_split(self.config, ("train", "val"))

    @property
    def _folder(self) -> Path:
        return root_of(self.config) / self._split

    @cached_property
    def _files(self) -> dict[str, tuple[int, float]]:
        archive = f"ILSVRC2012_img_{self._split}.tar"
        provide(
            self.config,
            [self._split, "meta.bin"],
            self._unpack,
            "torchvision cannot download ImageNet: get ILSVRC2012_devkit_t12.tar.gz and "
            f"{archive} from image-net.org, put them there, and let it unpack them: "
            "-o scrape.download=true. A folder for each class, without these archives, is "
            "scrape.source=imagefolder",
        )
        return known_listing(self._folder, self.known)

    def _unpack(self) -> None:
        from torchvision import datasets

        datasets.ImageNet(root_of(self.config), split=self._split)


def _item(name: str, files: dict[str, tuple[int, float]], label: int | None) -> Item:
    """A file's item; one that is not there is a row when it comes to be read."""
    size, changed = files.get(name, (None, ""))
    return Item(item_key(name), name, str(changed), size, url=printable(name), label=label)


def _read_files(folder: Path, items: Sequence[Item], max_bytes: int) -> Iterator[Outcome]:
    fs = fsspec.filesystem("file")
    for item in items:
        yield read_item(fs, f"{folder}/{item.locator}", item, max_bytes)


def _partition(root: Path) -> list[tuple[str, int]]:
    rows = _rows(root / _CELEBA_PARTITION, first=0, width=2)
    return [(name, values[0]) for name, values in rows]


def _attributes(root: Path, attribute: str) -> dict[str, int]:
    path = root / _CELEBA_ATTRIBUTES
    with path.open(encoding="ascii", errors="replace") as file:
        names = [next(file, ""), next(file, "")][1].split()
    if attribute not in names:
        raise ConfigError(
            f"scrape.label_column is {attribute!r}; CelebA's attributes are {', '.join(names)}, and none "
            "leaves the class out"
        )
    column = names.index(attribute)
    return {name: int(values[column] > 0) for name, values in _rows(path, first=2, width=len(names) + 1)}


def _rows(path: Path, *, first: int, width: int) -> Iterator[tuple[str, list[int]]]:
    """File names and the whole numbers after them, from the ``first`` line on."""
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(file):
            pieces = line.split()
            if number < first or not pieces:
                continue
            try:
                values = [int(piece) for piece in pieces[1:]]
            except ValueError:
                values = []
            if len(values) != width - 1 or "/" in pieces[0]:
                raise ConfigError(
                    f"{path}, line {number + 1} is {line.strip()[:80]!r}; a file's name and {width - 1} "
                    "numbers are needed. Get the file again"
                )
            yield pieces[0], values
