"""Where photos come from: each source lists its items, says what it is, and reads items back."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import IO, Any, Protocol, TypeVar, cast, runtime_checkable

import fsspec

from dcgan_core.artifacts import fingerprint_of
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError, StorageError
from dcgan_core.scrape.image_sets import ARRAY_SETS, FILE_SETS, open_image_set
from dcgan_core.scrape.listings import Listed, Listings, item_key, sha256_of
from dcgan_core.storage import open_location, read_whole, sha256_hex

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One photo that a source offers. ``state`` changes when its bytes may have changed."""

    key: str
    locator: str
    state: str = ""
    size: int | None = None
    offset: int | None = None
    url: str | None = None
    label: int | None = None
    caption: str | None = None
    seen: str = ""
    """The state with which it was listed; ``state`` is the one that it goes by (``Listings``)."""


@dataclass(frozen=True)
class Outcome:
    """What became of an item. ``data`` is None unless ``status`` is "ok" so far."""

    item: Item
    status: str
    reason: str = ""
    data: bytes | None = None
    http_status: int | None = None
    etag: str | None = None
    final_url: str | None = None
    attempts: int = 1
    seconds: float = 0.0
    last_modified: str | None = None
    declared: str | None = None
    """Content-Type of the answer, if there was one."""
    carried_over: str | None = None
    """Where ``data`` was kept from last time: the day (scrape.as_of) or the edition it was fetched for."""
    carried_over_reason: str | None = None
    """Why it could not be fetched this time."""


PART_BYTES = 64 * 2**20
"""A part is cut where its items reach this size, so that whoever reads it whole needs bounded memory."""


class Source(Protocol):
    """To add a source: write one of these and name it in ``open_source`` (see CONTRIBUTING)."""

    def identity(self) -> dict[str, Json]:
        """What the source is, for the fingerprint: content or listing, never a path."""
        ...

    def items(self) -> Sequence[Item]:
        """All items, in an order in which new ones come last where that can be known."""
        ...

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """Bytes of the items, in their order; never raises for a single bad item."""
        ...


def open_source(config: ScrapeConfig, seed: int, known: Listings | None = None) -> Source:
    """The source that the configuration names, its files known again by ``known``.

    ConfigError where it cannot be opened.
    """
    known = known or Listings()
    if config.source == "demo":
        from dcgan_core.scrape.web import DemoSource

        return DemoSource(config, seed)
    if not config.path:
        raise ConfigError(
            f"scrape.path is empty: say where the photos are, for example -o scrape.path=/data/photos "
            f"(source {config.source!r}), or try --preset demo"
        )
    if config.source == "parquet":
        from dcgan_core.scrape.parquet_source import ParquetSource

        return ParquetSource(config, known)
    if config.source == "webdataset":
        from dcgan_core.scrape.webdataset_source import WebDatasetSource

        return WebDatasetSource(config, known)
    if config.source in (*ARRAY_SETS, *FILE_SETS):
        return open_image_set(config, known)
    if config.source == "folder" and config.path.rstrip("/").endswith(".tar"):
        return TarSource(config, known)
    return FolderSource(config, config.source == "imagefolder", known)


@runtime_checkable
class PassesOver(Protocol):
    """A source in which there may be things that are no items of it."""

    def passed_over(self) -> dict[str, int]:
        """How many there were of each kind, in words."""
        ...


def host_of(url: str) -> str:
    """The host that a url names, in lower case; empty where there is none. For sorting, not for checking."""
    authority = url.partition("://")[2]
    for end in "/?#":
        authority = authority.partition(end)[0]
    authority = authority.rpartition("@")[2].lower()
    name = authority.partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    return name.strip("[.")


def chunks(items: Sequence[Item], target: int) -> list[list[Item]]:
    """Cut items into parts of about ``target``, at places that depend only on the items near them.

    Adding, changing or removing items therefore changes only the parts they lie in (content-defined
    chunking), whatever the history of the root. Parts hold between target/4 and target*4 items, fewer where
    they are large.
    """
    return list(stretches(items, target, lambda item: item.key, lambda item: item.size or 0))


