"""How freely a photo may be used, by the name of its licence: one way to choose among duplicates."""

from __future__ import annotations

import re

OPENNESS = {
    "unknown": 0,
    "no derivatives": 1,
    "non-commercial": 2,
    "share alike": 3,
    "attribution": 4,
    "public domain": 5,
}
"""Kinds of licences by what they ask, the freest highest; who asks for several things is of the lowest."""

_KINDS = (
    ("unknown", r"all rights reserved|\bnot\b|\bnon[ -]?free\b|fair use|permission"),
    ("no derivatives", r"\bnd\b|no[ -]?deriv"),
    ("non-commercial", r"\bnc\b|non[ -]?commercial"),
    ("share alike", r"\bsa\b|share[ -]?alike|gfdl|gnu free documentation|free art|\blal\b|\bodbl\b|\bgpl\b"),
    ("public domain", r"\bcc-?0\b|\bcc zero\b|public domain|\bpdm?\b|no known (copyright )?restrictions"),
    ("attribution", r"\bcc[ -]by\b|licen[cs]es by\b|^by( \d.*)?$|\battribution\b|\bogl\b"),
)


def openness(licence: str | None) -> int:
    """A value of ``OPENNESS`` for a licence's name or url in the source's words; unknown where it says none.

    >>> openness("CC BY-SA 4.0"), openness("https://creativecommons.org/licenses/by/4.0/"), openness(None)
    (3, 4, 0)
    """
    words = re.sub(r"[_/.]+", " ", (licence or "").lower()).replace("publicdomain", "public domain")
    words = re.sub(r"\b(cc|by|nc|nd|sa)-(?=(by|nc|nd|sa)\b)", r"\1 ", words)
    return next((OPENNESS[kind] for kind, pattern in _KINDS if re.search(pattern, words)), 0)
