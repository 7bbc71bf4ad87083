"""Processor time of commands that do no work: what one waits for before anything is seen.

python -m benchmarks.startup [--windows 20]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile

from benchmarks.common import print_result, windows

COMMANDS = {"help": ("--help",), "list": ("list",)}


def main() -> None:
    """Measure and print; the value is that of the slower command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        seconds = {
            name: windows(lambda words=words: processor_seconds(root, *words), options.windows)
            for name, words in COMMANDS.items()
        }
        bare = windows(lambda: seconds_of(root, "-c", "pass"), options.windows)
    slower = max(seconds.values(), key=lambda each: sorted(each)[len(each) // 2])
    spread = {name: [round(min(each), 3), round(max(each), 3)] for name, each in seconds.items()}
    medians = {name: round(sorted(each)[len(each) // 2], 3) for name, each in seconds.items()}
    print_result(
        "startup",
        slower,
        "s of processor time",
        peer="python -c pass",
        peer_values=bare,
        medians=medians,
        spreads=spread,
    )


def processor_seconds(root: str, *words: str) -> float:
    """User and system time of one ``dcgan`` command over an empty root."""
    return seconds_of(root, "-m", "dcgan_core", *words)


def seconds_of(root: str, *arguments: str) -> float:
    """User and system time of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "DCGAN_ROOT": root},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
