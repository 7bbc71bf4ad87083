"""What tests of the web share: runs of the scrape over the doubles, and its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import Backend, run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
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


@pytest.fixture
def hosts() -> tuple[str, ...]:
    return tuple(f"photos{number}.test" for number in range(4))
