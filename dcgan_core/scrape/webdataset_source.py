"""WebDataset tars as a source: listed by their headers, grouped as webdataset groups, read in place."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any, cast

from dcgan_core.artifacts import fingerprint_of
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError
from dcgan_core.scrape.listings import Listings
from dcgan_core.scrape.shard_lists import Shard, list_shards
from dcgan_core.scrape.sources import Item, Outcome, item_key, known_states, printable, read_item

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Extensions of images, in lower case; where a sample has several of them, the first here is taken."""

WITHOUT_IMAGE = "samples without an image"
FURTHER_IMAGES = "further images of a sample"
WITHOUT_EXTENSION = "members without an extension"


@dataclass(frozen=True)
class WebDatasetSource:
    """Samples of plain tars: a tar, all ``*.tar`` below a prefix, or a brace pattern.

    An item's locator is ``TAR#MEMBER``, its label what ``.cls`` says, its caption what ``.txt`` (or
    img2dataset's ``.json``) says. Raises ConfigError for a tar that is compressed or not whole, and for a
    ``.cls`` that is no integer.
    """

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        """Names, sizes and times of the tars, none of which is opened, and whether labels are wanted."""
        listed: list[Json] = [[name, state] for name, state in self._states.items()]
        return {"tars": len(listed), "listing": fingerprint_of(listed, 64), "labels": self._wants_labels}

    def items(self) -> Sequence[Item]:
        return self._listed[0]

    def passed_over(self) -> dict[str, int]:
        return dict(sorted(self._listed[1].items()))

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        shards = {shard.name: shard for shard in self._shards}
        for item in items:
            shard = shards.get(_shard_name(item.locator, shards))
            if shard is None or shard.state != item.seen:
                yield Outcome(item, "read_failed", "its tar is not the one that was listed")
            else:
                yield read_item(shard.fs, shard.path, item, self.config.max_bytes)

    @property
    def _wants_labels(self) -> bool:
        return self.config.label_column != "none"

    @cached_property
    def _shards(self) -> list[Shard]:
        return list_shards(self.config.path)

    @cached_property
    def _states(self) -> dict[str, str]:
        """States that the tars go by."""
        files = [(shard.fs, shard.path, shard.name, shard.info) for shard in self._shards]
        names = (shard.name for shard in self._shards)
        return dict(zip(names, known_states(files, self.known), strict=True))

    @cached_property
    def _listed(self) -> tuple[list[Item], Counter[str]]:
        items: list[Item] = []
        passed_over = Counter[str]()
        for shard in self._shards:
            for sample in _samples(shard, passed_over):
                image = next((sample.members[name] for name in IMAGES if name in sample.members), None)
                if image is None:
                    passed_over[WITHOUT_IMAGE] += 1
                    continue
                passed_over[FURTHER_IMAGES] += sum(name in sample.members for name in IMAGES) - 1
                items.append(self._item(shard, sample, image))
                if len(items) == self.config.limit:
                    return items, +passed_over
        return items, +passed_over

    def _item(self, shard: Shard, sample: _Sample, image: tarfile.TarInfo) -> Item:
        locator = f"{shard.name}#{image.name}"
        url, caption = _url_and_caption(sample.small.get("json", b""))
        if text := sample.small.get("txt", b"").decode("utf-8", "replace").strip():
            caption = text[:_LONGEST_CAPTION]
        return Item(
            key=item_key(locator),
            locator=locator,
            state=self._states[shard.name],
            seen=shard.state,
            size=image.size,
            offset=image.offset_data,
            url=url or printable(locator),
            label=_label(shard, sample) if self._wants_labels and "cls" in sample.members else None,
            caption=caption,
        )


@dataclass
class _Sample:
    """Neighbours of one key: their headers by extension, and the bytes of those that are small."""

    key: str
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    small: dict[str, bytes] = field(default_factory=dict)


_KEY_AND_EXTENSION = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
"""As webdataset has them: what a sample's key is, and which members are none of any sample."""

_SMALL = {"cls": 64, "txt": 2**16, "json": 2**16}
_LONGEST_CAPTION = 2000


def _samples(shard: Shard, passed_over: Counter[str]) -> Iterator[_Sample]:
    """Samples of a tar in its order, as webdataset's ``group_by_keys`` makes them.

    Members of one key belong together where they are neighbours. One that is there twice, where webdataset
    stops, begins a further sample of that key.
    """
    sample: _Sample | None = None
    with shard.fs.open(shard.path, "rb") as opened:
        file = cast("IO[bytes]", opened)
        for member in members_of(file, shard):
            found = _KEY_AND_EXTENSION.match(member.name)
            if found is None:
                passed_over[WITHOUT_EXTENSION] += 1
                continue
            key, extension = found[1], found[2].lower()
            if sample is None or key != sample.key or extension in sample.members:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            sample.members[extension] = member
            if extension in _SMALL:  # read as it is met: a remote file is then read forward only
                file.seek(member.offset_data)
                sample.small[extension] = file.read(min(member.size, _SMALL[extension]))
    if sample is not None:
        yield sample


def members_of(file: IO[bytes], shard: Shard) -> Iterator[tarfile.TarInfo]:
    """Headers of regular members. ConfigError where the tar is compressed or does not end as tars do."""
    start = file.read(6)
    if kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None):
        raise ConfigError(
            f"{shard.path} is compressed ({kind}): photos are read in place, which needs plain tars; "
            "decompress it"
        )
    count = 0
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                cast("Any", tar).members = []  # it would keep them all
                count += 1
                if member.isreg() and not _META.match(member.name):
                    yield member
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("neither a header nor the end of the tar follows")
    except tarfile.TarError as error:
        raise ConfigError(
            f"{shard.path} is not a whole tar: {error}, after {count} members. Get it or make it again, or "
            "leave it out of scrape.path"
        ) from None


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}


def _label(shard: Shard, sample: _Sample) -> int:
    data = sample.small["cls"]
    try:
        label = int(data)
    except ValueError:
        label = None
    if label is None or len(data) < sample.members["cls"].size or not -(2**31) <= label < 2**31:
        raise ConfigError(
            f"{shard.path}: the .cls of sample {printable(sample.key)!r} is {data[:40]!r}, no integer of 32 "
            "bits; write integers, or take the set without its labels: -o scrape.label_column=none"
        )
    return label


def _url_and_caption(data: bytes) -> tuple[str | None, str | None]:
    """What img2dataset's json says of a sample, if it says it."""
    try:
        facts: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(facts, dict):
        return None, None
    texts = (facts.get(name) for name in ("url", "caption"))
    url, caption = (printable(text.strip()) or None if isinstance(text, str) else None for text in texts)
    return url, caption[:_LONGEST_CAPTION] if caption else None


def _shard_name(locator: str, shards: dict[str, Shard]) -> str:
    """The tar of a locator; its name, and the member's, may have a # of their own."""
    ends = (found.start() for found in re.finditer("#", locator))
    return next((locator[:end] for end in ends if locator[:end] in shards), "")
