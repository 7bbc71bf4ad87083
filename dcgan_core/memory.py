"""How much memory may still be used here, by the machine and by the container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil

_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def free_memory() -> int:
    """Bytes free for this process: the machine's, or what the control group leaves where that is less."""
    free = psutil.virtual_memory().available
    try:
        return max(0, min(free, int(_LIMIT.read_text()) - int(_USED.read_text())))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return free
