"""Wikimedia Commons as a search engine: its search API, thumbnails, licences and what it says of authors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import FetchError
from dcgan_core.scrape.search import Api, Found, plain_text

VERSION = 1
_PAGE = 50
_MOST_BATCHES = 40
_TAKEN = {"image/jpeg", "image/png", "image/webp", "image/tiff"}  # a TIFF's thumbnail is a JPEG


@dataclass(frozen=True)
class Commons:
    """Pictures of Commons by name, as thumbnails of a width that its servers keep ready."""

    config: ScrapeConfig

    def identity(self) -> dict[str, Json]:
        return {"engine": "commons", "engine_version": VERSION, "thumb_width": self.config.thumb_width}

    async def search(self, api: Api, name: str, limit: int) -> list[Found]:
        """Bitmaps whose page holds the name as a phrase, in the order of the engine's own ranking."""
        parameters = {
            "action": "query",
            "format": "json",
            "formatversion": "2",
            "maxlag": "5",
            "generator": "search",
            "gsrsearch": f'"{_phrase(name)}" filetype:bitmap',
            "gsrnamespace": "6",
            "gsrlimit": str(min(_PAGE, limit)),
            "gsroffset": "0",
            "prop": "imageinfo",
            "iiprop": "url|size|mime|sha1|extmetadata|timestamp|user|mediatype",
            "iiurlwidth": str(self.config.thumb_width),
        }
        goes_on: dict[str, str] = {}
        pages: dict[int, dict[str, Any]] = {}
        for _ in range(_MOST_BATCHES):
            _, answer = await api.get_json(self.config.commons_url, {**parameters, **goes_on})
            try:
                _merge(pages, answer)
                goes_on = {key: str(value) for key, value in answer.get("continue", {}).items()}
            except (AttributeError, KeyError, TypeError):
                raise FetchError(
                    f"{self.config.commons_url} gives no search results; check scrape.commons_url"
                ) from None
            is_whole = "batchcomplete" in answer
            if not goes_on or (is_whole and len(pages) >= limit):
                break
        ranked = sorted(pages.values(), key=lambda page: (page.get("index", 0), page["pageid"]))
        return [_found(page) for page in ranked[:limit]]


def _merge(pages: dict[int, dict[str, Any]], answer: Mapping[str, Any]) -> None:
    """Add one batch: a page may come more than once, each time with more of what was asked for."""
    for page in answer.get("query", {}).get("pages", []):
        known = pages.setdefault(page.get("pageid", -len(pages) - 1), {"pageid": page.get("pageid", 0)})
        known.update({key: value for key, value in page.items() if value or key not in known})


def _found(page: Mapping[str, Any]) -> Found:
    details = page.get("imageinfo") or []
    if page.get("missing") or not details:
        return Found("", status="missing", reason="the engine lists it and has it not")
    info = details[0]
    meta = info.get("extmetadata") or {}
    url, original = info.get("thumburl") or info.get("url") or "", info.get("url")
    mime = str(info.get("mime", ""))
    usable = mime in _TAKEN
    return Found(
        url=url,
        page_url=info.get("descriptionurl"),
        caption=_meta(meta, "ImageDescription") or plain_text(page.get("title")),
        licence=_meta(meta, "LicenseShortName") or _meta(meta, "License"),
        licence_url=_web_address(_meta(meta, "LicenseUrl")),
        artist=_meta(meta, "Artist") or plain_text(info.get("user")),
        credit=_meta(meta, "Credit"),
        restrictions=_meta(meta, "Restrictions"),
        sha1=info.get("sha1") if url == original else None,
        status="ok" if usable else "unsupported_type",
        reason="" if usable else f"{plain_text(mime) or 'no type'} is no photo",
    )


def _meta(meta: Mapping[str, Any], name: str) -> str | None:
    """A field of extmetadata as plain text; values come as strings, numbers or HTML."""
    field = meta.get(name)
    return plain_text(field.get("value")) if isinstance(field, Mapping) else None


def _web_address(text: str | None) -> str | None:
    if text and text.startswith("//"):
        return f"https:{text}"
    return text if text and text.startswith(("http://", "https://")) else None


def _phrase(name: str) -> str:
    """The name inside a quoted phrase: a quotation mark would end it."""
    return " ".join(name.replace('"', " ").replace("\\", " ").split())
