"""What a part costs beside its work: planning, committing, receipt; in this process and on Ray.

python -m benchmarks.part_overhead [--parts 200] [--windows 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.common import print_result, windows
from dcgan_core.artifacts import Receipt, write_part
from dcgan_core.backend import LocalBackend
from dcgan_core.config import Json
from dcgan_core.place import Place
from dcgan_core.progress import Progress
from dcgan_core.stage import Backend, Part, Stage, Summary, run
from dcgan_core.storage import Store


@dataclass(frozen=True)
class Idle(Stage):
    """A stage whose parts are one small file each."""

    artifact: ClassVar[str] = "idle"
    flow: ClassVar[str] = "idle"
    version: ClassVar[int] = 1

    count: int

    def settings(self) -> dict[str, Json]:
        return {"count": self.count}

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(index, self.part_key(index), None) for index in range(self.count)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        file = write_part(store, self.address, f"idle-{part.index:05d}.bin", b"0" * 1000)
        return Receipt(part=part.index, key=part.key, files=(file,), counts={"parts": 1})

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts={"parts": len(receipts)})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=int, default=200)
    parser.add_argument("--windows", type=int, default=5)
    options = parser.parse_args()
    from tasks.backends import RayBackend

    def once(backend: Backend) -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run(Idle(0, {}, "none", options.parts), Store(folder), backend)
            return 1000 * (time.perf_counter() - began) / options.parts

    on_ray = RayBackend(Place(root="unused"))
    once(on_ray)  # starts Ray and its workers
    local = windows(lambda: once(LocalBackend(1)), options.windows)
    ray = windows(lambda: once(on_ray), options.windows)
    print_result(
        "part_overhead", local, "ms a part", parts=options.parts, on_ray_ms=sorted(ray)[len(ray) // 2]
    )


if __name__ == "__main__":
    main()
