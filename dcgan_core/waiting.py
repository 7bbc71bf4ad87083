"""Waiting for GPUs and processors that were asked for and may come later: with a word, and not for ever."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from dcgan_core.errors import NotEnoughResources
from dcgan_core.place import load_place
from dcgan_core.progress import Progress, in_words, silent

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 1.0


@dataclass
class Waiting:
    """A wait for something that is not there."""

    wanted: str
    """Who asks for what, and by which variable: ``training asks for a GPU (DCGAN_GPUS=1)``."""
    advice: str
    """What else can be done: ``set DCGAN_GPUS=0 to use processors``."""
    seconds: float
    """How long it may take."""
    _since: float | None = field(default=None, init=False)

    def go_on(self, there: str, progress: Progress) -> None:
        """Say that it is still not there; NotEnoughResources once that has taken ``seconds``."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            _LOG.warning("%s and %s; waiting for up to %s", self.wanted, there, in_words(self.seconds))
        left = self._since + self.seconds - now
        if left <= 0:
            raise NotEnoughResources(self.wanted, there, self.seconds, self.advice)
        progress(0.0, 1.0, f"{self.wanted} and {there}; waiting, {in_words(left)} left")

    def over(self) -> None:
        """It is there: another wait begins from scratch."""
        self._since = None


def gpu_wait(who: str, seconds: float) -> Waiting:
    """A wait for one GPU."""
    return Waiting(f"{who} asks for a GPU (DCGAN_GPUS=1)", "set DCGAN_GPUS=0 to use processors", seconds)


def take_gpu(gpus: int, who: str, progress: Progress = silent) -> bool:
    """Whether to compute on a GPU of this machine: with 0 never, with -1 if there is one, else always.

    A GPU that is asked for is waited for; NotEnoughResources if it does not come.
    """
    import torch

    if gpus == 0:
        return False
    waiting = gpu_wait(who, load_place().gpu_wait_seconds)
    while not torch.cuda.is_available():
        if gpus < 0:
            return False
        waiting.go_on("torch finds none here", progress)
        time.sleep(min(_POLL_SECONDS, waiting.seconds))
    return True
