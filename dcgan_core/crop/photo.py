"""A photo on its way to the cutter, and the rows about it; nothing that decodes is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Photo:
    """What is known of one photo."""

    key: str
    label: int | None
    name: str | None
    """Who is on it, where that is wanted and known."""
    data: bytes

    def row(self, key: str, **facts: Any) -> dict[str, Any]:
        """A row about this photo or a crop of it."""
        whose = {"key": key, "photo_key": self.key, "label": self.label, "name": self.name, "reason": ""}
        return {**whose, **facts}

    def failed(self, status: str, why: str) -> dict[str, Any]:
        """The one row of a photo without any crop."""
        return self.row(self.key, status=status, reason=why)
