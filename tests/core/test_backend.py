"""Parts in several processes: they end with the process that started them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

PARENT = """
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dcgan_core.artifacts import Receipt
from dcgan_core.backend import LocalBackend
from dcgan_core.stage import Part, Stage, Summary, run
from dcgan_core.storage import Store


@dataclass(frozen=True)
class Endless(Stage):
    artifact: ClassVar[str] = "endless"
    flow: ClassVar[str] = "endless"
    version: ClassVar[int] = 1

    def settings(self):
        return {}

    def plan(self, store):
        return [Part(index, str(index), None) for index in range(2)]

    def work(self, store, part, progress):
        os.write(1, f"{os.getpid()}\\n".encode())
        while True:
            signal.pause()

    def finish(self, store, receipts):
        return Summary({})


if __name__ == "__main__":
    run(Endless(0, {}, "none"), Store(sys.argv[1]), LocalBackend(2))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path / "root")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(30)
    parent.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
