"""One life of a scrape from names to crops, for tests to kill (see test_scrape_names.py)."""

from __future__ import annotations

import json
import sys

from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import run
from dcgan_core.storage import Store


def main(root: str, overrides: str) -> None:
    """Run all stages up to the crops, in this process, and say so."""
    print("alive", flush=True)
    for stage in load_pipeline("faces64", json.loads(overrides), upto="crop").stages:
        run(stage, Store(root), LocalBackend(1))
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
