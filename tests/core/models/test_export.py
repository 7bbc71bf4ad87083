"""A trained model leaves the project whole: single files, ONNX, a folder that draws without dcgan."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dcgan_core.artifacts import FLAG, find, read_part, write_manifest
from dcgan_core.errors import ConfigError, CorruptArtifact, ExportDiffers
from dcgan_core.images import decode_rgb, grid
from dcgan_core.models import export
from dcgan_core.models.card import data_of, plain, scores_of
from dcgan_core.models.dcgan import Discriminator, Generator, build
from dcgan_core.models.export import export_onnx
from dcgan_core.models.huggingface import export_huggingface
from dcgan_core.models.norms import recalibrated
from dcgan_core.models.opening import Opened, open_model
from dcgan_core.models.sampling import chosen_device, chosen_weights, drawn_in_batches
from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import (
    Model,
    description,
    draw_z,
    load_authors_svhn,
    load_model,
    net_bytes,
    to_uint8,
)
from dcgan_core.storage import Store
from dcgan_core.tables import iterate_rows

SMALL = net_spec("torch64", size=16, width=4)


def parts(store: Store) -> Path:
    return store.local_path(find(store, "train").address.part_path(""))


def as_by_index(images: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(images).astype(int)


@pytest.fixture
def opened(finished_store: Store) -> Opened:
    return open_model("train", finished_store)


def without_description(data: bytes) -> bytes:
    """A weights file as it was written before files described themselves."""
    return save_tensors(load_tensors(data))


def test_a_file_says_what_it_holds_and_has_the_same_bytes_in_every_process() -> None:
    code = """
        import hashlib
        from dcgan_core.models.dcgan import build
        from dcgan_core.models.specs import net_spec
        from dcgan_core.models.weights import net_bytes
        for net in build(net_spec("torch64", size=16, width=4), 3):
            print(hashlib.sha256(net_bytes(net)).hexdigest())
    """
    said = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(said) == 1
    for net, kind in zip(build(SMALL, 3), ("generator", "discriminator"), strict=True):
        assert description(net_bytes(net)) == {
            "format": 1,
            "net": kind,
            "spec": json.loads(json.dumps(SMALL.to_json())),
        }
        assert description(without_description(net_bytes(net))) is None


def test_one_file_is_enough(finished_store: Store, tmp_path: Path) -> None:
    whole = load_model(parts(finished_store))
    for name, ema in (("ema", True), ("generator", False)):
        file = tmp_path / f"{name} alone.safetensors"
        shutil.copy(parts(finished_store) / f"{name}.safetensors", file)
        model = load_model(file)
        assert torch.equal(model.sample(5, seed=2), whole.sample(5, seed=2, ema=ema))
        with pytest.raises(ConfigError, match="holds no discriminator; load the folder"):
            _ = model.discriminator


def test_files_and_folders_of_before_are_still_read(finished_store: Store, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for path in parts(finished_store).glob("*.safetensors"):
        (old / path.name).write_bytes(without_description(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"does not say which net it holds, and there is no model\.json"):
        load_model(old / "ema.safetensors")
    shutil.copy(parts(finished_store) / "model.json", old)
    expected = load_model(parts(finished_store)).sample(3, ema=True)
    assert torch.equal(load_model(old).sample(3, ema=True), expected)
    assert torch.equal(load_model(old / "ema.safetensors").sample(3), expected)
    with pytest.raises(ConfigError, match="holds a discriminator"):
        load_model(old / "discriminator.safetensors")


@pytest.mark.parametrize("data", [b"", b"x" * 50, b"\x04\0\0\0\0\0\0\0[1]", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_holds_no_weights_is_named(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "ema.safetensors"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"ema\.safetensors (is not a safetensors|does not say)"):
        load_model(file)


def test_cut_and_missing_weights_are_named(finished_store: Store) -> None:
    folder = parts(finished_store)
    data = (folder / "ema.safetensors").read_bytes()
    (folder / "ema.safetensors").write_bytes(data[:-100])
    for damaged in (folder, folder / "ema.safetensors"):
        with pytest.raises(ConfigError, match=r"ema\.safetensors is damaged, or of another net"):
            load_model(damaged)
    (folder / "ema.safetensors").write_bytes(data)
    (folder / "generator.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"generator\.safetensors is missing"):
        load_model(folder)


def test_nets_of_a_later_version_are_named(finished_store: Store) -> None:
    path = parts(finished_store) / "model.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "spec": {**about["spec"], "from_the_future": 1}}))
    with pytest.raises(ConfigError, match=r"does not know \(.*from_the_future.*; use the version"):
        load_model(parts(finished_store))


def test_a_checkpoint_draws_with_statistics_estimated_anew(finished_store: Store) -> None:
    last = parts(finished_store) / "checkpoints" / "step-00000008"
    end, model = load_model(parts(finished_store)), load_model(last)
    for ema in (False, True):
        assert (model.sample(32, ema=ema) - end.sample(32, ema=ema)).abs().mean() < 0.02
    assert torch.equal(model.sample(3), load_model(last).sample(3))
    running = Generator(end.spec)
    running.load_state_dict(load_tensors((last / "generator.safetensors").read_bytes()))
    as_stored = Model(end.spec, running.eval(), None, None)
    assert (as_stored.sample(32) - end.sample(32)).abs().mean() > 0.04


def test_a_checkpoint_of_a_run_that_goes_on_describes_itself(finished_store: Store) -> None:
    last = parts(finished_store) / "checkpoints" / "step-00000008"
    (parts(finished_store) / "model.json").unlink()
    assert load_model(last).sample(2).shape == (2, 3, 16, 16)
    text = (last / "state.json").read_text()
    (last / "state.json").write_text(json.dumps({**json.loads(text), "spec": {}}))
    with pytest.raises(ConfigError, match=r"state\.json|nets"):
        load_model(last)
    (last / "state.json").write_text(text)
    data = bytearray((last / "ema.safetensors").read_bytes())
    data[-3] ^= 1
    (last / "ema.safetensors").write_bytes(data)
    with pytest.raises(CorruptArtifact, match=r"ema\.safetensors is damaged"):
        load_model(last)


@pytest.mark.parametrize("net", ["paper64", "torch64"])  # uniform and normal z
def test_an_image_depends_on_the_seed_and_its_number_alone(net: str) -> None:
    spec = net_spec(net, size=16, width=4)
    z_NZ = draw_z(spec, 20, np.random.default_rng(4))
    assert torch.equal(draw_z(spec, 10, np.random.default_rng(4)), z_NZ[:10])
    random = np.random.default_rng(4)
    assert torch.equal(torch.cat([draw_z(spec, count, random) for count in (1, 7, 12)]), z_NZ)
    model = Model(spec, build(spec, 0)[0].eval(), None, None)
    whole = as_by_index(list(drawn_in_batches(model, 20, seed=4, weights="plain")))
    for n, size in ((20, 1), (20, 7), (9, 4)):
        batches = list(drawn_in_batches(model, n, seed=4, weights="plain", batch_size=size))
        assert max(len(batch) for batch in batches) == size
        assert abs(as_by_index(batches) - whole[:n]).max() <= 1


def test_the_average_draws_where_there_is_one() -> None:
    generator, _ = build(SMALL, 0)
    with_average, without = (Model(SMALL, generator, None, ema) for ema in (generator, None))
    assert [chosen_weights(with_average, ema) for ema in (None, True, False)] == ["ema", "ema", "plain"]
    assert [chosen_weights(without, ema) for ema in (None, False)] == ["plain", "plain"]
    with pytest.raises(ConfigError, match="leave --ema out"):
        chosen_weights(without, True)


def test_the_device_is_the_processor_where_no_gpu_is_wanted() -> None:
    assert chosen_device("auto", gpus=0) == chosen_device("cpu") == "cpu"
    assert chosen_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cpu:1", "cuda:x", "", "mps"):
        with pytest.raises(ConfigError, match="choose auto, cpu or cuda"):
            chosen_device(name)


def conditional() -> Model:
    """A small net with classes, its batch norm statistics those of what it draws."""
    spec = net_spec("mnist28", width=4)
    generator, judge = build(spec, 1)
    z_NZ, y_N = draw_z(spec, 60, np.random.default_rng(1)), torch.arange(60) % 10
    generator = recalibrated(generator, [z_NZ], lambda net, z: net(z, y_N))
    drawn = generator(z_NZ, y_N).detach()
    return Model(spec, generator, recalibrated(judge, [drawn], lambda net, x: net(x, y_N)), None)


def test_a_net_with_classes_is_drawn_by_batch_and_leaves_whole(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = conditional()
    in_turn = to_uint8(model.sample(13, seed=2), (0.0, 1.0)).astype(int)
    for size in (1, 4, 13):
        batches = drawn_in_batches(model, 13, seed=2, weights="plain", batch_size=size)
        assert abs(as_by_index(list(batches)) - in_turn).max() <= 1
    sevens = as_by_index(list(drawn_in_batches(model, 13, seed=2, weights="plain", label=7)))
    assert abs(sevens[7] - in_turn[7]).max() <= 1
    assert abs(sevens[8] - in_turn[8]).max() > 1
    assert max(export_onnx(model, tmp_path / "onnx", "plain").values()) <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "generator.onnx")
    z_NZ = draw_z(model.spec, 13, np.random.default_rng(2))
    (images_NCHW,) = session.run(None, {"z": z_NZ.numpy(), "classes": np.arange(13) % 10})
    assert np.abs(images_NCHW - model.sample(13, seed=2).numpy()).max() <= 1e-4
    (difference,) = export_huggingface(Opened(model, "digits"), tmp_path / "hub", "plain", "mit").values()
    assert difference <= 1e-6
    assert torch.equal(load_model(tmp_path / "hub").sample(5), model.sample(5))


@pytest.mark.parametrize("net", ["paper64", "torch64", "imagenet32"])
def test_onnxruntime_draws_and_judges_as_torch_does(net: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    spec = net_spec(net, size=16, width=4)
    batches = [draw_z(spec, 32, np.random.default_rng(seed)) for seed in range(4)]
    generator = recalibrated(build(spec, 1)[0], batches, lambda net, z: net(z))
    drawn = [generator(z_NZ).detach() for z_NZ in batches]
    judge = recalibrated(build(spec, 1)[1], drawn, lambda net, x: net(x))
    differences = export_onnx(Model(spec, generator, judge, None), tmp_path / "out", "plain")
    noted = json.loads((tmp_path / "out" / "export.json").read_text())
    assert noted["largest_difference_from_torch"] == differences
    assert set(differences) == {"generator.onnx", "discriminator.onnx"}
    assert max(differences.values()) <= 1e-4
    assert min(noted["opset"].values()) >= 18
    sessions = {name: onnxruntime.InferenceSession(tmp_path / "out" / name) for name in differences}
    for n in (1, 3, 50):
        z_NZ = draw_z(spec, n, np.random.default_rng(99))
        (images_NCHW,) = sessions["generator.onnx"].run(["images"], {"z": z_NZ.numpy()})
        (logits_N,) = sessions["discriminator.onnx"].run(["logits"], {"images": images_NCHW})
        with torch.inference_mode():
            expected = generator(z_NZ)
            assert np.abs(images_NCHW - expected.numpy()).max() <= 1e-4
            assert np.abs(logits_N - judge(expected).numpy()).max() <= 1e-4
    assert np.abs(images_NCHW).max() > 0.01
    assert logits_N.std() > 0


def test_an_export_that_differs_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    written = export._write_graph
    (other, _), (generator, judge) = build(SMALL, 1), build(SMALL, 0)

    def another(net: torch.nn.Module, *rest: object) -> None:
        written(other.eval() if isinstance(net, Generator) else net, *rest)  # pyright: ignore

    monkeypatch.setattr(export, "_write_graph", another)
    with pytest.raises(ExportDiffers, match=r"generator\.onnx differs from the trained net by up to"):
        export_onnx(Model(SMALL, generator, judge, None), tmp_path / "out", "plain")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_and_a_full_folder_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(SMALL, *build(SMALL, 0), None)
    with monkeypatch.context() as patched:
        patched.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
        with pytest.raises(ConfigError, match=r"ONNX needs onnxscript: pip install 'dcgan\[export\]'"):
            export_onnx(model, tmp_path / "out", "plain")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    monkeypatch.setattr(export, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="is there already"):
        export_onnx(model, tmp_path / "out", "plain")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


WITHOUT_DCGAN = """
    import runpy, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("dcgan_core", "tasks", "flows", "PIL", "cv2"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    sys.argv = ["modeling_dcgan.py", "--n", "10", "--seed", "5", "--to", "drawn.png"]
    runpy.run_path("modeling_dcgan.py", run_name="__main__")
"""


@pytest.mark.parametrize("weights", ["ema", "plain"])
def test_the_folder_draws_the_same_without_dcgan(weights: str, opened: Opened, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    chosen = chosen_weights(opened.model, weights == "ema")
    assert export_huggingface(opened, folder, chosen, "cc-by-4.0") == {
        "model.safetensors with modeling_dcgan.py": 0.0
    }
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_DCGAN)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "10 images in drawn.png" in ended.stdout
    drawn = decode_rgb((folder / "drawn.png").read_bytes(), max_pixels=10**7)
    ours = grid(to_uint8(opened.model.sample(10, seed=5, ema=weights == "ema")))
    assert drawn.shape == ours.shape
    assert abs(drawn.astype(int) - ours).max() <= 1


@pytest.mark.parametrize("ema", [True, False])
def test_the_folder_is_a_model_again(
    ema: bool, opened: Opened, finished_store: Store, tmp_path: Path
) -> None:
    export_huggingface(opened, tmp_path / "hub", "ema" if ema else "plain", "other")
    again = open_model(str(tmp_path / "hub"), finished_store)
    for average in (True, False):
        assert torch.equal(again.model.sample(4, ema=average), opened.model.sample(4, ema=average))
    x_NCHW = opened.model.sample(6)
    with torch.inference_mode():
        assert torch.equal(again.model.discriminator(x_NCHW), opened.model.discriminator(x_NCHW))
    assert again.facts["counts"]["images_seen"] == opened.facts["counts"]["images_seen"]
    alone = open_model(str(tmp_path / "hub" / "model.safetensors"), finished_store)
    assert torch.equal(alone.model.sample(4), opened.model.sample(4, ema=ema))
    export_huggingface(alone, tmp_path / "again", "plain", "other")
    assert torch.equal(load_model(tmp_path / "again").sample(4), opened.model.sample(4, ema=ema))
    assert not (tmp_path / "again" / "discriminator.safetensors").exists()


def test_the_card_says_what_it_was_trained_on_and_what_it_scored(
    opened: Opened, finished_store: Store, tmp_path: Path
) -> None:
    export_huggingface(opened, tmp_path / "hub", "ema", "cc-by-4.0")
    text = (tmp_path / "hub" / "README.md").read_text("utf-8")
    heading, card = text.split("---\n")[1:]
    assert "license: cc-by-4.0\n" in heading
    assert "pipeline_tag: unconditional-image-generation\n" in heading
    assert "library_name: dcgan\n" in heading
    counts = {
        kind: find(finished_store, kind).counts for kind in ("photos", "crops", "dedup", "shards", "train")
    }
    for words, count in {
        "photos found": counts["photos"]["items"],
        "photos usable": counts["photos"]["ok"],
        "crops": counts["crops"]["ok"],
        "crops kept after near duplicates were left out": counts["dedup"]["kept"],
        "training images": counts["shards"]["samples"],
    }.items():
        assert f"| {words} | {count} |" in card
    assert f"| images seen | {counts['train']['images_seen']} (" in card
    assert "| learning\\_rate | 0.0002 |" in card
    scores = find(finished_store, "scores")
    accuracy = json.loads(read_part(finished_store, scores.address, scores.named("scores-")[0]))["rows"][0]
    assert f"| digits | discriminator | {100 * accuracy['accuracy']:.1f} % |" in card
    assert "The training set is small" in card
    assert "identify" in card
    assert str(tmp_path) not in card
    assert finished_store.root not in card
    assert re.search(r"\{[{%]|\n{3}", text) is None
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        "README.md",
        "config.json",
        "discriminator.safetensors",
        "generator-plain.safetensors",
        "model.json",
        "model.safetensors",
        "modeling_dcgan.py",
        "samples.png",
    }


def test_licences_are_counted_by_photo_kept(opened: Opened, finished_store: Store) -> None:
    train = find(finished_store, "train")
    photos = find(finished_store, "photos")
    kept = find(finished_store, "dedup").counts["kept"]
    licences = data_of(finished_store, train).licences
    assert sum(count for _, count in licences) == kept  # one face a photo here
    assert [name for name, _ in licences] == ["not stated"]
    assert next(iterate_rows(finished_store, photos.address, photos.named("photos-")[0], ["licence"]))


def test_what_is_gone_or_taken_down_is_said_on_the_card(finished_store: Store, tmp_path: Path) -> None:
    train = find(finished_store, "train")
    write_manifest(finished_store, train.model_copy(update={"metrics": {**train.metrics, FLAG: 3}}))
    finished_store.delete(find(finished_store, "photos").address.path)
    finished_store.delete(find(finished_store, "scores").address.path)
    export_huggingface(open_model("train", finished_store), tmp_path / "hub", "ema", "other")
    card = (tmp_path / "hub" / "README.md").read_text("utf-8")
    assert "trained on 3 photos that have been taken down since" in card
    assert "licences of the photos are not known here" in card
    assert "None: no evaluation of these weights was at hand" in card
    assert "license_name: see-training-data" in card


def test_scores_of_other_weights_are_not_shown(finished_store: Store) -> None:
    train = find(finished_store, "train")
    assert scores_of(finished_store, train)
    (receipt,) = train.parts
    files = tuple(file.model_copy(update={"sha256": "0" * 64}) for file in receipt.files)
    changed = train.model_copy(update={"parts": (receipt.model_copy(update={"files": files}),)})
    assert scores_of(finished_store, changed) == []


def test_text_of_the_web_stays_text_on_the_card() -> None:
    assert plain("a | b\n# <script>[x](y)") == r"a \| b \# &lt;script>\[x\]\(y\)"
    assert len(plain("x" * 500)) == 100


def test_a_licence_that_would_break_the_heading_is_refused(opened: Opened, tmp_path: Path) -> None:
    for licence in ("", "mit\ntags: x", "MIT License", "-x"):
        with pytest.raises(ConfigError, match="--license"):
            export_huggingface(opened, tmp_path / "hub", "ema", licence)
    assert not (tmp_path / "hub").exists()


def test_the_authors_svhn_generator_survives_every_format(data_folder: Path, tmp_path: Path) -> None:
    """Real weights of full size: house numbers by torch, by ONNX and by the folder's own code."""
    path = data_folder / "models" / "dcgan-svhn-authors.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generator, discriminator = load_authors_svhn(path)
    random = np.random.default_rng(0)
    batches = [draw_z(generator.spec, 64, random) for _ in range(16)]
    generator = recalibrated(generator, batches, lambda net, z: net(z))
    drawn = [generator(z_NZ).detach() for z_NZ in batches]
    judge: Discriminator = recalibrated(discriminator, drawn, lambda net, x: net(x))
    model = Model(generator.spec, generator, judge, None)
    assert max(export_onnx(model, tmp_path / "onnx", "plain").values()) <= 1e-4
    folder = tmp_path / "hub"
    assert export_huggingface(Opened(model, "svhn"), folder, "plain", "mit").popitem()[1] <= 1e-6
    assert "Not known: the artifacts" in (folder / "README.md").read_text("utf-8")
    assert torch.equal(load_model(folder).sample(2), model.sample(2))
