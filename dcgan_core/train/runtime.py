"""Where the training loop runs: rank, device, and what ranks tell each other. Here on this machine, alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from dcgan_core.progress import Progress, silent
from dcgan_core.waiting import take_gpu


class Runtime(Protocol):
    """What the loop asks of its surroundings; all ranks call everything but ``stopping`` equally often."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over all ranks."""
        ...

    def report(self, step: int, steps: int, metrics: Mapping[str, float], note: str) -> None:
        """Tell how far training is."""
        ...

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        ...

    def least(self, number: int) -> int:
        """The smallest of the numbers that the ranks give: how they agree on what each has measured."""
        ...

    def mean(self, values: Sequence[float]) -> list[float]:
        """Each number's mean over all ranks."""
        ...

    def from_first(self, values: Sequence[float]) -> list[float]:
        """The numbers that rank 0 gives; all ranks give equally many."""
        ...

    def stopping(self) -> bool:
        """Whether this process was asked to save and end (SIGTERM: a machine is taken back)."""
        ...


def _never() -> bool:
    return False


@dataclass(frozen=True)
class LocalRuntime:
    """One process."""

    device: torch.device
    progress: Progress = field(default=silent)
    rank: int = 0
    world_size: int = 1
    asked_to_stop: Callable[[], bool] = _never

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        return

    def report(self, step: int, steps: int, metrics: Mapping[str, float], note: str) -> None:
        self.progress(step, steps, note)

    def barrier(self) -> None:
        return

    def least(self, number: int) -> int:
        return number

    def mean(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def from_first(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def stopping(self) -> bool:
        return self.asked_to_stop()


def local_device(gpus: int = -1, progress: Progress = silent) -> torch.device:
    """A GPU if there is one and it is wanted, else the processor. Waits and raises as ``take_gpu``."""
    return torch.device("cuda" if take_gpu(gpus, "training", progress) else "cpu")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """bfloat16 where asked for or, with ``auto``, where the processor computes it natively; else float32."""
    if precision == "float32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.11
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32
