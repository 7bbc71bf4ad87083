"""A function over items in a child process that may crash or hang on one; not what the function is."""

from __future__ import annotations

import atexit
import copy
import importlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal, TypeVar

from dcgan_core.errors import ClusterError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Died:
    """Instead of a result: the child ended on this item, or was ended because it took too long."""

    how: Literal["crashed", "timeout"]
    why: str


def guarded(
    make: str, argument: Any, items: Iterable[Item], *, seconds: float
) -> Generator[tuple[Item, Any | Died], None, None]:
    """Each item with its result, in order, or with the way it ended the child; the others are unaffected.

    ``make`` is `package.module:function`; in the child, ``function(argument)`` is called once and gives the
    function that is called on each item. Items and results are what crosses process borders, ``argument`` is
    hashable too. What ``make`` or the function raises is raised here. A child is kept for the next call with
    the same ``make``, ``argument`` and ``seconds``, and is used by one call at a time.

    An item that ends the child by itself is tried once more, in a new child: the system may have ended the
    first for want of memory. One that takes longer than ``seconds`` is not. Raises ClusterError where a child
    ends before its first item.
    """
    key = (make, argument, seconds)
    source, end = iter(items), object()
    flying: deque[Any] = deque()
    child: _Child | None = None
    deaths = 0  # of the first item in flight
    try:
        while True:
            while len(flying) < _IN_FLIGHT and (item := next(source, end)) is not end:
                flying.append(item)
                if child is not None:
                    child.give(item)
            if not flying:
                return
            if child is None:
                child = _children.take(key)
                for item in flying:
                    child.give(item)
            outcome = child.answer()
            if isinstance(outcome, Died):
                child.end()
                child, deaths = None, deaths + 1
                if outcome.how == "crashed" and deaths < _TRIES:
                    continue
            deaths = 0
            yield flying.popleft(), outcome
    finally:
        if child is not None:
            if flying:  # stopped half-way: its answers would be taken for those of the next call
                child.end()
            else:
                _children.keep(child)


def end_children() -> None:
    """End the children that wait for their next call; those in use are ended by their calls."""
    _children.end_idle()


def serve(descriptor: int) -> None:
    """The child's whole life: set up, then one item after another until its parent is gone."""
    with suppress(OSError):  # where memory runs out, this process goes and not the worker
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")
    pipe = Connection(descriptor)
    make, argument, seconds = pipe.recv()
    work: Callable[[Any], Any] | None = None
    try:
        module, _, function = make.partition(":")
        work = getattr(importlib.import_module(module), function)(argument)
        reply = (True, None)
    except Exception as error:  # whatever it is, it is the parent's to raise
        reply = (False, _portable(error))
    try:
        pipe.send(reply)
        while work is not None:
            item = pipe.recv()
            # Its default action ends the process wherever it is, in a C library that holds the GIL too, and
            # also when the parent is gone.
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                reply = (True, work(item))
            except Exception as error:
                reply = (False, _portable(error))
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(reply)
    except (EOFError, OSError):  # the parent is gone, or has closed the pipe
        pass


_IN_FLIGHT = 3
"""Items given to a child: one in work, the others waiting, so that it never waits for the parent."""
_TRIES = 2
_MOST_IDLE = 2
"""Children kept for later calls. Each holds some 100 MB."""
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dcgan_core.guarded import serve; serve(int(sys.argv[2]))"
)

_Key = tuple[str, Hashable, float]


class _Child:
    """One child process and the way to and from it. Used by one thread at a time."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self._seconds = key[2]
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs.fileno())
        self._pipe = Connection(self._socket.fileno())
        self._sender = threading.Thread(target=_send_all, args=(self._pipe, self._outbox), daemon=True)
        self._sender.start()
        _children.living.add(self)
        try:
            self.give(key)
            ready = self._receive()
        except BaseException:  # its own error, or Ctrl-C
            self.end()
            raise
        if isinstance(ready, Died):
            self.end()
            raise ClusterError(
                f"the process for {key[0]} did not start: {ready.why}, perhaps for want of memory; "
                "run it again with fewer slots (DCGAN_SLOTS)"
            )

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def give(self, item: Any) -> None:
        """Send an item. Never waits: a child that hangs reads nothing."""
        self._outbox.put(ForkingPickler.dumps(item))

    def answer(self) -> Any | Died:
        """The result of the oldest item without one; what the function raised is raised."""
        # The child measures its time itself. Longer than this is one that was stopped or shut out the signal.
        if not self._pipe.poll(2 * self._seconds + 1):
            self._process.kill()
            return Died("timeout", f"not done after {self._seconds:g} s")
        return self._receive()

    def end(self) -> None:
        """End the process, whatever it does, and close what belongs to it."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # frees a sender that waits
        self._outbox.put(None)
        self._sender.join()
        self.close()

    def close(self) -> None:
        """Close this process's side."""
        _children.living.discard(self)
        self._socket.detach()
        self._pipe.close()

    def disown(self) -> None:
        """After a fork: the child belongs to the process that forked."""
        self._process.returncode = 0  # so that nobody here waits for it
        self.close()

    def _receive(self) -> Any | Died:
        try:
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            return self._death()
        if not good:
            raise value
        return value

    def _death(self) -> Died:
        self._process.kill()  # it has closed the pipe but may not have ended
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return Died("timeout", f"not done after {self._seconds:g} s")
        names = {-number: number.name for number in signal.Signals}
        return Died("crashed", f"its process ended with {names.get(code, f'exit status {code}')}")


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    # Not multiprocessing: its children import the main module again, in a Ray worker Ray's own.
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(descriptor)]
    # Ctrl-C reaches the whole group. The child is born deaf to it: it ends when its parent does.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[descriptor]
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send_all(pipe: Connection, outbox: queue.SimpleQueue[Any]) -> None:
    with suppress(OSError):  # the child has died; the one who reads finds out why
        while (message := outbox.get()) is not None:
            pipe.send_bytes(message)


def _portable(error: Exception) -> Exception:
    """The error as it can be sent, with its traceback as a note."""
    text = "in the guarded process:\n" + "".join(traceback.format_exception(error))
    error.add_note(text)
    try:
        copy.copy(error)
        ForkingPickler.dumps(error)
    except Exception:  # an error that does not cross process borders
        return RuntimeError(text)
    return error


class _Children:
    """Which children there are, and which of them wait for their next call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[_Key, _Child] = {}
        self.living: set[_Child] = set()

    def take(self, key: _Key) -> _Child:
        """One that is set up and that nobody else uses."""
        with self._lock:
            child = self._idle.pop(key, None)
        if child is not None and child.lives:
            return child
        if child is not None:
            child.end()
        return _Child(key)

    def keep(self, child: _Child) -> None:
        """Let a child wait for its next call, and end those that are too many."""
        with self._lock:
            surplus = [self._idle.pop(child.key)] if child.key in self._idle else []
            self._idle[child.key] = child
            while len(self._idle) > _MOST_IDLE:
                surplus.append(self._idle.pop(next(iter(self._idle))))
        for other in surplus:
            other.end()

    def end_idle(self) -> None:
        """End those that wait."""
        with self._lock:
            waiting = list(self._idle.values())
            self._idle.clear()
        for child in waiting:
            child.end()

    def forget(self) -> None:
        """In a forked process: close what it has inherited, or the children would outlive their parent."""
        self._lock = threading.Lock()
        self._idle.clear()
        for child in list(self.living):
            child.disown()


_children = _Children()
atexit.register(end_children)
os.register_at_fork(after_in_child=_children.forget)
