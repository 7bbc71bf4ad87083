"""The command line does the same work with no server, and says in one sentence what is wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from dcgan_core import cli
from dcgan_core.artifacts import all_manifests, find, remove
from dcgan_core.config import config_keys, preset_names
from dcgan_core.images import decode_rgb
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import FLOWS
from dcgan_core.storage import Store
from tests.conftest import Tiny


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Dcgan = Callable[..., Ended]


@pytest.fixture
def dcgan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Dcgan:
    """Runs the command line here, in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DCGAN_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(cli.out, "width", 240)
    monkeypatch.setattr(cli.err, "width", 240)

    def command(*words: str, root: str | None = None) -> Ended:
        if root is not None:
            monkeypatch.setenv("DCGAN_ROOT", root)
        monkeypatch.setattr(sys, "argv", ["dcgan", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return command


def options(tiny: Tiny) -> list[str]:
    """The tiny configuration as options; JSON is TOML enough for its values."""
    return [word for key, value in tiny.overrides.items() for word in ("-o", f"{key}={json.dumps(value)}")]


def test_a_run_makes_what_is_missing_and_says_what_is_cached(
    dcgan: Dcgan, finished_store: Store, tiny: Tiny
) -> None:
    find_all = {manifest.artifact for manifest in all_manifests(finished_store)}
    first = dcgan("run", "all", "-p", tiny.preset, *options(tiny), root=finished_store.root)
    assert first.code == 0
    assert first.out.count("cached") == len(find_all) == 14
    assert f"Report: {finished_store.root}/report/index.html" in first.out
    dcgan("rm", "dedup", "--yes")
    again = dcgan("run", "dedup", *options(tiny))
    assert re.findall(r"^(\w+) +\w+ +(cached|done)", again.out, re.MULTILINE) == [
        ("autoencoder", "cached"),
        ("codes", "cached"),
        ("links", "cached"),
        ("dedup", "done"),
        ("gallery", "cached"),
    ]
    (page,) = re.findall("Near duplicates to look at: (.+)", again.out)
    assert Path(page).is_file()


def test_refresh_does_a_stage_anew(dcgan: Dcgan, finished_store: Store, tiny: Tiny) -> None:
    ended = dcgan("run", "shard", "--refresh", *options(tiny), root=finished_store.root)
    assert ended.code == 0
    assert "done" in ended.out


def test_a_plan_says_what_would_run_and_why_and_runs_nothing(
    dcgan: Dcgan, finished_store: Store, tiny: Tiny
) -> None:
    before = [manifest.address for manifest in all_manifests(finished_store)]
    changed = (*options(tiny), "-o", "dedup.threshold=zero")
    ended = dcgan("run", "--plan", *changed, root=finished_store.root)
    lines = {line.split()[1]: line for line in ended.out.splitlines()[1:] if line.strip()}
    assert set(lines) >= {"photos", "codes", "report"}
    for artifact in ("photos", "crops", "autoencoder"):
        assert "cached" in lines[artifact]
    assert "would run" in lines["codes"]
    assert "dedup.threshold: median -> zero" in lines["codes"]
    assert "input codes" in lines["dedup"]
    assert "missing" not in ended.out  # an earlier stage of the plan makes it
    assert [manifest.address for manifest in all_manifests(finished_store)] == before


def test_a_plan_of_an_empty_root_says_that_nothing_is_made_yet(dcgan: Dcgan, tiny: Tiny) -> None:
    ended = dcgan("run", "--plan", *options(tiny))
    assert ended.code == 0
    assert ended.out.count("not made yet") == 14


def test_a_plan_names_a_changed_width_by_its_key(dcgan: Dcgan, finished_store: Store, tiny: Tiny) -> None:
    changed = [*options(tiny), "-o", "train.width=16"]
    ended = dcgan("run", "train", "--plan", *changed, root=finished_store.root)
    assert "train.spec.discriminator[0].filters: 8 -> 16" in ended.out
    assert "{" not in ended.out


def test_a_plan_honours_refresh(dcgan: Dcgan, finished_store: Store, tiny: Tiny) -> None:
    ended = dcgan("run", "all", "--plan", "--refresh", *options(tiny), root=finished_store.root)
    assert ended.out.count("would run") == ended.out.count("--refresh") == 14
    one = dcgan("run", "crop", "--plan", "--refresh", *options(tiny))
    assert one.out.count("would run") == 1
    assert len(all_manifests(finished_store)) == 14


def test_a_plan_of_one_stage_says_which_inputs_are_missing_and_what_makes_them(
    dcgan: Dcgan, finished_store: Store, tiny: Tiny
) -> None:
    for artifact in ("shards", "codes"):
        remove(finished_store, find(finished_store, artifact).address)
    fingerprint = find(finished_store, "train").inputs["shards"].fingerprint
    assert "missing" not in dcgan("run", "train", "--plan", *options(tiny), root=finished_store.root).out
    plan = dcgan("run", "train", "--plan", "--refresh", *options(tiny))
    assert f"missing shards/{fingerprint}" in plan.out
    command = next(line.split() for line in plan.out.splitlines() if "dcgan run shard" in line)
    assert shlex.split(" ".join(command))[1:] == ["run", "shard", "--preset", tiny.preset, *options(tiny)]
    assert "dcgan run dedup" not in plan.out  # all that `shard` reads is there
    remove(finished_store, find(finished_store, "dedup").address)
    both = dcgan("run", "train", "--plan", "--refresh", *options(tiny)).out
    assert re.findall("dcgan run (\\w+)", both) == ["dedup", "shard"]


def test_everything_there_is_can_be_listed(dcgan: Dcgan, finished_store: Store) -> None:
    presets = dcgan("list", "presets").out
    assert all(name in presets for name in preset_names())
    assert dcgan("list", "stages").out.split() == list(FLOWS)
    keys = dcgan("list", "keys").out
    assert all(key in keys for key in config_keys())
    artifacts = dcgan("list", root=finished_store.root).out
    for manifest in all_manifests(finished_store):
        assert str(manifest.address) in artifacts
    assert "unfinished" not in artifacts
    finished_store.write_bytes("artifacts/crops/feed/parts/crops-00000.parquet", b"x")
    assert re.search(r"crops/feed +unfinished", dcgan("list").out)


def test_an_artifact_is_shown_with_what_it_was_made_from(dcgan: Dcgan, finished_store: Store) -> None:
    manifest = find(finished_store, "dedup")
    ended = dcgan("show", f"dedup/{manifest.fingerprint[:5]}", root=finished_store.root)
    heading, _, text = ended.out.partition("\n")
    assert str(manifest.address) in heading
    shown = json.loads(text)
    assert shown["config"] == {
        "radius": 20,
        "verify": 0.86,
        "verify_step": 0.015,
        "diameter": None,
        "rank": ["score", "sharpness", "side"],
    }
    assert shown["inputs"]["codes"]["fingerprint"] == manifest.inputs["codes"].fingerprint
    assert shown["counts"] == manifest.counts


def test_verification_passes_sound_artifacts_and_names_a_damaged_file(
    dcgan: Dcgan, finished_store: Store
) -> None:
    ended = dcgan("verify", root=finished_store.root)
    assert (ended.code, ended.out.count("sound"), ended.err.count("damaged")) == (0, 14, 0)
    shards = find(finished_store, "shards")
    path = finished_store.local_path(shards.address.part_path("train-00000.tar"))
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    for which in ("all", "shards", str(shards.address)):
        ended = dcgan("verify", which)
        assert ended.code == 1
        assert str(path) in ended.err
        assert f"sound   {shards.address}" not in ended.out
    assert dcgan("verify", "crops").code == 0


def test_a_damaged_manifest_is_named_and_can_be_cleared_away(dcgan: Dcgan, finished_store: Store) -> None:
    finished_store.write_bytes("artifacts/crops/feed/manifest.json", b"{")
    ended = dcgan("verify", root=finished_store.root)
    assert ended.code == 1
    assert "crops/feed/manifest.json cannot be read" in ended.err
    dcgan("gc", "--keep", "1", "--unfinished", "--yes")
    assert dcgan("verify").code == 0


def test_an_artifact_is_deleted_only_when_one_says_so(
    dcgan: Dcgan, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = find(finished_store, "figures").address
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", nothing)
        assert dcgan("rm", str(address), root=finished_store.root).code != 0
    assert finished_store.exists(address.path)
    assert dcgan("rm", str(address), "-y").code == 0
    assert not finished_store.exists(address.path)


def test_collection_deletes_what_is_superseded_and_what_killed_writers_left(
    dcgan: Dcgan, finished_store: Store, tiny: Tiny
) -> None:
    dcgan("run", "dedup", *options(tiny), "-o", "dedup.radius=3", root=finished_store.root)
    kept = {stage.address for stage in load_pipeline(tiny.preset, tiny.overrides).stages}
    newer = {find(finished_store, kind).address for kind in ("links", "dedup", "gallery")}
    assert newer.isdisjoint(kept)
    finished_store.write_bytes("tmp/123-left", b"x" * 1000)
    finished_store.write_bytes("artifacts/crops/feed/parts/crops-00000.parquet", b"x")
    everything = dcgan("gc", "--keep", "2", "--yes")
    assert "freed 1.0 kB" in everything.out
    assert finished_store.exists("artifacts/crops/feed")
    # The older dedup is kept, because the newest shards were made from it.
    dcgan("gc", "--keep", "1", "--unfinished", "--yes")
    assert {manifest.address for manifest in all_manifests(finished_store)} == kept | newer
    assert not finished_store.exists("artifacts/crops/feed")
    dcgan("gc", "--keep", "0", "--yes")
    assert all_manifests(finished_store) == []


def test_samples_are_drawn_as_a_grid_or_one_by_one(
    dcgan: Dcgan, finished_store: Store, tmp_path: Path
) -> None:
    train = find(finished_store, "train")
    assert dcgan("sample", "train", "--n", "4", root=finished_store.root).code == 0
    grid = decode_rgb((tmp_path / "samples.png").read_bytes(), max_pixels=10**6)
    assert grid.shape == (38, 38, 3)
    for model in (str(train.address), finished_store.uri(train.address.path)):
        ended = dcgan("sample", model, "--n", "2", "--seed", "5", "--ema", "--each", "--to", "drawn")
        assert ended.code == 0
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["seed5-00000.png", "seed5-00001.png"]
    one = decode_rgb((tmp_path / "drawn" / names[0]).read_bytes(), max_pixels=10**6)
    assert one.shape == (16, 16, 3)


def test_it_says_what_it_draws_from_and_takes_the_average_unless_told_otherwise(
    dcgan: Dcgan, finished_store: Store, tmp_path: Path
) -> None:
    train = find(finished_store, "train").address
    parts = finished_store.local_path(train.part_path(""))
    drawn = {}
    for name, words in {
        "default": ["train"],
        "ema": ["train", "--ema", "--device", "cpu"],
        "plain": [str(train), "--plain"],
        "file": [str(parts / "ema.safetensors")],
        "checkpoint": [str(parts / "checkpoints" / "step-00000008"), "--plain"],
    }.items():
        ended = dcgan("sample", *words, "--n", "4", "--to", f"{name}.png", root=finished_store.root)
        assert ended.code == 0, ended.err
        assert f"4 images in {name}.png" in ended.out
        drawn[name] = ended.out, decode_rgb((tmp_path / f"{name}.png").read_bytes(), max_pixels=10**6)
    assert f"drawn from {train} (paper64, 16 px), moving average of G, seed 0, cpu" in drawn["default"][0]
    assert "G as trained" in drawn["plain"][0]
    assert "the file's own weights" in drawn["file"][0]
    pixels = {name: picture.astype(int) for name, (_, picture) in drawn.items()}
    for name in ("ema", "file"):
        assert (pixels[name] == pixels["default"]).all()
    assert (pixels["plain"] != pixels["default"]).any()
    # The last checkpoint is the end of the run; only the batches its statistics come from are others.
    assert 0 < abs(pixels["checkpoint"] - pixels["plain"]).mean() < 3


def test_many_images_are_written_one_by_one_and_a_grid_has_the_columns_asked_for(
    dcgan: Dcgan, finished_store: Store, tmp_path: Path
) -> None:
    few = ("sample", "train", "--each", "--seed", "3")
    assert dcgan(*few, "--n", "3", "--to", "few", root=finished_store.root).code == 0
    assert dcgan(*few, "--n", "7", "--batch-size", "2", "--to", "more").code == 0
    names = sorted(path.name for path in (tmp_path / "more").iterdir())
    assert names == [f"seed3-{index:05d}.png" for index in range(7)]
    for name in names[:3]:
        one, other = (
            decode_rgb((tmp_path / folder / name).read_bytes(), max_pixels=10**6).astype(int)
            for folder in ("few", "more")
        )
        assert abs(one - other).max() <= 1
    assert dcgan("sample", "train", "--n", "3", "--columns", "1", "--to", "new/tall.png").code == 0
    tall = decode_rgb((tmp_path / "new" / "tall.png").read_bytes(), max_pixels=10**6)
    assert tall.shape == (3 * 18 + 2, 20, 3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere/ema.safetensors"], "there is nothing at 'nowhere/ema.safetensors'"),
        (["nowhere"], "there is no artifact 'nowhere'"),
        (["nowhere"], "nor is there a folder or file of that name"),
        (["empty"], "empty holds no model.json; give the folder of a train artifact"),
        (["crops"], "is not a trained model"),
        (["notes.txt"], "is not a safetensors file"),
        (["PARTS/discriminator.safetensors"], "holds a discriminator, which draws nothing"),
        (["PARTS/checkpoints/step-00000008/ema.safetensors"], "belongs to a checkpoint"),
        (["PARTS/ema.safetensors", "--ema"], "leave --ema out"),
        (["train", "--device", "tpu"], "choose auto, cpu or cuda"),
        (["train", "--device", "cuda:99"], "--device cuda:99: torch finds"),
        (["train", "--each", "--columns", "3"], "--columns is of a grid"),
        (["train", "--to", "empty"], "empty is a directory"),
    ],
)
def test_what_cannot_be_drawn_is_named_with_what_to_do(
    words: list[str], complaint: str, dcgan: Dcgan, finished_store: Store, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not weights at all")
    parts = finished_store.uri(find(finished_store, "train").address.part_path("")).rstrip("/")
    words = [word.replace("PARTS", parts) for word in words]
    ended = dcgan("sample", *words, root=finished_store.root)
    assert ended.code == 2
    assert complaint in ended.err
    assert not (tmp_path / "samples.png").exists()


def test_a_place_that_cannot_be_written_is_named(dcgan: Dcgan, finished_store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for words in (["sample", "train"], ["sample", "train", "--each"], ["export", "train"]):
        ended = dcgan(*words, "--to", "file/below/x", root=finished_store.root)
        assert ended.code == 1, ended.err
        assert "StorageUnusable: cannot write" in ended.err
        assert "--to" in ended.err


def test_a_model_is_exported_and_what_was_checked_is_said(
    dcgan: Dcgan, finished_store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    ended = dcgan("export", "train", "--to", "graphs", root=finished_store.root)
    assert ended.code == 0, ended.err
    assert re.search(
        r"checked  generator\.onnx against torch: (differs by .+ at most|no difference)", ended.out
    )
    assert "moving average of G" in ended.out
    assert {path.name for path in (tmp_path / "graphs").iterdir()} == {
        "generator.onnx",
        "discriminator.onnx",
        "export.json",
    }
    again = dcgan("export", "train", "--to", "graphs")
    assert (again.code, "is there already" in again.err) == (2, True)
    wrong = dcgan("export", "train", "--to", "x", "--format", "onyx")
    assert (wrong.code, "choose onnx or huggingface" in wrong.err) == (2, True)
    folder = dcgan("export", "train", "--to", "hub", "--format", "huggingface", "--plain")
    assert folder.code == 0, folder.err
    assert "hub/README.md" in folder.out
    assert dcgan("sample", "hub", "--n", "1").code == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["run", "scrape"], "ConfigError: scrape.path is empty"),
        (["run", "paint", "-o", "scrape.path=/tmp"], "ConfigError: there is no stage 'paint'"),
        (["run", "-p", "face64"], "did you mean 'faces64'?"),
        (["run", "-o", "train.step=3"], "did you mean 'train.steps'?"),
        (["run", "-o", "train.steps=no"], "train.steps: Input should be a valid integer"),
        (["run", "-o", "train.steps"], "write key=value"),
        (["run", "scrape", "-o", "scrape.path=/no/such/place"], "there is nothing at '/no/such/place'"),
        (["show", "train"], "there is no artifact 'train'"),
        (["verify", "crops/12"], "there is no artifact 'crops/12'"),
        (["sample", "train"], "there is no artifact 'train'"),
        (["list", "everything"], "choose presets, stages, artifacts or keys"),
    ],
)
def test_a_wrong_command_ends_with_code_2_and_a_sentence(
    words: list[str], complaint: str, dcgan: Dcgan
) -> None:
    ended = dcgan(*words)
    assert ended.code == 2
    assert complaint in ended.err
    assert "Traceback" not in ended.err


def test_what_fails_in_the_work_ends_with_code_1_and_a_sentence(
    dcgan: Dcgan, tiny: Tiny, tmp_path: Path
) -> None:
    missing = dcgan("run", "crop", *options(tiny))
    assert missing.code == 1
    assert missing.err.lstrip().startswith("MissingArtifact: crop needs photos/")
    assert "dcgan run scrape --preset faces64" in missing.err
    (tmp_path / "file").write_bytes(b"x")
    unusable = dcgan("run", "scrape", *options(tiny), root=str(tmp_path / "file"))
    assert unusable.code == 1
    assert "Set DCGAN_ROOT to a directory" in unusable.err


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        (tmp_path / "list.txt").write_text(f"http://127.0.0.1:{silent.getsockname()[1]}/photo.jpg\n")
        settings = {
            "source": "urls",
            "path": "list.txt",
            "contact": "a@example.org",
            "allow_loopback": "true",
        }
        words = [word for key, value in settings.items() for word in ("-o", f"scrape.{key}={value}")]
        command = subprocess.Popen(
            [sys.executable, "-m", "dcgan_core", "run", "scrape", *words],
            cwd=tmp_path,
            env={**os.environ, "DCGAN_ROOT": str(tmp_path / "root")},
            stderr=subprocess.PIPE,
            text=True,
            # Where the tests themselves run in the background, Ctrl-C is ignored, and children inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)  # the request is under way
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "run the same command again to go on" in said
    assert "Traceback" not in said


WITHOUT = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("prefect", "ray", "mlflow"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    from dcgan_core.cli import main
    main()
"""


def test_it_works_where_neither_prefect_nor_ray_is_installed(finished_store: Store, tiny: Tiny) -> None:
    """A real run with work to do, in an interpreter that cannot import either."""
    shards = find(finished_store, "shards").address
    finished_store.delete(shards.path)
    environment = {**os.environ, "DCGAN_ROOT": finished_store.root, "DCGAN_SLOTS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT), "run", "all", *options(tiny)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^shards +\w+ +done", ended.stdout, re.MULTILINE)
    assert ended.stdout.count("cached") == 13


def test_forget_says_what_it_removed_and_the_next_run_makes_it_again(
    dcgan: Dcgan, finished_store: Store, tiny: Tiny
) -> None:
    root = finished_store.root
    refused = dcgan("forget", root=root)
    assert refused.code == 2
    assert "say what to forget: --url" in refused.err
    assert "there is no such file" in dcgan("forget", "--file", "absent.jpg", "--yes").err
    assert "is no sha256" in dcgan("forget", "--sha256", "123", "--yes").err
    ended = dcgan("forget", "--file", str(tiny.photos / "face-07.jpg"), "--yes")
    assert ended.code == 0
    assert "1 photos found" in ended.out
    for word in (
        "cleaned  photos/",
        "cleaned  crops/",
        "deleted  shards/",
        "deleted  report/",
        "flagged  train/",
    ):
        assert word in ended.out, word
    assert "trained on 1 photos forgotten since" in dcgan("list").out
    options = [word for key, value in tiny.overrides.items() for word in ("-o", f"{key}={json.dumps(value)}")]
    plan = dcgan("run", "all", "--plan", *options)
    assert "exclusions: the list has changed" in plan.out or "would run" in plan.out
    assert dcgan("run", "dedup", *options).code == 0


def test_attribution_is_a_table_of_what_was_kept(dcgan: Dcgan, finished_store: Store, tmp_path: Path) -> None:
    ended = dcgan("attribution", "--to", "out/whose.csv", root=finished_store.root)
    assert ended.code == 0
    lines = (tmp_path / "out" / "whose.csv").read_text().splitlines()
    assert lines[0].startswith("photo_key,crops,url,page_url,artist,credit,licence")
    assert f"{len(lines) - 1} photos in out/whose.csv" in ended.out
    wrong = dcgan("attribution", "train")
    assert wrong.code == 2
    assert "attribution is of shards, crops or photos" in wrong.err
