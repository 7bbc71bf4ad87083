"""What `make demo` takes after set-up: wall time, and the peak memory of all its processes together.

    python -m benchmarks.demo [--windows 1]

Memory is the sum of the proportional set sizes (shared pages counted once) of the process and all below it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import psutil

from benchmarks.common import print_result

_SAMPLE_SECONDS = 0.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=1)
    options = parser.parse_args()
    measured = [_once() for _ in range(options.windows)]
    peaks = [round(peak / 2**30, 2) for _, peak in measured]
    print_result("demo", [seconds for seconds, _ in measured], "s", peak_memory_gib=peaks)


def _once() -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        environment = {**os.environ, "DCGAN_ROOT": root, "PREFECT_HOME": root}
        with subprocess.Popen(
            [sys.executable, "-m", "flows.demo"], env=environment, stdout=sys.stderr
        ) as demo:
            peak = 0
            while demo.poll() is None:
                peak = max(peak, _memory(demo.pid))
                time.sleep(_SAMPLE_SECONDS)
        if demo.returncode:
            raise SystemExit(f"the demo ended with code {demo.returncode}")
        return time.perf_counter() - began, peak


def _memory(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return total  # one of them has just ended
    return total


if __name__ == "__main__":
    main()
