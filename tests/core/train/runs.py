"""Small training runs for tests: 16 px, 8 filters, 8 steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcgan_core.artifacts import Address
from dcgan_core.config import TrainConfig
from dcgan_core.models.specs import net_spec
from dcgan_core.storage import Store
from dcgan_core.train.data import Pixels, in_memory
from dcgan_core.train.loop import train
from dcgan_core.train.outputs import finish
from dcgan_core.train.runtime import LocalRuntime
from dcgan_core.train.state import Job, Run

SPEC = net_spec("paper64", size=16, width=8)
CPU = LocalRuntime(torch.device("cpu"))
ADDRESS = Address("train", "f" * 16)
STEPS = 8


class CutOff(Exception):
    """The process ends here."""


def pixels(count: int = 20, seed: int = 0) -> NDArray[np.uint8]:
    """Noise (count, 3, 16, 16)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)


def config(**changes: Any) -> TrainConfig:
    settings = {
        "size": 16,
        "width": 8,
        "steps": STEPS,
        "batch_size": 8,
        "checkpoint_every": 2,
        "sample_every": 4,
        "score_every": 100,
        "log_every": 1,
        "precision": "float32",
    }
    return TrainConfig(**{**settings, **changes})


def cut_off_after(step: int) -> LocalRuntime:
    """A runtime in which everything ends while a step is reported."""

    def report(done: float, total: float, note: str) -> None:
        if done == step:
            raise CutOff

    return LocalRuntime(torch.device("cpu"), report)


def trained(
    store: Store,
    chosen: TrainConfig,
    data: NDArray[np.uint8] | Pixels | None = None,
    runtime: LocalRuntime = CPU,
    key: str = "key",
    address: Address = ADDRESS,
) -> tuple[Run, dict[str, str]]:
    """A finished run and the hashes of its files."""
    data = pixels() if data is None else data
    job = Job(chosen, SPEC, 1, store, address, key, runtime)
    ended = train(in_memory(data, runtime.device) if isinstance(data, np.ndarray) else data, job)
    files = finish(ended, job, {})
    return ended, {file.name: file.sha256 for file in files}
