"""Where the training loop runs: rank, device, and the exchange of gradients. Here on this machine, alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from dcgan_core.progress import Progress, silent


class Runtime(Protocol):
    """What the loop asks of its surroundings; all ranks call everything equally often."""

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


@dataclass(frozen=True)
class LocalRuntime:
    """One process."""

    device: torch.device
    progress: Progress = field(default=silent)
    rank: int = 0
    world_size: int = 1

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        return

    def report(self, step: int, steps: int, metrics: Mapping[str, float], note: str) -> None:
        self.progress(step, steps, note)

    def barrier(self) -> None:
        return

    def least(self, number: int) -> int:
        return number


def local_device(gpus: int = -1) -> torch.device:
    """The GPU where there is one and it is wanted, else the processor."""
    return torch.device("cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")


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
