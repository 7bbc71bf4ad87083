"""Wikimedia Commons: its search API with all its habits, and its media server."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from aiohttp import web

from dcgan_core.scrape.demo import DemoPhoto, render
from tests.web.server import Double, Faults

API, MEDIA = "commons.wikimedia.org", "upload.wikimedia.org"
WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)
BATCH_IMAGEINFO = 7
"""The API tells details of so many pages at once; the others come with the next batch."""


@dataclass(frozen=True)
class File:
    """One file of Commons."""

    title: str
    subject: int
    width: int = 2000
    mime: str = "image/jpeg"
    licence: str = "CC BY-SA 4.0"
    artist: str = '<a href="//commons.wikimedia.org/wiki/User:Photog" title="x">Photog</a>'
    restrictions: str = ""
    missing: bool = False

    @property
    def url_name(self) -> str:
        return quote(self.title.replace(" ", "_"))

    @property
    def body(self) -> bytes:
        return _body(self.subject)


@cache
def _body(subject: int) -> bytes:
    return render(DemoPhoto("x", "face", subject % 100, "original"), seed=3 + subject // 100)


class Commons(Double):
    """``/w/api.php`` and, by the Host header, the media server. ``violations`` lists broken manners."""

    def __init__(
        self,
        files: Mapping[str, Sequence[File]],
        *,
        page: int = 50,
        maxlag_first: int = 0,
        refuse: Sequence[str] = (),
        faults: Faults | None = None,
    ) -> None:
        """``page``: results a batch, at most; the first ``maxlag_first`` requests are put off."""
        super().__init__(faults)
        self.files, self.page, self.put_off, self.refuse = files, page, maxlag_first, set(refuse)
        self.by_name = {file.url_name: file for found in files.values() for file in found}
        self.violations: list[str] = []
        self._api_now = self._media_now = 0

    async def answer(self, request: web.Request, host: str) -> web.StreamResponse:
        agent = request.headers.get("User-Agent", "")
        if not re.search(r"@|https?://", agent) and request.rel_url.path != "/robots.txt":
            return web.Response(status=403, text="Please set a user-agent and respect our robot policy.")
        if request.rel_url.path == "/robots.txt":
            rules = "User-agent: *\nDisallow: /w/\n" if host == API else "User-agent: *\nAllow: /\n"
            return web.Response(text=rules)
        if host == MEDIA:
            return await self._media(request)
        return await self._api(request)

    async def _api(self, request: web.Request) -> web.StreamResponse:
        self._api_now += 1
        try:
            if self._api_now > 1:
                self.violations.append("two API requests at once")
            await asyncio.sleep(0.005)
            return self._search(request)
        finally:
            self._api_now -= 1

    def _search(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        if self.put_off > 0:
            self.put_off -= 1
            error = {"code": "maxlag", "info": "Waiting for a database server: 7 seconds lagged", "lag": 7}
            return web.json_response({"error": error}, headers={"Retry-After": "0"})
        phrase = re.fullmatch(r'"([^"]*)" filetype:bitmap', query.get("gsrsearch", ""))
        if phrase is None or query.get("gsrnamespace") != "6" or query.get("formatversion") != "2":
            return web.json_response({"error": {"code": "badsearch", "info": "cannot be parsed <b>x</b>"}})
        if int(query["iiurlwidth"]) not in WIDTHS:
            return web.Response(status=429, text="use one of the standard widths")
        name = phrase[1]
        if name in self.refuse:
            return web.json_response({"error": {"code": "cirrussearch-error", "info": "search failed"}})
        if "gsroffset" in query and query["gsroffset"] != "0" and "continue" not in query:
            return web.json_response({"error": {"code": "badcontinue", "info": "pass it back whole"}})
        return self._batch(self.files.get(name, ()), dict(query))

    def _batch(self, found: Sequence[File], query: dict[str, str]) -> web.Response:
        offset, limit = int(query["gsroffset"]), min(self.page, int(query["gsrlimit"]))
        start = int(query.get("iicontinue", "0"))
        here = found[offset : offset + limit]
        pages = [
            _page(file, offset + number + 1, told=start <= number < start + BATCH_IMAGEINFO)
            for number, file in enumerate(here)
        ]
        order = sorted(range(len(pages)), key=lambda n: hashlib.sha256(pages[n]["title"].encode()).digest())
        answer: dict[str, Any] = {}
        if start + BATCH_IMAGEINFO < len(here):
            answer["continue"] = {
                "iicontinue": str(start + BATCH_IMAGEINFO),
                "gsroffset": str(offset),
                "continue": "gsroffset||imageinfo",
            }
        else:
            answer["batchcomplete"] = True
            if offset + limit < len(found):
                answer["continue"] = {"gsroffset": offset + limit, "continue": "gsroffset||"}
        if pages:
            answer["query"] = {"pages": [pages[n] for n in order]}
        return web.json_response(answer)

    async def _media(self, request: web.Request) -> web.StreamResponse:
        self._media_now += 1
        try:
            if self._media_now > 2:
                self.violations.append("more than two media requests at once")
            await asyncio.sleep(0.005)
            return self._photo(request)
        finally:
            self._media_now -= 1

    def _photo(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        thumb = re.fullmatch(r"/wikipedia/commons/thumb/./../([^/]+)/(\d+)px-.*", path)
        name = thumb[1] if thumb else path.rpartition("/")[2]
        file = self.by_name.get(quote(unquote(name)))
        if file is None:
            return web.Response(status=404, text="no such file")
        if thumb and int(thumb[2]) not in WIDTHS:
            return web.Response(status=429, text="use one of the standard widths")
        etag = f'"{hashlib.md5(file.body, usedforsecurity=False).hexdigest()}"'
        headers = {"ETag": etag, "Last-Modified": "Mon, 03 Jun 2019 14:43:13 GMT"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type="image/jpeg", headers=headers)


def _page(file: File, index: int, *, told: bool) -> dict[str, Any]:
    number = int(hashlib.sha256(file.title.encode()).hexdigest()[:7], 16)
    page: dict[str, Any] = {"pageid": number, "ns": 6, "title": f"File:{file.title}", "index": index}
    if file.missing:
        return {**page, "missing": True, "known": True}
    if not told:
        return page
    original = f"http://{MEDIA}/wikipedia/commons/a/ab/{file.url_name}"
    thumb = f"http://{MEDIA}/wikipedia/commons/thumb/a/ab/{file.url_name}/960px-{file.url_name}"
    meta: dict[str, Any] = {
        "CommonsMetadataExtension": {"value": 1.2, "source": "extension", "hidden": ""},
        "ImageDescription": {"value": "<b>Jane</b> at a fair<script>alert(1)</script>", "source": "commons"},
        "Artist": {"value": file.artist},
        "Credit": {"value": 'Own <a href="javascript:alert(2)">work</a> &amp; more'},
        "LicenseShortName": {"value": file.licence},
        "License": {"value": file.licence.lower().replace(" ", "-")},
        "AttributionRequired": {"value": "true"},
        "Copyrighted": {"value": "True" if file.licence != "Public domain" else "False"},
        "Restrictions": {"value": file.restrictions},
    }
    if file.licence != "Public domain":
        meta["LicenseUrl"] = {"value": "https://creativecommons.org/licenses/by-sa/4.0"}
    info = {
        "timestamp": "2019-06-03T14:43:13Z",
        "user": "Photog",
        "size": len(file.body),
        "width": file.width,
        "height": file.width * 3 // 4,
        "thumburl": original if file.width <= 960 else thumb,
        "thumbwidth": min(960, file.width),
        "url": original,
        "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{file.url_name}",
        "sha1": hashlib.sha1(file.body, usedforsecurity=False).hexdigest(),
        "mime": file.mime,
        "mediatype": "BITMAP",
        "extmetadata": meta,
    }
    return {**page, "imageinfo": [info]}


LICENCES = ("CC BY-SA 4.0", "CC BY 2.0", "CC0", "Public domain", "GFDL")


def sample_files(names: Sequence[str], seed: int = 0, most: int = 8) -> dict[str, list[File]]:
    """Files by name: none to ``most`` each, of every licence, some restricted, some found for two names."""
    rng = np.random.default_rng(seed)
    files: dict[str, list[File]] = {}
    subject = 0
    last: File | None = None
    for number, name in enumerate(names):
        found = []
        for copy in range(int(rng.integers(0, most + 1))):
            found.append(
                File(
                    f"{name} at {copy}, «{2000 + copy}».jpg",
                    subject,
                    width=(900, 2000)[copy % 2],
                    licence=LICENCES[subject % len(LICENCES)],
                    restrictions=("", "personality", "", "personality|trademarked")[subject % 4],
                )
            )
            subject += 1
        if last and number % 5 == 4:
            found.append(last)  # a photo of two people
        if number % 7 == 3:
            found.append(File(f"{name} scan.svg", subject, mime="image/svg+xml"))
            found.append(File(f"{name} gone.jpg", subject, missing=True))
        last = found[0] if found else last
        files[name] = found
    return files
