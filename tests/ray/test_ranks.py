"""Two real processes take the samples of one and, with synchronised batch norm, get its weights."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from dcgan_core.artifacts import Address
from dcgan_core.config import TrainConfig
from dcgan_core.models.specs import net_spec
from dcgan_core.progress import silent
from dcgan_core.storage import Store
from dcgan_core.train.data import in_memory
from dcgan_core.train.engine import Engine
from dcgan_core.train.loop import train
from dcgan_core.train.runtime import LocalRuntime, Runtime
from dcgan_core.train.schedule import Update
from dcgan_core.train.state import Job, Run
from dcgan_core.train.step import Inputs

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
STEPS = 10
SAMPLES = 40


def _trained(runtime: Runtime, folder: Path, *, sync_bn: bool) -> dict[str, Any]:
    """Ten steps of the real loop: what each took in, what was logged, and the nets at the end."""
    taken: list[dict[str, torch.Tensor]] = []
    step = Engine.step

    def noting(self: Engine, which: Update, inputs: Inputs) -> None:
        taken.append({name: value.clone() for name, value in inputs.tensors().items()})
        step(self, which, inputs)

    pixels = np.random.default_rng(0).integers(0, 256, (SAMPLES, 3, 16, 16), dtype=np.uint8)
    config = TrainConfig(
        size=16,
        width=8,
        steps=STEPS,
        batch_size=8,
        log_every=1,
        schedule="both",
        precision="float32",
        sync_bn=sync_bn,
        augment=("color",),
    )
    spec = net_spec("paper64", size=16, width=8)
    job = Job(config, spec, 1, Store(str(folder / "root")), Address("train", "f" * 16), "key", runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", noting)
        run: Run = train(in_memory(pixels, CPU), job)
    nets = (run.pair.generator.net, run.pair.discriminator.net)
    parameters = [{name: value.detach() for name, value in net.named_parameters()} for net in nets]
    running = [dict(net.named_buffers()) for net in nets]
    return {"taken": taken, "log": run.log, "parameters": parameters, "running": running}


def _rank(rank: int, folder: Path, sync_bn: bool) -> None:
    from tasks.training import RayRuntime

    torch.set_num_threads(1)
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", meeting, timedelta(seconds=120), world_size=2, rank=rank)
    runtime = RayRuntime(rank, 2, CPU, silent, lambda: False)
    torch.save(_trained(runtime, folder, sync_bn=sync_bn), folder / f"rank{rank}")
    dist.destroy_process_group()


def _of_two(folder: Path, *, sync_bn: bool) -> list[dict[str, Any]]:
    folder.mkdir()
    spawn(_rank, (folder, sync_bn), nprocs=2)
    return [torch.load(folder / f"rank{rank}", weights_only=True) for rank in range(2)]


def _largest_difference(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> float:
    pairs = zip(one, other, strict=True)
    return max(float((a[name].double() - b[name].double()).abs().max()) for a, b in pairs for name in a)


@pytest.mark.parametrize("sync_bn", [True, False])
def test_two_ranks_take_the_samples_of_one_and_with_synchronised_batch_norm_learn_the_same(
    sync_bn: bool, tmp_path: Path
) -> None:
    whole = _trained(LocalRuntime(CPU), tmp_path / "one", sync_bn=sync_bn)
    first, second = _of_two(tmp_path / "two", sync_bn=sync_bn)
    assert len(whole["taken"]) == STEPS
    for step, inputs in enumerate(whole["taken"]):
        for name, value in inputs.items():
            halves = torch.cat([first["taken"][step][name], second["taken"][step][name]])
            assert torch.equal(halves, value), (step, name)
    names = ("loss_d", "loss_g", "d_real", "d_fake")
    losses, together = ([[line[name] for name in names] for line in each["log"]] for each in (whole, first))
    assert _largest_difference(first["parameters"], second["parameters"]) == 0
    if sync_bn:
        assert np.allclose(losses, together, rtol=1e-5)
        assert _largest_difference(whole["parameters"], first["parameters"]) < 1e-5
        assert _largest_difference(whole["running"], first["running"]) < 1e-5
    else:  # half batches have statistics of their own
        assert not np.allclose(losses, together, rtol=1e-3)
        assert _largest_difference(first["running"], second["running"]) > 1e-3
