"""Being asked to stop: SIGTERM (a machine is taken back) and Ctrl-C become a request to save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from dcgan_core.errors import TrainingStopped


@dataclass
class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    signal_number: int = 0

    def __call__(self) -> bool:
        return self.signal_number != 0


@contextmanager
def stop_requests(*numbers: signal.Signals) -> Iterator[StopRequest]:
    """Note these signals instead of dying of them; a second one does what it would have done without this.

    Outside the main thread signals cannot be handled, so nothing is ever asked. A TrainingStopped that
    leaves the block says which signal it was, so that whoever started this process can be answered; where
    the block had ended before it looked, the signal is sent on after it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {}

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in numbers:
        before[number] = signal.signal(number, note)
    try:
        yield request
    except TrainingStopped as stopped:
        raise TrainingStopped(stopped.step, stopped.steps, request.signal_number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request():
        signal.raise_signal(request.signal_number)
