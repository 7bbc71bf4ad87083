"""What the parameters of a run may name: files and urls below allowed places, engines on a list.

Parameters come from whoever may start a run; the environment (``DCGAN_ALLOWED_PATHS``, ``DCGAN_ENGINES``) is
the operator's. ``load_config`` asks here before anything is read or imported.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pydantic import BaseModel

from dcgan_core.errors import NotAllowed
from dcgan_core.place import load_place

if TYPE_CHECKING:
    from dcgan_core.config import PipelineConfig


def check_allowed(config: PipelineConfig) -> None:
    """Raise NotAllowed for the first location or engine of a configuration that the operator does not allow.

    Defaults are always allowed. Nothing is read, and no url is asked.
    """
    for key, location in _locations(config):
        check_location(key, location)
    engine, allowed = config.scrape.engine, load_place().allowed_engines
    if ":" in engine and engine not in allowed:
        raise NotAllowed(
            "scrape.engine",
            engine,
            f"it would import code, and DCGAN_ENGINES is {', '.join(allowed) or 'empty'}",
            "add it to DCGAN_ENGINES (comma-separated) where the run is started",
        )


def check_location(key: str, location: str) -> None:
    """Raise NotAllowed unless a path or url is below one of ``DCGAN_ALLOWED_PATHS``, if that is set."""
    roots = load_place().allowed_roots
    if roots is None or not location:
        return
    if why := _why_not(location, roots):
        raise NotAllowed(
            key,
            location,
            f"{why}; DCGAN_ALLOWED_PATHS is {', '.join(roots) or 'empty'}",
            "name something below one of these, or add its directory or url prefix to DCGAN_ALLOWED_PATHS "
            "where the run is started",
        )


def _locations(config: PipelineConfig) -> Iterator[tuple[str, str]]:
    """Key and value of every setting that names a file, a directory or a url and is not the default."""
    for name, section in config:
        if isinstance(section, BaseModel):
            yield from _of_section(name, section)
    if config.scrape.allow_loopback:
        yield "scrape.allow_loopback", "http://localhost"
    for host, address in config.scrape.addresses.items():
        yield f"scrape.addresses of {host}", f"http://{address}"


def _of_section(path: str, section: BaseModel) -> Iterator[tuple[str, str]]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{path}.{name}"
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("location"):
            if value != field.default:
                yield key, value or ""
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from _of_section(f"{key}[{number}]", each)


def _why_not(location: str, roots: tuple[str, ...]) -> str:
    """Why a location is not below any of the roots; empty if it is. Chained urls are refused as a whole."""
    if "::" in location:
        return "a chained url (::) hides what it reads"
    if "{" in location:  # patterns of shards: each that it stands for must be allowed
        from braceexpand import braceexpand

        try:
            meant = dict.fromkeys(braceexpand(location))
        except ValueError:
            meant = {location: None}  # the reader says what is wrong with it
        return next((why for each in (location, *meant) if (why := _plainly_why_not(each, roots))), "")
    return _plainly_why_not(location, roots)


def _plainly_why_not(location: str, roots: tuple[str, ...]) -> str:
    outside = "it is not below an allowed place"
    if re.match(r"(file|local|data):(?!//)", location):
        return "write a path without file:, or a url with ://"
    is_pattern = any(mark in location for mark in "*?[")
    if is_pattern and ".." in re.split(r"[/\\]", location):
        return "a pattern may not go up (..)"
    path = _local_path(location)
    if path is None:
        steps = re.split(r"[/\\]", unquote(location))
        if ".." in steps or "." in steps:
            return "a url may not go up (..)"
        url = _url(location)
        fits = any(url == root or url.startswith(f"{root}/") for root in map(_url, roots) if "://" in root)
        return "" if fits else outside
    fitting = glob.iglob(str(path), include_hidden=True) if is_pattern else ()  # noqa: PTH207 (absolute too)
    named = chain([path], map(Path, fitting))
    allowed = [found.resolve() for root in roots if (found := _local_path(root)) is not None]
    inside = all(any(each.resolve().is_relative_to(root) for root in allowed) for each in named)
    return "" if inside else outside


def _local_path(location: str) -> Path | None:
    """The path that a location means on this machine; None for a url of another machine."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return Path(location).expanduser()
    return Path(rest) if scheme in ("file", "local") else None


def _url(location: str) -> str:
    """A url as prefixes are compared: without a slash at its end, s3a as s3."""
    return re.sub(r"^s3a://", "s3://", location).rstrip("/")
