"""Updates as they are computed: one by one, or on a GPU as CUDA graphs that replay whole steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dcgan_core.train.runtime import Runtime
from dcgan_core.train.schedule import Update
from dcgan_core.train.step import Inputs, Pair, Recipe, Seen, update

_EAGER = 3
"""Updates of a kind that are computed plainly before it is captured, as PyTorch's CUDA graphs want it."""


@dataclass
class Engine:
    """Makes updates. A new one is needed when the state of the optimisers is replaced."""

    pair: Pair
    recipe: Recipe
    runtime: Runtime
    seen: Seen
    graphs: bool = False
    """Capture whole steps (small nets are bound by the launches of their kernels). Only on CUDA."""
    _made: dict[Update, int] = field(default_factory=dict)
    _captured: dict[Update, tuple[torch.cuda.CUDAGraph, Inputs]] = field(default_factory=dict)

    def step(self, which: Update, inputs: Inputs) -> None:
        """Update what ``which`` names; ``inputs`` may be reused as soon as this returns."""
        if not self.graphs:
            self._update(which, inputs)
            return
        if which not in self._captured:
            made = self._made[which] = self._made.get(which, 0) + 1
            if made <= _EAGER:
                self._update_aside(which, inputs)
                return
            self._captured[which] = self._capture(which, inputs)
        graph, static = self._captured[which]
        for name, value in inputs.tensors().items():
            getattr(static, name).copy_(value, non_blocking=True)
        graph.replay()

    def _update(self, which: Update, inputs: Inputs) -> None:
        update(self.pair, inputs, which, self.recipe, self.runtime, self.seen)

    def _update_aside(self, which: Update, inputs: Inputs) -> None:
        """On a stream of its own, where what libraries allocate at first use is allocated before capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._update(which, inputs)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self, which: Update, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, Inputs]:
        static = Inputs(**{name: value.clone() for name, value in inputs.tensors().items()})
        for player in (self.pair.generator, self.pair.discriminator):
            player.optimiser.zero_grad(set_to_none=True)  # gradients shall lie in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # Threads that make batches or write checkpoints may go on meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._update(which, static)
        return graph, static
