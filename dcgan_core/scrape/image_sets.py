"""The sets that torchvision knows: where their files lie below its ``root``, and what to do without them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast
from urllib.error import URLError

from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError, DcganError, FetchError
from dcgan_core.scrape.listings import Listed, Listings, sha256_unchanged

if TYPE_CHECKING:
    from dcgan_core.scrape.sources import Source

ARRAY_SETS = ("cifar10", "svhn", "mnist")
FILE_SETS = ("celeba", "imagenet", "lsun")


class SetFiles(Protocol):
    """Where torchvision keeps a set, and whether it may get it; ``ScrapeConfig`` is one."""

    @property
    def source(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def download(self) -> bool: ...


def open_image_set(config: ScrapeConfig, known: Listings) -> Source:
    """The source of a set; torchvision is imported when its files are opened, not before."""
    if config.source in ARRAY_SETS:
        from dcgan_core.scrape.array_sets import ArraySource

        return ArraySource(config, known)
    if config.source == "lsun":
        from dcgan_core.scrape.lsun import LsunSource

        return LsunSource(config, known)
    from dcgan_core.scrape.file_sets import CelebaSource, ImageNetSource

    return (CelebaSource if config.source == "celeba" else ImageNetSource)(config, known)


def root_of(config: SetFiles, key: str = "scrape.path") -> Path:
    """torchvision's root. ConfigError, which calls it ``key``, where it is no local directory."""
    if "://" in config.path:
        raise ConfigError(
            f"{key} {config.path!r}: source {config.source!r} is read by torchvision, from a local "
            "directory; copy it to this machine, or write it as a WebDataset"
        )
    return Path(config.path).expanduser()


def check_split(config: ScrapeConfig, splits: Sequence[str]) -> str:
    """The split that is wanted. ConfigError names those there are."""
    if config.split not in splits:
        raise ConfigError(
            f"scrape.split is {config.split!r}; {config.source} has {', '.join(splits)}: -o scrape.split=..."
        )
    return config.split


def provide(
    config: SetFiles,
    names: Sequence[str],
    make: Callable[[], object],
    hint: str,
    key: str = "scrape.path",
) -> None:
    """See to it that files and folders are there below the root.

    ``make`` lets torchvision download or unpack them, and is called only where ``download`` allows
    it; ``hint`` says what else can be done. ConfigError names what is missing, and the root by ``key``.
    """
    root = root_of(config, key)
    if _missing(root, names) and config.download:
        with explained(config, "could not be downloaded or unpacked"):
            make()
    if missing := _missing(root, names):
        listed = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise ConfigError(f"{config.source}: below {key} {root} there is no {listed}; {hint}")


def _missing(root: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not (root / name).exists()]


@contextmanager
def explained(config: SetFiles, what: str = "could not be opened") -> Iterator[None]:
    """What torchvision and those it calls raise, as ConfigError; FetchError where the network failed."""
    try:
        yield
    except (DcganError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file or a site's answer leads to: no common base
        why = str(error).replace(_THEIR_ADVICE, "").strip() or type(error).__name__
        said = f"{config.source} below {config.path} {what}: {why}"
        if isinstance(error, (URLError, HTTPException, ConnectionError, TimeoutError)):
            raise FetchError(f"{said}; run it again, or get the files by hand") from error
        raise ConfigError(
            f"{said.rstrip('.')}. If a file is damaged, or not the published one (torchvision looks at md5 "
            "sums), delete it and get it again"
        ) from error


_THEIR_ADVICE = "You can use download=True to download it"


def listing(folder: Path) -> dict[str, tuple[int, float]]:
    """Size and time of change of every file below a folder, by name with slashes; sorted, none hidden."""
    found: dict[str, tuple[int, float]] = {}
    waiting = [(str(folder), "")]
    while waiting:
        path, prefix = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.is_file():
                    status = entry.stat()
                    found[prefix + entry.name] = (status.st_size, status.st_mtime)
    return dict(sorted(found.items()))


def known_listing(folder: Path, known: Listings) -> dict[str, tuple[int, float]]:
    """``listing`` with the times that files go by."""
    found = listing(folder)
    files = [Listed(name, size, changed) for name, (size, changed) in found.items()]
    times = known.stamps(files, lambda file: sha256_unchanged(folder / file.name, *found[file.name]))
    return {file.name: (file.size, cast("float", time)) for file, time in zip(files, times, strict=True)}


def known_files(root: Path, names: Sequence[str], known: Listings) -> list[Json]:
    """``files_identity`` with the times that files go by; each holds many photos."""
    listed = cast("list[tuple[str, int, float]]", files_identity(root, names))
    files = [Listed(name, size, changed) for name, size, changed in listed]

    def digest(file: Listed) -> str | None:
        return sha256_unchanged(root / file.name, file.size, cast("float", file.stamp))

    times = known.stamps(files, digest, noted_whole=digest)
    return [[file.name, file.size, time] for file, time in zip(files, times, strict=True)]


def files_identity(root: Path, names: Sequence[str]) -> list[Json]:
    """Name, size and time of change of each file."""
    return [[name, (status := (root / name).stat()).st_size, status.st_mtime] for name in names]
