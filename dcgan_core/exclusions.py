"""What must never be gathered or kept: a list under the root that every stage honours (issue B, takedown)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dcgan_core.errors import ConfigError, CorruptArtifact
from dcgan_core.storage import Store, sha256_hex

PATH = "exclusions.jsonl"
"""One JSON object a line, ``{"kind": ..., "value": ...}``; ``dcgan forget`` writes it."""

KINDS = ("url", "page_url", "sha256", "artist", "name", "key")
"""``key`` is a photo's own key: how a photo found by its content is known before it is fetched again."""

_COLUMN_OF = {
    "url": "url",
    "page_url": "page_url",
    "sha256": "sha256",
    "artist": "artist",
    "name": "query",
    "key": "key",
}


@dataclass(frozen=True, order=True)
class Exclusion:
    """One thing that is excluded; artists and names compare without regard to case and spacing."""

    kind: str
    value: str

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown kind, an empty value, or what is no sha256."""
        if self.kind not in KINDS:
            raise ConfigError(f"an exclusion cannot be by {self.kind!r}; kinds: {', '.join(KINDS)}")
        if not self.value.strip():
            raise ConfigError(f"an exclusion by {self.kind} needs a value, and this one is empty")
        if self.kind == "sha256" and not re.fullmatch(r"[0-9a-f]{64}", self.value.strip().lower()):
            raise ConfigError(f"{self.value!r} is no sha256: give the 64 hex digits that sha256sum prints")
        object.__setattr__(self, "value", _normal(self.kind, self.value))


@dataclass(frozen=True)
class Exclusions:
    """The whole list; cheap to ask once made."""

    entries: frozenset[Exclusion] = frozenset()

    @cached_property
    def _values(self) -> dict[str, frozenset[str]]:
        return {
            kind: frozenset(entry.value for entry in self.entries if entry.kind == kind) for kind in KINDS
        }

    @property
    def digest(self) -> str:
        """Hash of the list, whatever its order; empty where the list is."""
        if not self.entries:
            return ""
        lines = sorted(f"{entry.kind}\t{entry.value}" for entry in self.entries)
        return sha256_hex("\n".join(lines).encode("utf-8", "surrogateescape"))[:16]

    @property
    def hashes(self) -> frozenset[str]:
        """The sha256 values, in hex: what is known of a photo only once it has been fetched."""
        return self._values["sha256"]

    def names(self) -> frozenset[str]:
        """Names of people not to search for, as ``normal_name`` writes them."""
        return self._values["name"]

    def why(self, row: Mapping[str, Any]) -> str | None:
        """Why a photo's row is excluded, or None; columns that a row lacks match nothing.

        Looks at url, page_url, final_url, sha256, artist, query (a person's name) and key. The answer names
        the kind only, so that no row repeats what somebody asked to have forgotten.
        """
        if not self.entries:
            return None
        for kind, values in self._values.items():
            value = row.get(_COLUMN_OF[kind])
            if values and isinstance(value, str) and _normal(kind, value) in values:
                return f"on the exclusion list, by {kind}"
        final = row.get("final_url")
        if isinstance(final, str) and final in self._values["url"]:
            return "on the exclusion list, by url"
        return None


NOTHING = Exclusions()


def normal_name(text: str) -> str:
    """A name or artist as it is compared: case and spacing do not count."""
    return " ".join(text.split()).casefold()


def read_exclusions(store: Store) -> Exclusions:
    """The list under a root; empty where there is none. CorruptArtifact where a line cannot be read."""
    try:
        text = store.read_bytes(PATH).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return NOTHING
    entries = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            entries.add(Exclusion(record["kind"], record["value"]))
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CorruptArtifact(store.uri(PATH), f"line {number} is no exclusion ({error})") from None
    return Exclusions(frozenset(entries))


def exclude(store: Store, more: Iterable[Exclusion]) -> Exclusions:
    """Add to the list under a root, durably; what is on it already stays once."""
    now = Exclusions(read_exclusions(store).entries | frozenset(more))
    store.write_bytes(PATH, _as_lines(sorted(now.entries)).encode("utf-8", "surrogateescape"))
    return now


def _as_lines(entries: Sequence[Exclusion]) -> str:
    return "".join(json.dumps({"kind": entry.kind, "value": entry.value}) + "\n" for entry in entries)


def _normal(kind: str, value: str) -> str:
    if kind in ("artist", "name"):
        return normal_name(value)
    return value.strip().lower() if kind == "sha256" else value.strip()


def photos_key(base: str, excluded: Iterable[str], hashes: Iterable[str]) -> str:
    """Key of a part of photos: what it would be without exclusions, and which of them bear upon it.

    ``base`` hashes the part's items, ``excluded`` are the keys of those that are left out by what is known
    before they are fetched, ``hashes`` the excluded sha256, which may hit any. ``dcgan forget`` writes the
    same key for a part that it has cleaned, so that the next run finds it done.
    """
    left_out, by_content = sorted(excluded), sorted(hashes)
    if not left_out and not by_content:
        return base
    return sha256_hex(json.dumps([base, left_out, by_content]).encode())[:32]