def stretches(
    items: Iterable[T], target: int, key: Callable[[T], str], size_of: Callable[[T], int]
) -> Iterator[list[T]]:
    """Cut anything with keys as ``chunks`` does, one stretch held at a time."""
    part: list[T] = []
    size = 0
    for item in items:
        part.append(item)
        size += size_of(item)
        cut = int(hashlib.sha256(f"cut:{key(item)}".encode()).hexdigest()[:8], 16) % target == 0
        if (cut and len(part) >= target // 4) or len(part) >= 4 * target or size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def listing_identity(items: Iterable[Item]) -> dict[str, Json]:
    """Number of items and a hash over name, size and state of each."""
    listed = [[item.locator, item.size, item.state, item.label] for item in items]
    return {"items": len(listed), "listing": fingerprint_of(listed, length=64)}


@dataclass(frozen=True)
class FolderSource:
    """Photos below a directory or fsspec prefix; with ``classes``, sub-directories are labels."""

    config: ScrapeConfig
    classes: bool = False
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        return listing_identity(self.items())

    def items(self) -> Sequence[Item]:
        return self._items

    @cached_property
    def _items(self) -> list[Item]:
        fs, top = open_location(self.config.path, "scrape.path")
        if fs.isfile(top):
            raise ConfigError(
                f"scrape.path {self.config.path} is a file: source 'folder' takes a directory or plain .tar "
                "(decompress .tar.gz first); a list of urls is source 'urls', parquet is source 'parquet'"
            )
        found: list[Listed] = []
        listing = cast("dict[str, dict[str, Any]]", fs.find(top, detail=True))
        for path, info in listing.items():
            name = path[len(top) :].lstrip("/")
            hidden = any(piece.startswith(".") for piece in name.split("/"))
            if not hidden and info.get("type") == "file":  # no pipes, sockets or devices
                tag, changed = tag_of(info), str(changed_of(info))
                stamp: Json = [tag or changed, changed]
                found.append(Listed(name, int(info["size"]), stamp, tag))
        stamps = self.known.stamps(found, lambda file: sha256_of(fs, f"{top}/{file.name}"))
        settled = [(cast("list[str]", stamp), file) for stamp, file in zip(stamps, found, strict=True)]
        # Oldest first: photos added later come last, so that parts made from the others stay as they are.
        settled.sort(key=lambda entry: (entry[0][1], entry[1].name))
        names = [file.name for _, file in settled]
        labels = self._labels(names) if self.classes else {}
        items = [
            Item(
                key=file.key,
                locator=file.name,
                state=stamp[0],
                size=file.size,
                url=printable(file.name),
                label=labels.get(file.name.split("/")[0]),
                caption=file.name.split("/")[0] if self.classes else None,
            )
            for stamp, file in settled
        ]
        return items[: self.config.limit]

    def _labels(self, names: list[str]) -> dict[str, int]:
        loose = [name for name in names if "/" not in name]
        if loose:
            raise ConfigError(
                f"scrape.path {self.config.path}: imagefolder wants a sub-directory a class, and {loose[0]} "
                f"(and {len(loose) - 1} more) lie beside them; move them, or use source 'folder'"
            )
        return {name: index for index, name in enumerate(sorted({name.split("/")[0] for name in names}))}

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        fs, top = open_location(self.config.path, "scrape.path")
        for item in items:
            yield read_item(fs, f"{top}/{item.locator}", item, self.config.max_bytes)


@dataclass(frozen=True)
class TarSource:
    """Photos in a plain tar, read in place by their offsets."""

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        return listing_identity(self.items())

    def items(self) -> Sequence[Item]:
        return self._items

    @cached_property
    def _items(self) -> list[Item]:
        fs, path = open_location(self.config.path, "scrape.path")
        items = []
        try:
            with fs.open(path, "rb") as file, tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:") as tar:
                for member in islice((m for m in tar if m.isfile()), self.config.limit):
                    items.append(
                        Item(
                            key=item_key(member.name),
                            locator=member.name,
                            state=str(member.mtime),
                            size=member.size,
                            offset=member.offset_data,
                            url=member.name,
                        )
                    )
        except tarfile.TarError as error:
            raise ConfigError(
                f"scrape.path {self.config.path}: not a whole plain tar ({error}, after "
                f"{len(items)} members): get it again, or decompress it"
            ) from None
        by_key = {item.key: item for item in items}
        if len(by_key) < len(items):  # a name that is there twice is not known by its name
            return items
        files = [Listed(item.locator, item.size or 0, [item.state, item.state]) for item in items]

        def digest(file: Listed) -> str | None:
            outcome = read_item(fs, path, by_key[file.key], self.config.max_bytes)
            return sha256_hex(outcome.data) if outcome.data else None

        stamps = cast("list[list[str]]", self.known.stamps(files, digest))
        return [replace(item, state=stamp[0]) for item, stamp in zip(items, stamps, strict=True)]

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        fs, path = open_location(self.config.path, "scrape.path")
        for item in items:
            yield read_item(fs, path, item, self.config.max_bytes)


def read_item(fs: fsspec.AbstractFileSystem, path: str, item: Item, max_bytes: int) -> Outcome:
    """The item's bytes: the whole file, or those at its offset."""
    if item.size is not None and item.size > max_bytes:
        return Outcome(item, "too_large", f"{item.size} bytes, the limit is {max_bytes}")
    start = item.offset
    end = start + (item.size or 0) if start is not None else None
    try:
        data = read_whole(fs, path, start, end)
    except OSError as error:
        return Outcome(item, "read_failed", error.strerror or type(error).__name__)
    except StorageError as error:  # it was tried often enough
        return Outcome(item, "read_failed", str(error))
    if item.size is not None and len(data) < item.size:
        return Outcome(item, "read_failed", f"{len(data)} of {item.size} bytes could be read")
    return checked(item, data, max_bytes)


def checked(item: Item, data: bytes | None, max_bytes: int) -> Outcome:
    """The outcome of an item whose bytes were read."""
    if not data:
        return Outcome(item, "empty", "zero bytes")
    if len(data) > max_bytes:
        return Outcome(item, "too_large", f"{len(data)} bytes, the limit is {max_bytes}")
    return Outcome(item, "ok", data=data)


def printable(name: str) -> str:
    """Text that is not UTF-8 (a file's name, a header, half a pair in JSON), as a table can hold it."""
    return name.encode("utf-8", "backslashreplace").decode()


def changed_of(info: dict[str, Any]) -> object:
    """When a file was changed, as its file system's listing has it."""
    return info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""


def tag_of(info: dict[str, Any]) -> str | None:
    """What an object store says of a file's bytes, if it does."""
    return info.get("ETag") or info.get("etag")


def state_of(info: dict[str, Any]) -> str:
    """What changes when a file does, from its file system's listing."""
    return f"{info['size']}-{tag_of(info) or changed_of(info)}"


def known_states(
    files: Sequence[tuple[fsspec.AbstractFileSystem, str, str, dict[str, Any]]], known: Listings
) -> list[str]:
    """States that files of many photos go by; each is its file system, path, name and what was listed."""
    listed = [Listed(name, int(info["size"]), state_of(info), tag_of(info)) for _, _, name, info in files]
    places = {name: (fs, path) for fs, path, name, _ in files}

    def digest(file: Listed) -> str | None:
        fs, path = places[file.name]
        found = sha256_of(fs, path)
        return found if state_of(fs.info(path)) == file.stamp else None  # it was not changed meanwhile

    def noted(file: Listed) -> str | None:
        """A remote file without a tag is known by its time: to read it twice costs too much."""
        return digest(file) if is_local(places[file.name][0]) else None

    return cast("list[str]", known.stamps(listed, digest, noted_whole=noted))


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether files lie on this machine, or look so."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
