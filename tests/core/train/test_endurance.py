"""What goes wrong in the middle of a run: it is noticed in time, answered, and costs as little as it can."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcgan_core.artifacts import Address
from dcgan_core.config import TrainConfig
from dcgan_core.errors import (
    NoUsableData,
    ResumeRefused,
    StorageError,
    StorageUnusable,
    TrainingDiverged,
    TrainingStopped,
)
from dcgan_core.shard.order import Indices
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from dcgan_core.train.data import SomePixels, in_memory
from dcgan_core.train.extend import anew, passed_over, take_over
from dcgan_core.train.loop import train
from dcgan_core.train.outputs import finish
from dcgan_core.train.runtime import LocalRuntime
from dcgan_core.train.state import Job
from dcgan_core.train.writer import MOST_POSTPONED, Writer
from tests.conftest import ObjectStore
from tests.core.mounts import mounted
from tests.core.train.runs import ADDRESS, CPU, SPEC, CutOff, config, cut_off_after, pixels, trained
from tests.web.faulty_proxy import FaultyProxy

OTHER = Address("train", "e" * 16)


def saved_steps(store: Store, address: Address = ADDRESS) -> list[int]:
    return [each.step for each in checkpoint.saved(store, address)]


@dataclass
class WithNaN:
    """A set that gives one batch full of NaN when it has given ``after`` good ones, ``times`` times."""

    after: int
    times: int = 1
    given: int = 0
    in_background: bool = False

    def __len__(self) -> int:
        return 20

    def batch(self, numbers_N: Indices) -> Tensor:
        if len(numbers_N) != 8:  # a look before training
            return in_memory(pixels(), CPU.device).batch(numbers_N)
        self.given += 1
        batch = in_memory(pixels(), CPU.device).batch(numbers_N)
        if self.given > self.after and self.times:
            self.times -= 1
            return torch.full(batch.shape, float("nan"))
        return batch

    def labels(self, numbers_N: Indices) -> Tensor:
        return torch.full((len(numbers_N),), -1)


def test_a_nan_image_costs_the_steps_since_the_last_healthy_checkpoint(store: Store) -> None:
    chosen = config(schedule="both", steps=12, check_every=1)
    ended, files = trained(store, chosen, WithNaN(after=7))
    (note,) = ended.rollbacks
    assert (note["step"], note["to_step"], note["sign"]) == (8, 6, "not finite")
    assert ended.step == 12
    assert ended.rate(chosen) == pytest.approx(1e-4)
    assert all(np.isfinite(list(line.values())).all() for line in ended.log)
    assert [line["step"] for line in ended.log] == list(range(1, 13))
    assert "generator.safetensors" in files


def test_what_is_not_finite_is_never_saved_also_between_checks(store: Store) -> None:
    chosen = config(schedule="both", steps=12, check_every=100)
    ended, _ = trained(store, chosen, WithNaN(after=6))
    assert [note["step"] for note in ended.rollbacks] == [8]  # the checkpoint that was due
    for each in checkpoint.saved(store, ADDRESS):
        tensors = checkpoint.load(store, ADDRESS, each)
        assert tensors
        assert all(torch.isfinite(value).all() for group in tensors.values() for value in group.values())


def test_trouble_that_comes_back_ends_the_run_with_its_curve_and_keeps_the_healthy_state(
    store: Store,
) -> None:
    chosen = config(schedule="both", steps=12, check_every=1, max_rollbacks=2)
    with pytest.raises(TrainingDiverged) as caught:
        trained(store, chosen, WithNaN(after=7, times=1000))
    error = caught.value
    assert error.rollbacks == 2
    assert len(error.curve) > 3
    assert np.isnan(error.curve[-1])
    assert np.isfinite(error.curve[:-1]).all()
    assert "also after going back 2 times" in str(error)
    assert saved_steps(store)  # earlier each time: the newest may hold the cause
    lines = store.read_bytes(ADDRESS.part_path("metrics.jsonl")).splitlines()
    assert json.loads(lines[-1])["step"] >= 4


def test_each_rollback_from_the_same_place_goes_further_back(store: Store) -> None:
    """As if weights had gone wrong without a sign before the newest checkpoint."""
    chosen = config(schedule="both", steps=12, check_every=1, keep_checkpoints=10, max_rollbacks=3)
    with pytest.raises(TrainingDiverged):
        trained(store, chosen, WithNaN(after=7, times=1000))
    # went back from 8 to 6, from 7 to 4, from 5 to 2, and then gave up
    assert saved_steps(store) == [2]


def test_another_seed_changes_the_noise_and_not_the_rate(tmp_path: Path) -> None:
    chosen = config(schedule="both", steps=12, check_every=1, on_trouble="new_seed")
    ended, with_new = trained(Store(str(tmp_path / "new")), chosen, WithNaN(after=7))
    assert ended.noise_attempt == 1
    assert ended.rate(chosen) == 2e-4
    straight, without = trained(Store(str(tmp_path / "straight")), chosen)
    assert straight.rollbacks == []
    assert with_new["generator.safetensors"] != without["generator.safetensors"]
    assert [a["loss_d"] for a in ended.log][:6] == [a["loss_d"] for a in straight.log][:6]


def test_the_policy_stop_stops_at_the_first_sign(store: Store) -> None:
    with pytest.raises(TrainingDiverged, match=r"step 8: loss_d is nan"):
        trained(store, config(schedule="both", check_every=1, on_trouble="stop"), WithNaN(after=7))
    assert saved_steps(store)[-1] == 6


def test_a_run_that_was_killed_after_a_rollback_ends_as_one_that_was_not(tmp_path: Path) -> None:
    chosen = config(schedule="both", steps=12, check_every=1)
    straight, expected = trained(Store(str(tmp_path / "straight")), chosen, WithNaN(after=7))
    broken = Store(str(tmp_path / "broken"))

    @dataclass
    class Once:
        seen: list[int] = field(default_factory=list)

        def __call__(self, done: float, total: float, note: str) -> None:
            self.seen.append(int(done))
            if self.seen.count(11) == 1 and done == 11:
                raise CutOff

    with pytest.raises(CutOff):
        trained(broken, chosen, WithNaN(after=7), LocalRuntime(CPU.device, Once()))
    resumed, files = trained(broken, chosen)
    assert resumed.rollbacks == straight.rollbacks
    assert files["generator.safetensors"] == expected["generator.safetensors"]


def test_a_rate_of_one_is_noticed_and_given_up(store: Store) -> None:
    chosen = config(learning_rate=1.0, schedule="both", steps=2000, check_every=10, grace=20, log_every=50)
    with pytest.raises(TrainingDiverged) as caught:
        trained(store, chosen)
    assert caught.value.rollbacks == chosen.max_rollbacks
    assert caught.value.step <= 20 + 3 * 10 + 100


def test_images_that_are_all_alike_are_refused_before_the_first_step(store: Store) -> None:
    steps: list[float] = []
    runtime = LocalRuntime(CPU.device, lambda done, total, note: steps.append(done))
    with pytest.raises(NoUsableData, match=r"train has nothing left .* All images looked at are equal"):
        trained(store, config(), np.full((20, 3, 16, 16), 7, np.uint8), runtime)
    assert steps == []


def test_a_disk_that_is_full_at_a_checkpoint_ends_the_run_and_costs_nothing_else(tmp_path: Path) -> None:
    straight = trained(Store(str(tmp_path / "straight")), config(keep_checkpoints=1))[1]
    with mounted("tmpfs", tmp_path / "small", "size=4m") as folder:
        store, filler = Store(str(folder)), folder / "filler"

        def report(done: float, total: float, note: str) -> None:
            if done == 5:
                with suppress(OSError):  # the last checkpoint may be on its way, then there is less room
                    filler.write_bytes(_rest(folder))

        runtime = LocalRuntime(CPU.device, report)
        with pytest.raises(StorageUnusable, match=r"the disk is full\. Free space"):
            trained(store, config(keep_checkpoints=1), runtime=runtime)
        assert saved_steps(store) in ([2], [4])  # the last one was being written
        filler.unlink()
        ended, files = trained(store, config(keep_checkpoints=1))
    assert files == straight
    assert ended.step == 8


def _rest(folder: Path) -> bytes:
    """As many bytes as a file system has room for, but for a few pages."""
    return bytes(shutil.disk_usage(folder).free - 3 * 4096)


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultyProxy]:
    with FaultyProxy(object_store.port) as proxy:
        yield proxy


@pytest.fixture
def remote(object_store: ObjectStore, proxy: FaultyProxy) -> Store:
    """A root on a real object store, behind a proxy that can refuse to write, by an impatient client."""
    return object_store.store("tests", f"{uuid.uuid4().hex}/root", proxy.endpoint, tries=2)


def refusing(proxy: FaultyProxy, times: int, at: int) -> LocalRuntime:
    """While step ``at`` is reported, the store begins to refuse what is written, ``times`` times."""

    def report(done: float, total: float, note: str) -> None:
        if done == at:
            proxy.inject(*["500"] * times, where=lambda request: request.method == "PUT")

    return LocalRuntime(CPU.device, report)


def test_a_store_that_is_away_for_a_while_postpones_a_checkpoint(
    tmp_path: Path, remote: Store, proxy: FaultyProxy
) -> None:
    straight = trained(Store(str(tmp_path / "straight")), config())[1]
    ended, files = trained(remote, config(sample_every=100), runtime=refusing(proxy, times=2, at=3))
    assert proxy.injected["500"] == 2
    assert ended.step == 8
    assert files["generator.safetensors"] == straight["generator.safetensors"]
    assert saved_steps(remote) in ([6, 8], [4, 6, 8])  # 4: the best


def test_a_store_that_stays_away_ends_the_run_where_it_can_go_on(
    tmp_path: Path, remote: Store, proxy: FaultyProxy
) -> None:
    straight = trained(Store(str(tmp_path / "straight")), config())[1]
    with pytest.raises(StorageError, match="put_object failed 2 times"):
        trained(remote, config(sample_every=100), runtime=refusing(proxy, times=10_000, at=5))
    proxy.inject()
    assert saved_steps(remote) in ([2], [2, 4])  # the last one was being written
    assert trained(remote, config())[1]["generator.safetensors"] == straight["generator.safetensors"]


def test_a_writer_forgives_twice_in_a_row_and_nothing_else() -> None:
    def away() -> None:
        raise StorageError("away")

    writer = Writer()
    for _ in range(MOST_POSTPONED - 1):
        writer.submit(away)
        writer.settle()
    assert writer.postponed == MOST_POSTPONED - 1
    writer.submit(lambda: None)
    writer.settle()
    assert writer.postponed == 0
    writer.submit(away)
    with pytest.raises(StorageError, match="away"):
        writer.settle(final=True)
    writer.submit(lambda: (_ for _ in ()).throw(StorageUnusable("/x", "full", "")))
    with pytest.raises(StorageUnusable):
        writer.settle()
    writer.close()


def test_other_hyper_parameters_refuse_to_go_on_and_are_shown(store: Store) -> None:
    with pytest.raises(CutOff):
        trained(store, config(), runtime=cut_off_after(5))
    with pytest.raises(ResumeRefused, match=r"learning_rate: 0.0002 -> 0.001; schedule: alternate -> both"):
        trained(store, config(learning_rate=1e-3, schedule="both"))
    assert saved_steps(store) == [2, 4]
    assert trained(store, config(log_every=2))[0].step == 8  # how often it is logged is no hyper-parameter


def test_a_run_that_is_asked_to_stop_saves_that_step_and_goes_on_from_it(tmp_path: Path) -> None:
    straight = trained(Store(str(tmp_path / "straight")), config())[1]
    store, done = Store(str(tmp_path / "stopped")), []
    runtime = LocalRuntime(
        CPU.device, lambda step, total, note: done.append(step), asked_to_stop=lambda: len(done) == 4
    )
    # the request comes while step 4 is reported, and is seen at the next
    with pytest.raises(TrainingStopped, match="saved step 5 of 8; run the same command again"):
        trained(store, config(checkpoint_every=100, score_every=100), runtime=runtime)
    assert saved_steps(store) == [5]
    ended, files = trained(store, config())
    assert ended.step == 8
    assert files["generator.safetensors"] == straight["generator.safetensors"]
    assert files["discriminator.safetensors"] == straight["discriminator.safetensors"]


def test_the_best_checkpoint_outlives_later_ones_and_its_model_is_kept(store: Store) -> None:
    chosen = config(steps=20, score_every=2, keep_checkpoints=1, best_by="nearest", learning_rate=0.02)
    ended, files = trained(store, chosen)
    best = int(ended.best["step"])
    assert best < 20, "choose another rate: the last step is the best of this run"
    assert saved_steps(store) == [best, 20]
    scores = {line["step"]: line["nearest"] for line in ended.log if "nearest" in line}
    assert list(scores) == list(range(2, 21, 2))
    assert scores[best] == min(scores.values()) == pytest.approx(ended.best["value"], rel=1e-5)
    assert {"best/generator.safetensors", "best/ema.safetensors", "best/model.json"} <= set(files)
    as_best = finish(ended, job(store, chosen.model_copy(update={"result": "best"})), {})
    hashes = {file.name: file.sha256 for file in as_best}
    assert hashes["generator.safetensors"] == files["best/generator.safetensors"]
    assert hashes["last/generator.safetensors"] == files["generator.safetensors"]
    assert "last/model.json" in hashes


def job(store: Store, chosen: TrainConfig, address: Address = ADDRESS) -> Job:
    return Job(chosen, SPEC, 1, store, address, "key", CPU)


def test_a_longer_run_goes_on_from_a_shorter_one_with_the_same_settings(tmp_path: Path) -> None:
    straight = trained(Store(str(tmp_path / "straight")), config(steps=12, score_every=4))[1]
    store = Store(str(tmp_path / "root"))
    trained(store, config(steps=8, score_every=4), address=OTHER)
    longer = job(store, config(steps=12, score_every=4))
    assert take_over(longer, 12) == 8
    assert take_over(longer, 12) == 0  # there is one here now
    ended = train(in_memory(pixels(), CPU.device), longer)
    hashes = {file.name: file.sha256 for file in finish(ended, longer, {})}
    for name in ("generator", "discriminator", "ema"):
        assert hashes[f"{name}.safetensors"] == straight[f"{name}.safetensors"]
    assert all(store.exists(ADDRESS.part_path(name)) for name in hashes)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 1e-3}, {"steps": 3}, {"decay": 0.5}, {"batch_size": 4}, {"augment": ["color"]}],
)
def test_nothing_is_taken_over_from_a_run_that_is_not_the_same(change: dict[str, Any], store: Store) -> None:
    trained(store, config(steps=8, keep_checkpoints=1), address=OTHER)
    chosen = config(**{"steps": 12, **change})
    assert take_over(job(store, chosen), chosen.steps or 0) == 0


def test_an_unfinished_run_with_other_settings_is_named_with_its_differences(store: Store) -> None:
    with pytest.raises(CutOff):
        trained(store, config(), address=OTHER, runtime=cut_off_after(5))
    changed = job(store, config(learning_rate=1e-3))
    assert passed_over(changed) == (
        f"{OTHER}, at step 4, is another training (learning_rate: 0.0002 -> 0.001); this one begins anew"
    )
    assert passed_over(job(store, config())) == ""  # it is gone on from
    assert passed_over(replace(changed, key="other images")) == ""
    store.write_bytes(f"{OTHER.path}/manifest.json", b"{}")  # it has ended
    assert passed_over(changed) == ""


def test_images_that_are_held_out_are_scored_on_and_never_trained_on(store: Store) -> None:
    shown: list[set[int]] = []

    @dataclass
    class Watched(WithNaN):
        def batch(self, numbers_N: Indices) -> Tensor:
            shown.append(set(numbers_N.tolist()))
            return super().batch(numbers_N)

    images, held = Watched(after=1000), {1, 4, 9, 12, 19}
    seen = SomePixels(images, np.array(sorted(set(range(20)) - held)))
    chosen = config(schedule="both", steps=10, data_threads=1)
    job = Job(chosen, SPEC, 1, store, ADDRESS, "key", CPU)
    train(seen, job, SomePixels(images, np.array(sorted(held))))
    assert shown[0] == held
    assert set.union(*shown[1:]) == set(range(20)) - held


def test_the_best_step_is_taken_over_with_the_newest(tmp_path: Path) -> None:
    changes = {"score_every": 2, "learning_rate": 0.02, "keep_checkpoints": 1}
    straight, expected = trained(Store(str(tmp_path / "straight")), config(steps=20, **changes))
    store = Store(str(tmp_path / "root"))
    shorter, _ = trained(store, config(steps=16, **changes), address=OTHER)
    longer = job(store, config(steps=20, **changes))
    assert take_over(longer, 20) == 16
    assert shorter.best["step"] < 16, "choose another rate: the best is the newest"
    ended = train(in_memory(pixels(), CPU.device), longer)
    hashes = {file.name: file.sha256 for file in finish(ended, longer, {})}
    assert ended.best == straight.best
    assert hashes["best/generator.safetensors"] == expected["best/generator.safetensors"]


def test_wanting_the_best_instead_of_the_last_trains_nothing_again(store: Store) -> None:
    changes = {"steps": 20, "score_every": 2, "learning_rate": 0.02}
    trained(store, config(**changes), address=OTHER)
    as_best = job(store, config(**changes, result="best"))
    assert take_over(as_best, 20) == 20
    images = WithNaN(after=0)
    ended = train(images, as_best)
    assert images.given == 0
    assert ended.best["step"] < 20, "choose another rate: the last step is the best of this run"
    assert "last/generator.safetensors" in {file.name for file in finish(ended, as_best, {})}


def test_a_best_step_that_a_straight_run_would_not_have_scored_is_not_taken_over(store: Store) -> None:
    trained(store, config(steps=8, score_every=5), address=OTHER)  # scored at 5 and, being the end, at 8
    found = {each.step: each.facts["best"].get("step", 0) for each in checkpoint.saved(store, OTHER)}
    taken = take_over(job(store, config(steps=12, score_every=5)), 12)
    assert taken == max((step for step, best in found.items() if best % 5 == 0), default=0)


def test_a_run_that_is_wanted_anew_takes_nothing_over(store: Store) -> None:
    trained(store, config(steps=8, score_every=4), address=OTHER)
    store.write_bytes(anew(ADDRESS), b"")
    assert take_over(job(store, config(steps=12, score_every=4)), 12) == 0
    store.delete(anew(ADDRESS))
    assert take_over(job(store, config(steps=12, score_every=4)), 12) == 8


def test_a_checkpoint_from_before_the_first_sign_is_kept_until_it_is_certain(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcgan_core.train import judge

    looks = iter([0.5] * 5 + [0.01] * 100)
    monkeypatch.setattr(
        judge.Judge, "vitals", lambda self, run: {"diversity": next(looks), "saturation": 0.0}
    )
    chosen = config(steps=20, check_every=1, checkpoint_every=1, keep_checkpoints=1, grace=0, max_rollbacks=1)
    with pytest.raises(TrainingDiverged, match="samples differ from one another by less than 5 %"):
        trained(store, chosen)
    # trouble began at 6 and was certain at 8: back to 5, whose state was sound
    state = json.loads(store.read_bytes(ADDRESS.part_path(f"checkpoints/step-{5:08d}/state.json")))
    assert state["health"]["healthy_step"] == 5


@pytest.mark.parametrize("count", [3, 65, 129, 257])
def test_any_number_of_images_can_be_scored(count: int, store: Store) -> None:
    ended, _ = trained(store, config(steps=2, score_every=1), pixels(count))
    assert {"nearest", "kernel"} <= set(ended.log[-1])


def test_a_default_that_is_written_out_does_not_refuse_to_go_on(store: Store) -> None:
    with pytest.raises(CutOff):
        trained(store, config(), runtime=cut_off_after(5))
    assert trained(store, config(channels=3, z_size=100, epochs=7))[0].step == 8


def test_the_best_is_forgotten_with_its_checkpoint(store: Store) -> None:
    chosen = config(score_every=2, steps=8, keep_checkpoints=5)
    with pytest.raises(CutOff):
        trained(store, chosen, runtime=cut_off_after(7))
    best = max(each.facts["best"]["step"] for each in checkpoint.saved(store, ADDRESS))
    if best < saved_steps(store)[-1]:
        store.delete(ADDRESS.part_path(f"checkpoints/step-{best:08d}"))
    ended, _ = trained(store, chosen)
    assert ended.best["step"] in saved_steps(store)
