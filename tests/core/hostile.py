"""What runs in guarded children in tests: functions that work, crash, hang or fail as they are told."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcgan_core.errors import ConfigError


def obey(prefix: str) -> Callable[[Any], Any]:
    """Do what an item says; any other item comes back with the prefix."""
    return lambda item: do(item, prefix)


def refuse(why: str) -> Callable[[Any], Any]:
    """Fail in the set-up, as a detector does whose weights are none."""
    raise ConfigError(why)


def vanish(_: None) -> Callable[[Any], Any]:
    """End in the set-up."""
    os._exit(3)


class Unsendable(Exception):
    """An error that cannot be built again from its arguments."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def do(item: Any, prefix: str) -> Any:
    """Do what an item says."""
    match item:
        case "exit":
            os._exit(5)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case "hang deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            threading.Event().wait()
        case "fail":
            raise ValueError("asked to")
        case "fail oddly":
            raise Unsendable("asked", "to")
        case "pid":
            return os.getpid()
        case ("die once", str(path)):
            if not Path(path).exists():
                Path(path).touch()
                os._exit(6)
    return f"{prefix}{item}" if isinstance(item, str) else item
