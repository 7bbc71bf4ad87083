"""Flows that wait for a file, as light as can be, with names of ours so that the automations watch them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from prefect import flow

DEADLINE_SECONDS = 400


def _wait(folder: str) -> None:
    """Note the process, then wait for the file `go`."""
    with (Path(folder) / "processes").open("a") as notes:
        notes.write(f"{os.getpid()}\n")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (Path(folder) / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.2)


@flow(name="analyze")
def alone(folder: str) -> None:
    """One stage."""
    _wait(folder)


@flow(name="train")
def stage(folder: str) -> None:
    """A stage inside a pipeline."""
    _wait(folder)


@flow(name="dcgan")
def pipeline(folder: str) -> None:
    """A pipeline of one stage."""
    stage(folder)


@flow(name="evaluate")
def silent(folder: str, seconds: float) -> None:
    """A healthy stage that says nothing for long."""
    (Path(folder) / "processes").write_text(f"{os.getpid()}\n")
    time.sleep(seconds)
