"""How a training worker on Ray learns that it is to save and end: from the driver, its node, or a signal."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)
from ray.train.v2._internal.execution.callback import ControllerCallback

from dcgan_core.errors import ClusterError
from dcgan_core.train.stopping import StopRequest

_ASK_SECONDS = 1.0
_told = StopRequest()
"""Whether this worker's process was sent SIGTERM."""


@dataclass
class StoppableTorch(TorchConfig):
    """Ray's set-up of torch.distributed, and a handler of SIGTERM in the main thread of each worker.

    Ray Train runs training in another thread, where none can be installed.
    """

    on_this_machine: bool = False
    """All ranks are here, and meet by a file: the store by which they meet otherwise (torch's TCPStore)
    listens on all interfaces and asks nobody who they are."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _StoppableBackend


class _StoppableBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if not (isinstance(backend_config, StoppableTorch) and backend_config.on_this_machine):
            super().on_start(worker_group, backend_config)
            return
        worker_group.execute(_set_torch_distributed_env_vars)
        path, ranks = Path(tempfile.mkdtemp(prefix="dcgan-ranks-")) / "store", range(len(worker_group))
        joining = [
            worker_group.execute_single_async(
                rank,
                _join_ranks,
                path=path,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(ranks),
                timeout_s=backend_config.timeout_s,
            )
            for rank in ranks
        ]
        ray.get(joining)
        shutil.rmtree(path.parent, ignore_errors=True)  # all have met

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(note_sigterm)


def _join_ranks(path: Path, **about: Any) -> None:
    _setup_torch_process_group(init_method=f"file://{path}", **about)


def note_sigterm() -> None:
    """Note the first SIGTERM; a second one ends the process as Ray would have it."""
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, _frame: FrameType | None) -> None:
        _told.signal_number = number
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)


@dataclass
class Controlled(ControllerCallback):
    """Lets the driver end a Ray Train run at any time: the board learns which actor controls it."""

    board: Any

    def after_controller_start(self, train_run_context: object) -> None:
        if not ray.get(self.board.controlled_by.remote(ray.get_runtime_context().current_actor)):
            raise ClusterError("the training was told to end before it started")


@dataclass
class AskedToStop:
    """Whether a worker is to save and end. The board is asked once a second at most, and not waited for.

    Where there are several workers all must ask equally often: Ray tells them of a node that is being
    drained all at once.
    """

    board: Any
    world_size: int
    began: bool = False
    """Whether it was ever asked: training has come to its loop."""
    _driver: bool = False
    _answer: Any = field(default=None, repr=False)
    _next: float = 0.0

    def __call__(self) -> bool:
        self.began = True
        due = time.monotonic() >= self._next
        if due:
            self._next = time.monotonic() + _ASK_SECONDS
        drained = (due or self.world_size > 1) and _node_is_drained()
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._driver, self._answer = ray.get(self._answer), None
        if due and self._answer is None:
            self._answer = self.board.stopping.remote()
        return drained or _told() or self._driver


def _node_is_drained() -> bool:
    """Whether Ray knows that a node of this run is about to be taken (newer versions do)."""
    info = getattr(ray.train, "get_preemption_info", None)
    return info is not None and info() is not None
