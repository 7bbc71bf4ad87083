"""A file of weights that the user names by path or url: fetched only when named, checked by its hash."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from dcgan_core.errors import ConfigError, FetchError
from dcgan_core.storage import sha256_of_file


def weights_file(location: str, sha256: str | None, cache: Path, *, setting: str, what: str) -> Path:
    """A local path of the file at ``location``: a path, or a url that fsspec reads.

    A url needs its sha256 (hex); the file is kept in ``cache`` under it and fetched once. ``setting`` is the
    field that names the location, ``what`` the file that belongs there, for errors. Raises ConfigError
    (nothing there, another hash, a url without one) and FetchError (the server failed).
    """
    wanted = sha256.strip().lower() if sha256 else None
    if wanted and not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise ConfigError(f"{setting}_sha256 is {sha256!r}: give the 64 hex digits that sha256sum prints")
    if not location:
        raise ConfigError(f"{setting} is empty: set it to {what}, by path, or by url and {setting}_sha256")
    if "://" in location:
        if wanted is None:
            raise ConfigError(
                f"{setting} is the url {location}, so {setting}_sha256 is needed: download the file once, "
                "look at it, and set what sha256sum prints"
            )
        return _fetched(location, wanted, cache, setting)
    path = Path(location).expanduser()
    if not path.is_file():
        raise ConfigError(f"{setting}: there is no file {location}; set it to {what}, by path or url")
    if wanted:
        _require_hash(path, location, wanted, setting)
    return path


def _fetched(location: str, wanted: str, cache: Path, setting: str) -> Path:
    stored = cache / wanted
    if stored.is_file() and sha256_of_file(stored) == wanted:
        return stored
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
        partial = Path(folder) / "file"
        _download(location, partial, setting)
        _require_hash(partial, location, wanted, setting)
        partial.replace(stored)
    return stored


def _download(location: str, target: Path, setting: str) -> None:
    # Here, not above: only these calls need them, and they are slow to import.
    import aiohttp
    import fsspec

    try:
        filesystem, path = fsspec.url_to_fs(location)
        filesystem.get_file(path, str(target))
    except FileNotFoundError:
        raise ConfigError(f"{setting}: there is nothing at {location}; correct it") from None
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{setting}: {location} cannot be read: {error}") from None
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        raise FetchError(f"could not fetch {location}: {error or type(error).__name__}") from None


def _require_hash(path: Path, location: str, wanted: str, setting: str) -> None:
    found = sha256_of_file(path)
    if found != wanted:
        raise ConfigError(
            f"{location} has sha256 {found}, {setting}_sha256 says {wanted}; take the right file, or correct "
            "the hash if you trust this one"
        )
