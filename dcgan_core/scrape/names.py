"""Names of people as they are searched for, out of the labels that the web has for them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import date

_IN_BRACKETS = re.compile(r"\s*[(（\[][^)）\]]*[)）\]]")
_MARKUP = re.compile(r"[<>{}|#\\]|https?:")
_SUFFIXES = {"jr", "jr.", "sr", "sr.", "ii", "iii", "iv", "v", "phd", "md", "esq", "esq."}
_LONGEST = 80


def tidy_name(label: str) -> str | None:
    """A name as one would write it, or None where the label is no name to search for.

    Brackets go ("Jane Doe (actor)"), "Doe, Jane" is turned round, spacing is made plain. Single words are
    no names here: a search for one finds everybody and everything.
    """
    text = unicodedata.normalize("NFC", label)
    if _MARKUP.search(text) or any(unicodedata.category(sign) in ("Cc", "Cs", "Co") for sign in text):
        return None
    text = " ".join(_IN_BRACKETS.sub(" ", text).replace('"', " ").split())
    text = _turned_round(text)
    letters = sum(sign.isalpha() for sign in text)
    if len(text) > _LONGEST or letters < 3 or (len(text.split()) < 2 and _is_latin(text)):
        return None
    return text


def best_name(labels: Iterable[str]) -> str | None:
    """The one of several labels to search by, whatever their order; None where none will do."""
    names = {name for label in labels if (name := tidy_name(label))}
    return min(names, key=_worse_last, default=None)


def readable_date(text: str) -> str | None:
    """An ISO date (YYYY-MM-DD) where the text is one that exists, else None."""
    try:
        return date.fromisoformat(text[:10]).isoformat() if re.match(r"\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:  # 31 February
        return None


def _worse_last(name: str) -> tuple[bool, bool, int, int, str]:
    words = len(name.split())
    return (not _is_latin(name), name != name.title() and name.islower(), abs(words - 2), len(name), name)


def _is_latin(text: str) -> bool:
    return all("LATIN" in unicodedata.name(sign, "") for sign in text if sign.isalpha())


def _turned_round(text: str) -> str:
    before, comma, after = (piece.strip() for piece in text.partition(","))
    if not comma or "," in after or not before or not after:
        return text
    words = after.split()
    if words[0].lower() in _SUFFIXES:
        return f"{before} {after}"
    if len(words) <= 3 and not any(word[0].islower() for word in words):
        return f"{after} {before}"
    return before
