"""A step moves the right net by the right amount, and a run that was cut off ends like one that was not."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_core.artifacts import Address, Manifest, Receipt, find, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import TrainConfig
from dcgan_core.errors import ConfigError, CorruptArtifact, NotEnoughMemory, TrainingDiverged
from dcgan_core.images import decode_rgb
from dcgan_core.models.dcgan import Discriminator, Generator, build
from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import draw_z, load_model, load_trained
from dcgan_core.pipeline import load_pipeline
from dcgan_core.progress import silent
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.train.loop import steps_of
from dcgan_core.train.noise import draw_batch_z
from dcgan_core.train.runtime import LocalRuntime
from dcgan_core.train.schedule import Update
from dcgan_core.train.stage import Train
from dcgan_core.train.step import Inputs, Pair, Player, Recipe, Seen, adam, update, update_average
from tests.conftest import Tiny
from tests.core.train.runs import ADDRESS, CPU, SPEC, STEPS, CutOff, config, cut_off_after, pixels, trained


@pytest.mark.parametrize(
    ("schedule", "steps", "updates"),
    [("both", 8, {"g": 8, "d": 8}), ("alternate", 8, {"g": 4, "d": 4}), ("alternate", 7, {"g": 4, "d": 3})],
)
def test_a_minibatch_updates_both_nets_or_one_of_them_in_turn(
    schedule: str, steps: int, updates: dict[str, int], store: Store
) -> None:
    ended, _ = trained(store, config(schedule=schedule, steps=steps))
    assert ended.updates == updates
    assert ended.step == steps


@pytest.mark.parametrize("cut", [1, 2, 5, 7])
@pytest.mark.parametrize("schedule", ["alternate", "both"])
def test_a_resumed_run_ends_with_the_same_bytes_as_a_straight_one(
    schedule: str, cut: int, tmp_path: Path
) -> None:
    chosen = config(schedule=schedule)
    _, straight = trained(Store(str(tmp_path / "straight")), chosen)
    broken = Store(str(tmp_path / "broken"))
    with pytest.raises(CutOff):
        trained(broken, chosen, runtime=cut_off_after(cut))
    steps_done: list[float] = []
    counting = LocalRuntime(torch.device("cpu"), lambda done, total, note: steps_done.append(done))
    _, resumed = trained(broken, chosen, runtime=counting)
    assert resumed == straight
    last_checkpoint = (cut - 1) // 2 * 2  # a run that is cut off while it reports has not saved that step
    assert steps_done == list(range(last_checkpoint + 1, STEPS + 1))


def test_a_run_without_a_moving_average_resumes_too(tmp_path: Path) -> None:
    chosen = config(ema=0)
    _, straight = trained(Store(str(tmp_path / "straight")), chosen)
    broken = Store(str(tmp_path / "broken"))
    with pytest.raises(CutOff):
        trained(broken, chosen, runtime=cut_off_after(6))
    assert trained(broken, chosen)[1] == straight
    assert "ema.safetensors" not in straight


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path) -> None:
    _, straight = trained(Store(str(tmp_path / "straight")), config())
    broken = Store(str(tmp_path / "broken"))
    with pytest.raises(CutOff):
        trained(broken, config(), runtime=cut_off_after(7))
    checkpoints = broken.local_path(ADDRESS.part_path("checkpoints"))
    latest = sorted(checkpoints.iterdir())[-1]
    assert latest.name == "step-00000006"
    weights = latest / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert trained(broken, config())[1] == straight


def test_a_checkpoint_of_other_data_is_not_gone_on_from(tmp_path: Path) -> None:
    other = pixels(seed=1)
    _, straight = trained(Store(str(tmp_path / "straight")), config(), other, key="other data")
    store = Store(str(tmp_path / "changed"))
    trained(store, config(), key="data before they changed")
    assert trained(store, config(), other, key="other data")[1] == straight


def test_data_that_changed_at_the_same_address_are_trained_on_anew(finished_store: Store, tiny: Tiny) -> None:
    """What happens when a source is fetched again and other bytes come."""
    stages = load_pipeline(tiny.preset, tiny.overrides, upto="train").stages
    train_stage = stages[-1]
    before = manifest_of(finished_store, train_stage.address)
    shards = manifest_of(finished_store, train_stage.inputs["shards"])
    fewer = shards.model_copy(update={"parts": (fewer_files(shards),)})
    finished_store.write_bytes(f"{shards.address.path}/manifest.json", fewer.model_dump_json().encode())
    assert not run(train_stage, finished_store, LocalBackend(1)).cached
    after = manifest_of(finished_store, train_stage.address)
    assert after.counts["samples"] < before.counts["samples"]
    names = {file.name: file.sha256 for file in before.files}
    assert all(file.sha256 != names[file.name] for file in after.named("generator"))


def test_checkpoints_and_pictures_are_kept_as_configured(store: Store) -> None:
    _, files = trained(store, config(keep_checkpoints=2))
    folders = {name.split("/")[1] for name in files if name.startswith("checkpoints/")}
    assert folders == {"step-00000006", "step-00000008"} == set(store.names(ADDRESS.part_path("checkpoints")))
    assert sorted(name for name in files if name.startswith("samples/")) == [
        "samples/ema-00000004.png",
        "samples/ema-00000008.png",
        "samples/step-00000004.png",
        "samples/step-00000008.png",
    ]
    picture = store.read_bytes(ADDRESS.part_path("samples/step-00000008.png"))
    assert decode_rgb(picture, max_pixels=10**6).std() > 1


def test_nothing_that_is_kept_can_hold_code(store: Store) -> None:
    _, files = trained(store, config())
    assert {name.rpartition(".")[2] for name in files} == {"safetensors", "json", "jsonl", "png"}


def test_the_log_has_a_line_each_time_and_only_numbers(store: Store) -> None:
    _, files = trained(store, config(log_every=3))
    lines = [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in the log"))
        for line in store.read_bytes(ADDRESS.part_path("metrics.jsonl")).splitlines()
    ]
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert [line["images"] for line in lines] == [24, 48, 64]
    assert all({"loss_d", "loss_g", "d_real", "d_fake"} <= set(line) for line in lines)
    assert "metrics.jsonl" in files


def test_samples_move_with_the_seed_of_the_weights_not_of_the_process(tmp_path: Path) -> None:
    torch.manual_seed(1)
    _, one = trained(Store(str(tmp_path / "one")), config())
    torch.manual_seed(2)
    np.random.seed(3)
    _, same = trained(Store(str(tmp_path / "same")), config())
    assert one == same


def test_a_batch_larger_than_the_data_is_filled_by_several_passes(store: Store) -> None:
    ended, _ = trained(store, config(batch_size=16, steps=3, schedule="both"), pixels(count=5))
    assert ended.updates == {"g": 3, "d": 3}


def test_epochs_count_images_shown() -> None:
    chosen = TrainConfig(epochs=25, batch_size=128)
    assert steps_of(chosen, 350_000) == 68_360  # 34,180 updates of each net, as the authors
    assert steps_of(chosen, 10) == 2
    assert steps_of(TrainConfig(epochs=0.001), 10) == 1
    assert steps_of(TrainConfig(epochs=25, steps=7), 10) == 7


def test_losses_that_are_no_longer_finite_stop_the_run_by_name(store: Store) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"diverged at step \d, also after going back 3 times: .*nan.* Lower train"
    ):
        trained(store, config(learning_rate=1e38))


def test_a_net_beyond_all_memory_is_refused_before_any_work(finished_store: Store, tiny: Tiny) -> None:
    stages = load_pipeline(tiny.preset, tiny.changed(train__width=100_000), upto="train").stages
    with pytest.raises(NotEnoughMemory, match=r"Lower train\.batch_size or train\.width"):
        run(stages[-1], finished_store, LocalBackend(1))


def test_a_batch_that_cannot_be_split_over_the_workers_is_refused(finished_store: Store, tiny: Tiny) -> None:
    stage = load_pipeline(tiny.preset, tiny.overrides, upto="train").stages[-1]
    assert isinstance(stage, Train)
    three = LocalRuntime(torch.device("cpu"), silent, rank=0, world_size=3)
    with pytest.raises(ConfigError, match="8 cannot be split over 3 workers"):
        stage.train(finished_store, "key", three)


def test_one_sample_is_the_same_alone_and_among_others(finished_store: Store) -> None:
    model = load_model(model_folder(finished_store))
    z_NZ = draw_z(model.spec, 64, np.random.default_rng(0))
    for ema in (False, True):
        together = model.draw(z_NZ, ema=ema)
        for index in (0, 17, 63):
            alone = model.draw(z_NZ[index : index + 1], ema=ema)
            assert torch.allclose(alone[0], together[index], atol=1e-5)
    assert torch.equal(model.sample(4, seed=3), model.sample(4, seed=3))
    assert not torch.equal(model.sample(4, seed=3), model.sample(4, seed=4))


def test_a_model_is_found_in_its_artifact_or_its_folder_and_nowhere_else(
    finished_store: Store, tmp_path: Path
) -> None:
    folder = model_folder(finished_store)
    assert load_model(folder).spec == load_model(f"{folder}/parts").spec
    with pytest.raises(ConfigError, match=r"holds no model\.json"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="nothing at"):
        load_model(tmp_path / "absent")


def test_damaged_weights_are_named_and_not_used(finished_store: Store) -> None:
    train_manifest = find(finished_store, "train")
    path = finished_store.local_path(train_manifest.address.part_path("discriminator.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifact) as caught:
        load_trained(finished_store, train_manifest)
    assert caught.value.path == str(path)
    with pytest.raises(ConfigError, match="is not a trained model"):
        load_trained(finished_store, find(finished_store, "crops"))


def test_a_model_without_a_moving_average_says_so(store: Store) -> None:
    trained(store, config(ema=0))
    model = load_model(store.uri(ADDRESS.path))
    assert model.ema is None
    with pytest.raises(ConfigError, match=r"train\.ema was 0"):
        model.sample(1, ema=True)


@dataclass
class Game:
    """Two fresh nets with their optimisers, and a minibatch."""

    pair: Pair
    recipe: Recipe = field(default_factory=lambda: Recipe(SPEC))
    pixels: Tensor = field(default_factory=lambda: torch.from_numpy(pixels(8)))
    z: Tensor = field(default_factory=lambda: draw_batch_z(SPEC, 1, 0, 8))
    seen: Seen = field(default_factory=Seen)

    @property
    def generator(self) -> Generator:
        return self.pair.generator.net

    @property
    def discriminator(self) -> Discriminator:
        return self.pair.discriminator.net

    @property
    def real(self) -> Tensor:
        return self.pixels.float() / 127.5 - 1

    def update(self, *, d: bool, g: bool) -> None:
        update(self.pair, Inputs(self.z, self.pixels), Update(d, g), self.recipe, CPU, self.seen)


@pytest.fixture
def game() -> Game:
    generator, discriminator = build(SPEC, 1)
    return Game(
        Pair(Player(generator, optimiser(generator)), Player(discriminator, optimiser(discriminator)))
    )


def optimiser(net: torch.nn.Module) -> torch.optim.Adam:
    return adam(net, learning_rate=2e-4, beta1=0.5, weight_decay=0.1)


def values(net: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_step_of_one_net_leaves_the_weights_of_the_other(game: Game) -> None:
    g, d = values(game.generator), values(game.discriminator)
    game.update(d=True, g=False)
    assert are_equal(values(game.generator), g)
    assert not any(torch.equal(a, b) for a, b in zip(values(game.discriminator), d, strict=True))
    d = values(game.discriminator)
    game.update(d=False, g=True)
    assert are_equal(values(game.discriminator), d)
    assert not any(torch.equal(a, b) for a, b in zip(values(game.generator), g, strict=True))


def test_the_generators_step_computes_no_gradients_of_the_frozen_discriminator(game: Game) -> None:
    game.update(d=False, g=True)
    assert all(parameter.grad is None for parameter in game.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in game.discriminator.parameters())
    game.update(d=True, g=False)
    assert all(parameter.grad is not None for parameter in game.discriminator.parameters())


def test_losses_are_those_of_the_paper_with_real_and_fake_in_batches_of_their_own(game: Game) -> None:
    generator, discriminator = copy.deepcopy(game.generator), copy.deepcopy(game.discriminator)
    with torch.no_grad():
        real = torch.sigmoid(discriminator(game.real))
        fake = torch.sigmoid(discriminator(generator(game.z)))
    game.update(d=True, g=False)
    assert game.seen.loss_d.item() == pytest.approx(-(real.log().mean() + (1 - fake).log().mean()).item())
    assert game.seen.d_real.item() == pytest.approx(real.mean().item())
    assert game.seen.d_fake.item() == pytest.approx(fake.mean().item())
    with torch.no_grad():
        fake = torch.sigmoid(copy.deepcopy(game.discriminator)(copy.deepcopy(game.generator)(game.z)))
    game.update(d=False, g=True)
    assert game.seen.loss_g.item() == pytest.approx(-fake.log().mean().item())


def test_weight_decay_is_coupled_and_takes_in_batch_norm(game: Game) -> None:
    """The first step of Adam is lr * g / (|g| + eps) with g = gradient + decay * value (not AdamW)."""
    net = game.discriminator
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    game.update(d=True, g=False)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        g = parameter.grad + 0.1 * before[name]
        expected = before[name] - 2e-4 * g / (g.abs() + 1e-8)
        assert torch.allclose(parameter, expected, atol=1e-7), name
    assert any(parameter.ndim == 1 for parameter in net.parameters())


def test_the_moving_average_follows_its_formula_and_starts_quickly() -> None:
    average, generator = build(SPEC, 1)[0], build(SPEC, 2)[0]
    for updates, decay in ((1, 2 / 11), (10**6, 0.999)):
        expected = [
            decay * old + (1 - decay) * new
            for old, new in zip(values(average), values(generator), strict=True)
        ]
        update_average(average, generator, 0.999, updates)
        for now, wanted in zip(values(average), expected, strict=True):
            assert torch.allclose(now, wanted, atol=1e-6)


def test_z_is_a_function_of_seed_and_step_alone() -> None:
    assert torch.equal(draw_batch_z(SPEC, 1, 5, 8), draw_batch_z(SPEC, 1, 5, 8))
    different = [draw_batch_z(SPEC, seed, step, 8) for seed in (1, 2) for step in (0, 1)]
    assert len({z.numpy().tobytes() for z in different}) == 4
    uniform, normal = draw_batch_z(SPEC, 1, 0, 500), draw_batch_z(net_spec("svhn32"), 1, 0, 500)
    assert -1 <= uniform.min() < -0.99 < 0.99 < uniform.max() <= 1
    assert normal.std().item() == pytest.approx(1, abs=0.02)


def test_the_discriminator_learns_to_tell_two_kinds_of_pictures(game: Game) -> None:
    """Against a generator that stands still, its loss falls."""
    losses = []
    for _ in range(30):
        game.update(d=True, g=False)
        losses.append(game.seen.loss_d.item())
    assert losses[-1] < 0.5 * losses[0]
    assert F.softplus(torch.zeros(())).item() * 2 == pytest.approx(losses[0], rel=0.5)  # 2 log 2 at first


def manifest_of(store: Store, address: Address) -> Manifest:
    manifest = read_manifest(store, address)
    assert manifest is not None
    return manifest


def fewer_files(shards: Manifest) -> Receipt:
    """The receipt of the shards without their last tar."""
    (receipt,) = shards.parts
    last = max(file.name for file in receipt.files if file.name.endswith(".tar")).removesuffix(".tar")
    files = tuple(file for file in receipt.files if not file.name.startswith(last))
    return receipt.model_copy(update={"files": files})


def model_folder(store: Store) -> str:
    return store.uri(find(store, "train").address.path)
