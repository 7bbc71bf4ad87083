"""The page under the root is that of the latest run, also where everything was cached."""

from __future__ import annotations

from dcgan_core.artifacts import LATEST_REPORT
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import run
from dcgan_core.storage import Store
from tests.conftest import Tiny


def page_after_run(tiny: Tiny, store: Store, title: str) -> tuple[bytes, bool]:
    stage = load_pipeline(tiny.preset, tiny.changed(report__title=title)).stages[-1]
    cached = run(stage, store, LocalBackend(1)).cached
    return store.read_bytes(LATEST_REPORT), cached


def test_the_latest_page_is_that_of_the_latest_run(tiny: Tiny, finished_store: Store) -> None:
    first, _ = page_after_run(tiny, finished_store, "Title A")
    second, _ = page_after_run(tiny, finished_store, "Title B")
    again, cached = page_after_run(tiny, finished_store, "Title A")
    assert b"Title A" in first
    assert b"Title B" in second
    assert cached
    assert again == first
