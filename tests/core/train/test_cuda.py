"""On a GPU: whole steps replayed as CUDA graphs compute what single kernels do. Skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import load_model
from dcgan_core.storage import Store
from dcgan_core.train.data import DevicePixels, in_memory
from dcgan_core.train.loop import train
from dcgan_core.train.outputs import finish
from dcgan_core.train.runtime import LocalRuntime
from dcgan_core.train.state import Job, Run
from tests.core.train.runs import ADDRESS, CutOff, config
from tests.core.train.test_fast_path import BF16_TOLERANCE, FLOAT32_TOLERANCE, by_tens, plain_losses, smooth

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS = 100


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often graphs were replayed."""
    counted = [0]
    replay = torch.cuda.CUDAGraph.replay

    def counting(graph: torch.cuda.CUDAGraph) -> None:
        counted[0] += 1
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counting)
    return counted


def on_gpu(folder: Path, *, cut_off_at: int = 0, classes: int = 0, **changes: Any) -> tuple[Run, Job]:
    """100 steps of a small net; CutOff where a step is reported."""

    def report(done: float, total: float, note: str) -> None:
        if done == cut_off_at:
            raise CutOff

    settings = {"steps": STEPS, "batch_size": 16, "checkpoint_every": 1000, "sample_every": 1000}
    chosen = config(**{**settings, **changes})
    if classes:
        spec = net_spec(chosen.net, width=8)
    else:
        spec = net_spec(chosen.net, size=16, width=8, spectral_norm=chosen.spectral_norm)
    runtime = LocalRuntime(torch.device("cuda"), report)
    pixels = in_memory(smooth(size=spec.size), runtime.device)
    if classes:
        pixels = DevicePixels(pixels.pixels_NSS3, np.arange(64, dtype=np.int32) % classes)
    job = Job(chosen, spec, 1, Store(str(folder)), ADDRESS, "key", runtime)
    return train(pixels, job), job


def losses(run: Run) -> tuple[list[float], list[float]]:
    """Of D and of G, at each step since their first update."""
    return (
        [line["loss_d"] for line in run.log if "loss_d" in line],
        [line["loss_g"] for line in run.log if "loss_g" in line],
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "both"},
        {"schedule": "alternate"},
        {"schedule": "both", "d_steps": 2},
        {"schedule": "both", "augment": ("color", "translation", "cutout")},
        {"schedule": "both", "spectral_norm": True},
        {"schedule": "both", "precision": "bf16"},
        {"net": "mnist28", "size": None, "schedule": "both", "classes": 10},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_graphs_compute_what_single_kernels_do(
    changes: dict[str, Any], tmp_path: Path, replays: list[int]
) -> None:
    plain = losses(on_gpu(tmp_path / "plain", cuda_graphs=False, **changes)[0])
    assert replays == [0]
    replayed = losses(on_gpu(tmp_path / "graphs", cuda_graphs=True, **changes)[0])
    assert replays[0] >= STEPS - 10
    tolerance = BF16_TOLERANCE if changes.get("precision") == "bf16" else FLOAT32_TOLERANCE
    for one, other in zip(replayed, plain, strict=True):
        assert one[:5] == pytest.approx(other[:5], rel=tolerance)
        assert by_tens(one) == pytest.approx(by_tens(other), rel=tolerance)


def test_graphs_compute_what_a_plain_loop_on_the_processor_does(tmp_path: Path, replays: list[int]) -> None:
    run, _ = on_gpu(tmp_path, net="torch64", schedule="both")
    assert replays[0] >= STEPS - 10
    plain = plain_losses(net_spec("torch64", size=16, width=8), "both")
    for one, other in zip(losses(run), plain, strict=True):
        assert by_tens(one)[:5] == pytest.approx(by_tens(other)[:5], rel=FLOAT32_TOLERANCE)


def test_a_run_that_was_cut_off_goes_on_with_graphs(tmp_path: Path, replays: list[int]) -> None:
    straight, _ = on_gpu(tmp_path / "straight", schedule="alternate", checkpoint_every=20)
    with pytest.raises(CutOff):
        on_gpu(tmp_path / "cut", cut_off_at=50, schedule="alternate", checkpoint_every=20)
    before = replays[0]
    resumed, _ = on_gpu(tmp_path / "cut", schedule="alternate", checkpoint_every=20)
    assert replays[0] - before == STEPS - 40 - 6  # three plain steps of each kind come first
    for one, other in zip(losses(resumed), losses(straight), strict=True):
        assert by_tens(one) == pytest.approx(by_tens(other), rel=FLOAT32_TOLERANCE)


def test_a_lower_rate_after_a_rollback_reaches_the_graphs(tmp_path: Path, replays: list[int]) -> None:
    chosen = {"learning_rate": 1.0, "grace": 0, "check_every": 5, "max_rollbacks": 50}
    run, _ = on_gpu(tmp_path, **chosen)
    assert run.rollbacks
    assert replays[0]
    assert run.pair.generator.optimiser.param_groups[0]["lr"].item() == pytest.approx(
        run.rate(config(**chosen))
    )


def test_compiled_nets_compute_the_same(tmp_path: Path, replays: list[int]) -> None:
    plain = losses(on_gpu(tmp_path / "plain", schedule="both")[0])
    compiled = losses(on_gpu(tmp_path / "compiled", schedule="both", compile=True)[0])
    for one, other in zip(compiled, plain, strict=True):
        assert by_tens(one) == pytest.approx(by_tens(other), rel=FLOAT32_TOLERANCE)


def test_a_model_that_a_gpu_trained_is_read_on_a_processor(tmp_path: Path) -> None:
    run, job = on_gpu(tmp_path, schedule="both", score_every=50)
    finish(run, job, {})
    model = load_model(tmp_path / ADDRESS.part_path(""))
    assert model.generator.spec == job.spec
    assert next(model.generator.parameters()).device.type == "cpu"
