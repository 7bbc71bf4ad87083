"""Training in a process of its own, cut off at moments of chance, ends with a straight run's bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.pipeline import load_pipeline
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from tests.conftest import Tiny

STEPS = 2000
HEARD = """
from dcgan_core.cli import main
from dcgan_core.train.runtime import LocalRuntime

LocalRuntime.report = lambda self, step, *rest: print(step, flush=True)
main()
"""
"""The command line, which prints the number of each step that is reported."""


class Cutting:
    """``dcgan run train`` under one root, again and again."""

    def __init__(self, root: Path, tiny: Tiny) -> None:
        effort = {"checkpoint_every": 100, "sample_every": 1000, "log_every": 3, "score_every": 1000}
        chosen = tiny.changed(train__steps=STEPS, **{f"train__{key}": value for key, value in effort.items()})
        self.store = Store(str(root))
        self.stage = load_pipeline(tiny.preset, chosen, upto="train").stages[-1]
        words = [word for key, value in chosen.items() for word in ("-o", f"{key}={json.dumps(value)}")]
        self._command = [sys.executable, "-c", HEARD, "run", "train", *words]

    def live(self, number: signal.Signals | None = None, step: int = STEPS) -> tuple[int, str]:
        """Run it; where a signal is given, send it soon after that step. Exit code and words."""
        process = subprocess.Popen(
            self._command,
            env={**os.environ, "DCGAN_ROOT": self.store.root, "DCGAN_SLOTS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # it may be ignored here
        )
        assert process.stdout
        while number and (line := process.stdout.readline()):
            if line.strip().isdigit() and int(line) >= step:
                process.send_signal(number)
                number = None
        _, said = process.communicate(timeout=300)
        return process.returncode, said

    def newest(self) -> int:
        """The step of the newest checkpoint."""
        return checkpoint.saved(self.store, self.stage.address)[-1].step

    def manifest(self) -> Manifest | None:
        return read_manifest(self.store, self.stage.address)


@pytest.mark.slow
def test_a_training_stopped_interrupted_and_killed_ends_with_the_bytes_of_a_straight_one(
    tiny: Tiny, finished_root: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    for name in ("straight", "broken"):
        shutil.copytree(finished_root, tmp_path / name)
    straight, broken = (Cutting(tmp_path / name, tiny) for name in ("straight", "broken"))
    assert straight.live()[0] == 0

    for number, begin, code in ((signal.SIGTERM, 100, 143), (signal.SIGINT, 500, 130)):
        ended, said = broken.live(number, begin + chance.randrange(300))
        saved = re.search(rf"has saved step (\d+) of {STEPS}; run the same command again", said)
        assert saved, said
        assert int(saved[1]) == broken.newest() > begin
        assert ended == code
        assert "Traceback" not in said

    ended, _ = broken.live(signal.SIGKILL, STEPS // 2 + chance.randrange(500))
    assert ended == -signal.SIGKILL
    assert STEPS // 2 - 100 <= broken.newest() < STEPS
    assert broken.manifest() is None
    assert broken.live()[0] == 0
    whole, mended = straight.manifest(), broken.manifest()
    assert whole and mended
    assert mended.content == whole.content
