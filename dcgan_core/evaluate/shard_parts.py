"""Labelled sets in WebDataset tars: an artifact of shards, or tars of anybody with ``.cls`` members."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from dcgan_core.artifacts import FOLDER, Address, Manifest, readable_manifest
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.hashes import joined, opened_sha256
from dcgan_core.evaluate.parts import Part
from dcgan_core.held_out import places
from dcgan_core.place import load_place
from dcgan_core.scrape.shard_lists import Shard, list_shards
from dcgan_core.scrape.sources import state_of
from dcgan_core.shard.reader import Shards, open_shards, open_tars
from dcgan_core.storage import Store

_TOGETHER = 256
"""Samples read together."""


def shard_part(name: str, location: str) -> Part:
    """The samples at a location: an artifact's folder (``.../artifacts/shards/3f9a...``), a tar, a folder of
    tars, a pattern (``{00000..00041}``, ``*``) or an fsspec url of these.

    Labels are those of the index or of the ``.cls`` members, and name the classes. Every image of an artifact
    is checked against its hash. ConfigError where there are none, or samples have no class; CorruptArtifact
    for a damaged tar.
    """
    shards, source = _opened(name, location)
    index = shards.index
    labels_N = shards.index.label_N
    if missing := int((labels_N < 0).sum()):
        raise ConfigError(
            f"labelled set {name}: {missing} of the {len(labels_N)} samples of {source} have no class, the "
            f"first is {shards.index.key(int(np.argmax(labels_N < 0)))}; write .cls members with integers "
            "0, 1, ..., or shard a source that has classes"
        )
    values_K, labels_N = np.unique(labels_N, return_inverse=True)

    def read(rows: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        order = np.argsort(rows, kind="stable")  # as they lie in the tars
        for start in range(0, len(order), _TOGETHER):
            places = order[start : start + _TOGETHER]
            for place, image in zip(places.tolist(), shards.encoded(rows[places]), strict=True):
                if not isinstance(image, bytes):
                    raise image
                yield place, image

    return Part(
        labels_N.astype(np.int64),
        tuple(str(value) for value in values_K.tolist()),
        source,
        read,
        # As training holds images of the same shards out; the keys of others' tars are theirs.
        lambda: places(index.photo_keys if shards.address else index.keys),
    )


def shards_sha256(name: str, location: str) -> str:
    """The content of an artifact as its manifest has it; of other tars, their bytes in their order."""
    if artifact := _artifact(location):
        return artifact[1].content
    return joined(opened_sha256([(tar.fs, tar.path, tar.state) for tar in _tars(name, location)]))


def _opened(name: str, location: str) -> tuple[Shards, str]:
    if artifact := _artifact(location):
        store, manifest = artifact
        # Encoded images are asked for, so the size in pixels does not matter.
        return open_shards(store, manifest, 1, true_labels=True), str(manifest.address)
    tars = _tars(name, location)
    top = tars[0].path.removesuffix(tars[0].name).rstrip("/") or "/"
    root = f"{location.partition('://')[0]}://{top}" if "://" in location else top
    shards = open_tars(load_place().store_at(root), [tar.name for tar in tars], 1)
    return shards, f"{PurePosixPath(top).name}, {len(tars)} tars" if len(tars) > 1 else tars[0].name


def _artifact(location: str) -> tuple[Store, Manifest] | None:
    """The store and the manifest of a finished artifact that a folder is; None for anything else."""
    folder = PurePosixPath(location.rstrip("/"))
    if "://" not in location:
        folder = PurePosixPath(Path(location).expanduser().absolute().as_posix())
    kind, fingerprint, marker = folder.parent.name, folder.name, folder.parent.parent.name
    if marker != FOLDER or kind != "shards":
        return None
    root = location.rstrip("/").removesuffix(f"/{FOLDER}/{kind}/{fingerprint}")
    store = load_place().store_at(root if "://" in location else str(folder.parents[2]))
    manifest = readable_manifest(store, Address(kind, fingerprint))
    if manifest is None:
        raise ConfigError(
            f"{location} has no manifest: the artifact is not finished or not there; dcgan list artifacts "
            "shows those that are"
        )
    return store, manifest


def _tars(name: str, location: str) -> list[Shard]:
    if not location:
        raise ConfigError(f"labelled set {name}: its path is empty; set train to a folder of tars")
    key = f"labelled set {name}"
    if not any(mark in location for mark in "*?["):
        return list_shards(location, key)
    local = "://" not in location
    fs, pattern = url_to_fs(
        str(Path(location).expanduser()) if local else location,
        **(load_place().s3_options if location.startswith("s3") else {}),
    )
    paths = sorted(path for path in fs.glob(pattern) if str(path).endswith(".tar"))
    if not paths:
        raise ConfigError(f"{key}: no .tar fits {location!r}; name a folder of tars, or another pattern")
    top = pattern[: min(pattern.index(mark) for mark in "*?[" if mark in pattern)].rpartition("/")[0]
    return [Shard(path[len(top) :].lstrip("/"), fs, path, state_of(fs.info(path))) for path in paths]
