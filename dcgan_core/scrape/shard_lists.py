"""Which tars a path means: one, all below a prefix, or those of a brace pattern."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import fsspec
from braceexpand import braceexpand

from dcgan_core.errors import ConfigError
from dcgan_core.scrape.sources import state_of
from dcgan_core.storage import open_location

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")


@dataclass(frozen=True)
class Shard:
    """A tar: its name below what all of them have in common, and where it is."""

    name: str
    fs: fsspec.AbstractFileSystem
    path: str
    state: str
    """Changes when its bytes may have changed."""
    info: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What its file system's listing says of it."""


def list_shards(location: str, key: str = "scrape.path") -> list[Shard]:
    """The tars that a location names, in the order of a pattern or of their names below a prefix.

    None is opened. Raises ConfigError where there are none, where one of a pattern is not there, and where
    compressed ones lie beside the others; they name the setting by ``key``.
    """
    if "{" in location:
        return _of_pattern(location, key)
    fs, top = open_location(location, key)
    if fs.isfile(top):
        _refuse_compressed([top], location, key)
        info = fs.info(top)
        return [Shard(top.rpartition("/")[2], fs, top, state_of(info), info)]
    listing = cast("dict[str, dict[str, Any]]", fs.find(top, detail=True))
    names = {path[len(top) :].lstrip("/"): path for path in listing}
    seen = [name for name in sorted(names) if not any(piece.startswith(".") for piece in name.split("/"))]
    _refuse_compressed(seen, location, key)
    shards = [
        Shard(name, fs, names[name], state_of(listing[names[name]]), listing[names[name]])
        for name in seen
        if name.endswith(".tar")
    ]
    if not shards:
        raise ConfigError(
            f"{key}: there is no .tar below {location!r}; name a tar, a directory of tars, or a "
            "pattern as shard-{00000..00041}.tar"
        )
    return shards


def _of_pattern(pattern: str, key: str) -> list[Shard]:
    try:
        locations = list(braceexpand(pattern))
    except ValueError as error:
        raise ConfigError(f"{key} {pattern!r}: {error}; write it as shard-{{00000..00041}}.tar") from None
    folder = locations[0].rpartition("/")[0] or ("/" if locations[0].startswith("/") else ".")
    fs, _ = open_location(folder, key)
    paths = [_path_of(fs, location) for location in locations]
    _refuse_compressed(paths, pattern, key)
    listing = _listing(fs, {path.rpartition("/")[0] for path in paths})
    if missing := [path for path in paths if path not in listing]:
        raise ConfigError(
            f"{key} {pattern!r} names {len(paths)} tars, {len(missing)} of which are not there, the "
            f"first {missing[0]!r}; get them, or name fewer"
        )
    common = posixpath.commonpath({path.rpartition("/")[0] for path in paths})
    return [
        Shard(path[len(common) :].lstrip("/"), fs, path, state_of(listing[path]), listing[path])
        for path in paths
    ]


def _path_of(fs: fsspec.AbstractFileSystem, location: str) -> str:
    local = "://" not in location
    return str(fs._strip_protocol(str(Path(location).expanduser()) if local else location))


def _listing(fs: fsspec.AbstractFileSystem, folders: set[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for folder in sorted(folders):
        try:
            entries = cast("list[dict[str, Any]]", fs.ls(folder or "/", detail=True))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found |= {entry["name"]: entry for entry in entries}
    return found


def _refuse_compressed(names: list[str], location: str, key: str) -> None:
    if compressed := [name for name in names if name.endswith(_COMPRESSED)]:
        raise ConfigError(
            f"{key} {location!r}: {compressed[0]} is compressed (and {len(compressed) - 1} more): "
            "photos are read in place, which needs plain tars; decompress them"
        )
