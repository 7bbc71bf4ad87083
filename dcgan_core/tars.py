"""What is in a WebDataset tar, read from its headers: for tars of others, and ours without an index."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from dcgan_core.errors import DamagedTar

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Members that are a sample's image, whatever the case of their letters."""

_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """One file in a tar: ``key`` and ``extension`` are what is before and after the first dot of its name."""

    key: str
    extension: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarSample:
    """The image of a sample: where its bytes are, and its class if it has one."""

    key: str
    extension: str
    offset: int
    size: int
    label: int | None = None


def members(file: IO[bytes], name: str) -> Iterator[Member]:
    """Files of a plain tar in their order; directories and other entries are left out, nothing is extracted.

    ``name`` is the tar's in errors. The key is cut as webdataset does, at the first dot of the base name, so
    dots in directories belong to it. Raises DamagedTar for what is no whole plain tar, also where it
    ends between two members, without the mark of its end.
    """
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    folder, slash, base = member.name.rpartition("/")
                    stem, dot, extension = base.partition(".")
                    if dot and stem:
                        found = f"{folder}{slash}{stem}", extension.lower()
                        yield Member(*found, member.offset_data, member.size)
                count += 1
            end = tar.offset
    except tarfile.TarError as error:
        raise DamagedTar(name, f"no whole plain tar ({error}, after {count} members)") from None
    file.seek(max(0, end - _BLOCK))
    if bytes(_BLOCK) not in (file.read(_BLOCK), file.read(_BLOCK)):
        raise DamagedTar(name, f"cut off after {count} members: the mark of its end is missing")


def scan(file: IO[bytes], name: str) -> list[TarSample]:
    """Samples with an image, in their order. Raises DamagedTar as ``members`` does, and for a file that
    is there twice, two images of one sample, or a ``.cls`` that is no integer."""
    images: dict[str, Member] = {}
    others: dict[str, list[Member]] = {}
    classes: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for member in list(members(file, name)):
        if (member.key, member.extension) in seen:
            raise DamagedTar(name, f"{member.key}.{member.extension} is in it twice")
        seen.add((member.key, member.extension))
        if member.extension in IMAGE_EXTENSIONS:
            if member.key in images:
                raise DamagedTar(name, f"sample {member.key} has two images")
            images[member.key] = member
        elif member.extension.rpartition(".")[2] in IMAGE_EXTENSIONS:  # key.left.jpg, or a dot in a name
            others.setdefault(member.key, []).append(member)
        elif member.extension == "cls":
            file.seek(member.offset)
            text = file.read(member.size)
            try:
                classes[member.key] = int(text)
                if not -(2**31) <= classes[member.key] < 2**31:
                    raise ValueError
            except ValueError:
                raise DamagedTar(name, f"{member.key}.cls is {text[:20]!r}, not an integer") from None
    for key, named in others.items():
        if key not in images:
            if len(named) > 1:
                raise DamagedTar(name, f"sample {key} has two images, and no extension says which it is")
            images[key] = named[0]
    return [
        TarSample(each.key, each.extension, each.offset, each.size, classes.get(each.key))
        for each in sorted(images.values(), key=lambda member: member.offset)
    ]
