"""Runs of the scrape over the doubles, their rows, and a check of manners seen from the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import Backend, run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.web.photo_host import PhotoHost
from tests.web.server import Double


@dataclass
class Web:
    """A scrape of a list of urls that one double serves under several names."""

    store: Store
    folder: Path
    double: Double
    hosts: tuple[str, ...]

    def overrides(self, urls: Iterable[str] | None = None, **changes: Any) -> dict[str, Any]:
        path = self.folder / "urls.txt"
        if urls is not None:
            path.write_text("".join(f"{url}\n" for url in urls))
        keys = {
            "source": "urls",
            "path": str(path),
            "contact": "test@example.org",
            "addresses": dict.fromkeys(self.hosts, f"127.0.0.1:{self.double.port}"),
            "retries": 2,
            "retry_base_seconds": 0.01,
            "breaker_pause_seconds": 0.05,
            "timeout_seconds": 10,
            "max_bytes": 1_000_000,
            "max_failure_rate": 1.0,
            **changes,
        }
        return {f"scrape.{key}": value for key, value in keys.items()}

    def scrape(
        self, urls: Iterable[str] | None = None, backend: Backend | None = None, **changes: Any
    ) -> list[dict[str, Any]]:
        """Rows of the photos, in their order."""
        manifest = self.manifest(urls, backend, **changes)
        return read_all(self.store, manifest, "photos-").to_pylist()

    def manifest(
        self, urls: Iterable[str] | None = None, backend: Backend | None = None, **changes: Any
    ) -> Manifest:
        stages = load_pipeline("faces64", self.overrides(urls, **changes), upto="scrape").stages
        for stage in stages:
            run(stage, self.store, backend or LocalBackend(1))
        manifest = read_manifest(self.store, stages[-1].address)
        assert manifest is not None
        return manifest


def statuses(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Status by url."""
    return {row["url"]: row["status"] for row in rows}


def check_manners(store: Store, folder: Path, backend: Backend) -> None:
    """Concurrency, crawl-delay, robots.txt once, disallowed paths and closed hosts never, pauses kept."""
    hosts = ("open.test", "slow.test", "picky.test", "closed.test", "gone.test", "busy.test", "later.test")
    robots: dict[str, str | int] = {
        "open.test": "User-agent: *\nDisallow:\n",
        "slow.test": "User-agent: *\nCrawl-delay: 0.3\n",
        "picky.test": "User-agent: *\nDisallow: /photos/\nAllow: /photos/1\n",
        "closed.test": 503,
        "gone.test": 410,
    }
    with PhotoHost(robots=robots, hold_seconds=0.05) as double:
        web = Web(store, folder, double, hosts)
        urls = [f"http://open.test/photos/{n}.jpg" for n in range(24)]
        urls += [f"http://slow.test/photos/{n}.jpg" for n in range(5)]
        urls += [f"http://picky.test/photos/{n}.jpg" for n in range(4)]
        urls += [f"http://closed.test/photos/{n}.jpg" for n in range(5)]
        urls += [f"http://gone.test/photos/{n}.jpg" for n in range(3)]
        urls += ["http://busy.test/status/429/once?retry-after=1", "http://busy.test/photos/1.jpg"]
        urls += ["http://later.test/status/503/once?retry-after-date=1"]
        rows = web.scrape(urls, backend, per_host=3, items_per_part=4)

        asked = double.counts()
        for host in hosts:
            assert asked[host]["/robots.txt"] == (3 if host == "closed.test" else 1)  # a 503 is tried again
            assert double.of(host)[0].path == "/robots.txt"
        assert 2 <= double.most_at_once("open.test") <= 3
        assert double.most_at_once("slow.test") == 1
        # Counted from the answer that asks for the delay: single arrivals may be late on a busy machine.
        robots_txt, *photos = double.of("slow.test")
        assert all(each.at - robots_txt.ended >= 0.3 * n for n, each in enumerate(photos))
        assert set(asked["picky.test"]) == {"/robots.txt", "/photos/1.jpg"}
        assert set(asked["closed.test"]) == {"/robots.txt"}
        for host in ("busy.test", "later.test"):
            refused = next(each for each in double.of(host) if each.status in (429, 503))
            again = [each for each in double.of(host, refused.path) if each is not refused]
            assert again
            assert min(each.at for each in again) - refused.ended >= 0.95
        agents = {each.headers["User-Agent"] for each in double.requests}
        assert agents == {"dcgan/0.1 (+test@example.org)"}

    found = statuses(rows)
    assert Counter(found[url] for url in urls) == {
        "ok": 24 + 5 + 1 + 3 + 2 + 1,
        "robots_disallowed": 3,
        "robots_unreachable": 5,
    }
    reasons = {row["reason"] for row in rows if row["status"] == "robots_unreachable"}
    assert reasons == {"robots.txt of closed.test answers HTTP 503, which disallows everything (RFC 9309)"}
