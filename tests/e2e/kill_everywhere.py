"""Run a tiny pipeline in one process after another, each killed with SIGKILL in the middle of some stage.

A program of its own (see test_kill.py): it imports everything, computes nothing, and forks a child for each
life; a child kills itself right before or right after the rename that puts a finished file into place.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections import Counter
from typing import Any, NoReturn

from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import run
from dcgan_core.storage import Store

# What the stages load when they have work; loaded once, so that no life begins with seconds of it.
HEAVY = (
    "dcgan_core.analyze.neighbours",
    "dcgan_core.crop.boxes",
    "dcgan_core.dedup.codes",
    "dcgan_core.dedup.groups",
    "dcgan_core.dedup.neighbours",
    "dcgan_core.evaluate.datasets",
    "dcgan_core.evaluate.features",
    "dcgan_core.evaluate.contest",
    "dcgan_core.evaluate.quality",
    "dcgan_core.models.weights",
    "dcgan_core.report.gather",
    "dcgan_core.report.page",
    "dcgan_core.shard.blocks",
    "dcgan_core.shard.plan",
    "dcgan_core.shard.reader",
    "dcgan_core.shard.writer",
    "dcgan_core.train.data",
    "dcgan_core.train.loop",
    "sklearn.datasets",
)


# Part of a path, and whether death comes before or after the file is in place.
WHERE = (
    ("/parts/", "after"),
    ("/receipts/", "before"),
    ("/receipts/", "after"),
    ("/manifest.json", "before"),
)
IN_TRAINING = (
    ("/checkpoints/step-00000004/adam-generator.safetensors", "after"),
    ("/checkpoints/step-00000004/state.json", "before"),
    ("/checkpoints/step-00000006/state.json", "after"),
    ("/checkpoints/step-00000008/state.json", "after"),
    ("/parts/generator.safetensors", "after"),
)


def deaths(overrides: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(artifact, part of the path, before or after) of every life but the last."""
    found = []
    for artifact in (stage.artifact for stage in load_pipeline("faces64", overrides).stages):
        places = (*WHERE[:1], *IN_TRAINING, *WHERE[1:]) if artifact == "train" else WHERE
        found += [(artifact, place, when) for place, when in places]
    return found


def live(root: str, overrides: dict[str, Any], death: tuple[str, str, str] | None) -> NoReturn:
    """One life: the pipeline up to its death, or whole."""
    rename = os.replace

    def replace(source: str, target: str) -> None:
        now = death is not None and f"/artifacts/{death[0]}/" in str(target) and death[1] in str(target)
        if now and death and death[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]
    store = Store(root)
    for stage in load_pipeline("faces64", overrides).stages:
        run(stage, store, LocalBackend(1))
    os._exit(0)


def main(root: str, overrides: dict[str, Any]) -> None:
    """Print, as JSON, in which artifacts how many lives were ended by SIGKILL."""
    for module in HEAVY:
        importlib.import_module(module)
    kills: Counter[str] = Counter()
    for death in (*deaths(overrides), None):
        child = os.fork()
        if child == 0:
            live(root, overrides, death)
        _, status = os.waitpid(child, 0)
        if death is None:
            assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, "the last life ended with an error"
        else:
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"no death at {death}"
            kills[death[0]] += 1
    print(json.dumps(kills))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
