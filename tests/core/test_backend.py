"""Parts in several processes: they end with the process that started them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from dcgan_core.artifacts import Receipt, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import Json
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary, run
from dcgan_core.storage import Store

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


@dataclass(frozen=True)
class Parted(Stage):
    """Three parts that say which process did them."""

    artifact: ClassVar[str] = "parted"
    flow: ClassVar[str] = "parted"
    version: ClassVar[int] = 1

    def settings(self) -> dict[str, Json]:
        return {}

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(index, str(index), None) for index in range(3)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        return Receipt(part=part.index, key=part.key, files=(), counts={"process": os.getpid()}, metrics={})

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary({"here": sum(receipt.counts["process"] == os.getpid() for receipt in receipts)})


@dataclass(frozen=True)
class Greedy(Parted):
    """The same, each part of which wants the machine for itself."""

    whole_machine: ClassVar[bool] = True


@pytest.mark.parametrize(("kind", "here"), [(Parted, 0), (Greedy, 3)])
def test_parts_that_take_the_whole_machine_are_done_one_after_the_other(
    kind: type[Stage], here: int, store: Store
) -> None:
    stage = kind(0, {}, "none")
    run(stage, store, LocalBackend(2))
    manifest = read_manifest(store, stage.address)
    assert manifest
    assert manifest.counts == {"here": here}
