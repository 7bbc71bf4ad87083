"""LSUN: encoded pictures in one LMDB a class, passed on as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from typing import TYPE_CHECKING

from dcgan_core.artifacts import fingerprint_of
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError
from dcgan_core.scrape.image_sets import files_identity, known_files, provide, root_of
from dcgan_core.scrape.listings import Listings
from dcgan_core.scrape.sources import Item, Outcome, checked, item_key, printable

if TYPE_CHECKING:
    import lmdb

CATEGORIES = (
    "bedroom",
    "bridge",
    "church_outdoor",
    "classroom",
    "conference_room",
    "dining_room",
    "kitchen",
    "living_room",
    "restaurant",
    "tower",
)
_READ_AT_ONCE = 32


@dataclass(frozen=True)
class LsunSource:
    """Pictures of LSUN's databases ``CLASS_lmdb`` below torchvision's root, in the order of their keys.

    ``scrape.split`` names classes as torchvision does: some by name with commas between, or train or val for
    all ten, or test. An item's locator is ``CLASS/KEY``; its label is the class's place among those asked.
    """

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        """The classes, and name, size and time of their databases, none of which is opened."""
        listed = self._files
        classes: list[Json] = list(self._classes)
        return {"classes": classes, "files": len(listed), "listing": fingerprint_of(listed, 64)}

    def items(self) -> Sequence[Item]:
        states, limit = self._states(self._files), self.config.limit
        seen = self._states(self._listed)
        items: list[Item] = []
        for label, name in enumerate(self._classes):
            with self._opened(name) as keys:
                wanted = None if limit is None else limit - len(items)
                for key in islice(keys.cursor().iternext(keys=True, values=False), wanted):
                    locator = f"{name}/{bytes(key).decode('latin-1')}"
                    state, url = states[name], printable(locator)
                    items.append(
                        Item(item_key(locator), locator, state, url=url, label=label, seen=seen[name])
                    )
        return items

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        states = self._states(self._listed)
        for (name, seen), same in groupby(items, key=lambda item: (_class_of(item), item.seen)):
            if states.get(name) != seen:
                yield from (Outcome(each, "read_failed", "its database has changed") for each in same)
                continue
            while some := list(islice(same, _READ_AT_ONCE)):
                with self._opened(name) as values:  # closed again before anything else may open it
                    read = [values.get(_key_of(item)) for item in some]
                for item, data in zip(some, read, strict=True):
                    yield checked(item, None if data is None else bytes(data), self.config.max_bytes)

    @cached_property
    def _classes(self) -> list[str]:
        asked = self.config.split
        if asked in ("train", "val"):
            return [f"{category}_{asked}" for category in CATEGORIES]
        names = [name.strip() for name in asked.split(",")]
        known = {"test", *(f"{category}_{part}" for category in CATEGORIES for part in ("train", "val"))}
        unknown = [name for name in names if name not in known]
        if unknown or len(set(names)) < len(names):
            raise ConfigError(
                f"scrape.split is {asked!r}; lsun has train, val, test, or some of {', '.join(CATEGORIES)}, "
                "each with _train or _val and once, with commas between: -o scrape.split=bedroom_train"
            )
        return names

    @cached_property
    def _files(self) -> list[Json]:
        return known_files(root_of(self.config), self._names, self.known)

    @property
    def _listed(self) -> list[Json]:
        return files_identity(root_of(self.config), self._names)

    @cached_property
    def _names(self) -> list[str]:
        names = [f"{name}_lmdb/data.mdb" for name in self._classes]
        provide(
            self.config,
            names,
            lambda: None,
            "torchvision cannot download LSUN: get and unzip its databases (github.com/fyu/lsun), or ask for "
            "those you have, for example -o scrape.split=bedroom_train",
        )
        return names

    def _states(self, files: list[Json]) -> dict[str, str]:
        return {name: fingerprint_of(file, 16) for name, file in zip(self._classes, files, strict=True)}

    @contextmanager
    def _opened(self, name: str) -> Iterator[lmdb.Transaction]:
        """A look into a class's database, in which nothing is ever changed."""
        try:
            import lmdb
        except ImportError:
            raise ConfigError(
                "scrape.source=lsun needs the package lmdb: pip install 'dcgan[lsun]'"
            ) from None
        path = root_of(self.config) / f"{name}_lmdb"
        try:
            with (
                lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False) as database,
                database.begin() as look,
            ):
                yield look
        except lmdb.Error as error:
            raise ConfigError(f"{path} cannot be read as an LMDB: {error}; get it again") from None


def _class_of(item: Item) -> str:
    return item.locator.partition("/")[0]


def _key_of(item: Item) -> bytes:
    return item.locator.partition("/")[2].encode("latin-1")
