"""What benchmarks share: the machine in words, the result's one line, windows and their spread."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil


def machine() -> str:
    """Processor, cores, memory and Python, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        name = names[0] if names else name
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {psutil.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def peak_gib() -> float:
    """Largest resident memory of this process since it was executed.

    Not ``ru_maxrss``: that survives ``exec``, so that a small process shows what its parent had.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1)) / 2**20  # type: ignore[union-attr]


def alone(*command: str) -> Any:
    """The JSON that a command, in a process of its own on one thread, prints last."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def command(module: str, arguments: Sequence[str], without: Sequence[str]) -> str:
    """How to do it again: without some options and their values, files by their names alone."""
    words, skip = [], False
    for argument in arguments:
        skip_this, skip = skip, argument in without
        if not (skip_this or skip):
            words.append(Path(argument).name if "/" in argument else argument)
    return shlex.join(["python", "-m", module, *words])


def windows(measure: Callable[[], float], count: int) -> list[float]:
    """``count`` measurements, one after another."""
    return [measure() for _ in range(count)]


def print_result(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    peer: str | None = None,
    peer_values: Sequence[float] | None = None,
    **details: Any,
) -> None:
    """The last line of a benchmark: the median, the peer's where there is one, the spread in the details."""
    value = statistics.median(values)
    peer_value = statistics.median(peer_values) if peer_values else None
    ratios = [ours / theirs for ours, theirs in zip(values, peer_values or [], strict=False)]
    result = {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "peer": peer,
        "peer_value": None if peer_value is None else round(peer_value, 4),
        "ratio": round(statistics.median(ratios), 3) if ratios else None,
        "machine": machine(),
        "details": {
            "windows": len(values),
            "spread": [round(min(values), 4), round(max(values), 4)],
            **details,
        },
    }
    print(json.dumps(result))


def training_images(folder: Path, count: int, size: int) -> list[bytes]:
    """``count`` images of Tiny-ImageNet as JPEG (4:4:4, quality 95) of ``size`` pixels; repeated if few."""
    import pyarrow.parquet as pq

    from dcgan_core import images

    rows: list[bytes] = []
    for number in (0, 1):
        if len(rows) < count:
            table = pq.read_table(folder / f"tiny-imagenet-32px-{number}.parquet", columns=["image"])
            rows += table.column("image").to_pylist()[: count - len(rows)]
    made = [
        images.encode_jpeg(images.resize(images.decode_rgb(row, max_pixels=2**20), size), 95) for row in rows
    ]
    return [made[number % len(made)] for number in range(count)]
