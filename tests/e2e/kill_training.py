"""Train on Ray while workers, Ray's controller and the driver are killed with SIGKILL at moments of chance.

By hand, from the root of a checkout: ``python -m tests.e2e.kill_training FOLDER --kills 20``. Makes the tiny
data set in the (new) folder, trains straight and under fire, and says in a JSON line what differs in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.place import Place
from dcgan_core.stage import Stage, run
from dcgan_core.storage import Store
from tests.conftest import render_photos, tiny_over

VICTIMS = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController", "driver": ""}
ODDS = (12, 2, 6)
MOST_REFUSALS = 3
"""Lives in a row that may end with an error of their own."""


def training(overrides: dict[str, Any]) -> Stage:
    """The stage that is trained."""
    return load_pipeline("faces64", overrides, upto="train").stages[-1]


def drive(root: str, overrides: dict[str, Any], workers: int) -> None:
    """One life of the driver: train on an embedded Ray, and print how far it is."""
    from tasks.backends import RayBackend

    place = Place(root=root, slots=workers, train_workers=workers, gpus=0)
    report = lambda done, *_: print(f"{done:.0f}", flush=True)  # noqa: E731
    run(training(overrides), Store(root), RayBackend(place), progress=report)


def under_fire(arguments: list[str], kills: int, gap: int, chance: random.Random) -> Counter[str]:
    """Lives of the driver until one ends well, with so many kills in them, about ``gap`` steps apart."""
    done: Counter[str] = Counter()
    due, refusals = chance.randrange(gap), 0
    while True:
        driver = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert driver.stdout
        done["lives of the driver"] += 1
        for line in driver.stdout:
            if kills and line.strip().isdigit() and int(line) >= due:
                time.sleep(chance.random())
                if victim := _kill_one(driver, chance):
                    print(f"step {int(line)}: killed {victim}", file=sys.stderr, flush=True)
                    done[victim], kills, refusals = done[victim] + 1, kills - 1, 0
                    due = int(line) + chance.randrange(gap)
        code = driver.wait()
        if code == 0:
            return done
        if code != -signal.SIGKILL:
            done["runs given up"], refusals = done["runs given up"] + 1, refusals + 1
            assert refusals <= MOST_REFUSALS, f"the driver ends with code {code} again and again"


def _kill_one(driver: subprocess.Popen[str], chance: random.Random) -> str:
    """Kill a process of the run, chosen by chance; its role, or nothing where there is none just now."""
    role = chance.choices(list(VICTIMS), ODDS)[0]
    if role == "driver":
        driver.kill()
        return role
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(VICTIMS[role]):
                found.append(process)
        except psutil.Error:
            continue
    if not found:
        return ""
    os.kill(chance.choice(found).pid, signal.SIGKILL)
    return role


def main() -> int:
    """1 where the two runs end differently."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--gap", type=int, default=400, help="most steps between two kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.drive:
        drive(str(chosen.folder), json.loads(chosen.drive), chosen.workers)
        return 0
    chosen.folder.mkdir(parents=True)
    (chosen.folder / "photos").mkdir()
    tiny = tiny_over(render_photos(chosen.folder / "photos"))
    effort = {"checkpoint_every": 50, "sample_every": 1000, "score_every": 1000, "log_every": 10}
    overrides = tiny.changed(train__steps=chosen.steps, **{f"train__{key}": n for key, n in effort.items()})
    roots = {name: chosen.folder / name for name in ("straight", "fire")}
    for stage in load_pipeline(tiny.preset, overrides, upto="shard").stages:
        run(stage, Store(str(roots["straight"])), LocalBackend(1))
    shutil.copytree(roots["straight"], roots["fire"])
    words = ["--workers", str(chosen.workers), "--drive", json.dumps(overrides)]
    seconds, lives = {}, {}
    for name, kills in (("straight", 0), ("fire", chosen.kills)):
        began = time.monotonic()
        random_ = random.Random(chosen.seed)
        lives[name] = under_fire([str(roots[name]), *words], kills, chosen.gap, random_)
        seconds[name] = round(time.monotonic() - began)
    differing = _differing(training(overrides), *roots.values())
    print(json.dumps({"fire": lives["fire"], "seconds": seconds, "differing": differing}))
    return bool(differing)


def _differing(stage: Stage, *roots: Path) -> list[str]:
    """Files of which one run has other bytes than the other, or none."""
    files = []
    for root in roots:
        manifest = read_manifest(Store(str(root)), stage.address)
        assert manifest
        files.append({file.name: file.sha256 for file in manifest.files})
    one, other = files
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


if __name__ == "__main__":
    sys.exit(main())
