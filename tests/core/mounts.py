"""File systems that are full or cannot be written, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(kind: str, folder: Path, options: str, source: str = "none") -> Iterator[Path]:
    """A file system of its own for the block; the test is skipped where mounting is not allowed."""
    folder.mkdir()
    mount = shutil.which("mount")
    if os.name != "posix" or mount is None:
        pytest.skip("this system cannot mount a small file system")
    made = subprocess.run(
        [mount, "-t", kind, "-o", options, source, str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
