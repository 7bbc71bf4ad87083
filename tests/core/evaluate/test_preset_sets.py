"""Which labelled sets the presets are judged on, where these lie, and that a missing one is noticed first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dcgan_core import config as limits
from dcgan_core.artifacts import all_manifests
from dcgan_core.cli import app
from dcgan_core.config import EvaluateConfig, LabelledSet, ScrapeConfig, load_config
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate import contest
from dcgan_core.evaluate.scores import Scores
from dcgan_core.evaluate.stage import Features
from dcgan_core.images import encode_png
from dcgan_core.pipeline import Pipeline, load_pipeline
from dcgan_core.storage import Store
from tests.core.evaluate.test_set_files import write_set
from tests.core.scrape.test_image_sets import noise, write_cifar10, write_svhn


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A source of kind imagefolder."""
    folder = tmp_path / "imagenet"
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        (folder / name / "one.png").write_bytes(encode_png(noise(32, number, 32, 3)))
    return folder


def sets_of(pipeline: Pipeline) -> list[tuple[LabelledSet, ...]]:
    return [stage.config.sets for stage in pipeline.stages if isinstance(stage, Features | Scores)]


@pytest.mark.parametrize(
    ("preset", "kind", "protocol", "max_train", "max_test", "baselines"),
    [
        ("imagenet32", "cifar10", "cifar10", 50_000, 10_000, {"untrained", "pixels", "kmeans"}),
        ("cifar32", "cifar10", "cifar10", 50_000, 10_000, {"untrained", "pixels", "kmeans"}),
        ("svhn32", "svhn", "svhn", 73_257, 26_032, {"untrained", "pixels", "knn"}),
        ("mnist28", "mnist", "labelled", 60_000, 10_000, {"untrained", "pixels"}),
    ],
)
def test_the_papers_nets_are_judged_by_the_papers_protocols(
    preset: str, kind: str, protocol: str, max_train: int, max_test: int, baselines: set[str]
) -> None:
    config = load_config(preset).evaluate
    chosen, *more = config.sets
    assert [each.protocol for each in more] == (["mnist-nn"] if preset == "mnist28" else [])
    assert (chosen.kind, chosen.protocol) == (kind, protocol)
    assert (config.max_train, config.max_test) == (max_train, max_test)
    assert set(config.baselines) == baselines


@pytest.mark.parametrize(
    ("scrape", "of_all", "of_set", "root", "download"),
    [
        ({"source": "svhn", "path": "/of-scrape"}, {}, {}, "/of-scrape", False),
        ({"source": "svhn", "path": "/of-scrape", "download": True}, {}, {}, "/of-scrape", True),
        ({"source": "svhn", "path": "/of-scrape"}, {"download": True}, {}, "/of-scrape", True),
        ({"source": "svhn"}, {}, {}, ".", False),
        ({"source": "cifar10", "path": "/of-scrape", "download": True}, {}, {}, "", False),
        (
            {"source": "svhn", "path": "/of-scrape", "download": True},
            {"root": "/of-all"},
            {},
            "/of-all",
            False,
        ),
        ({"path": "/of-scrape"}, {"root": "/of-all", "download": True}, {}, "/of-all", True),
        ({"source": "svhn", "path": "/of-scrape"}, {"root": "/of-all"}, {"root": "/own"}, "/own", False),
        ({"source": "svhn", "path": "/of-scrape"}, {}, {"root": "/own", "download": True}, "/own", True),
    ],
)
def test_a_set_lies_where_it_says_or_where_all_do_or_where_it_was_scraped(
    scrape: dict[str, Any], of_all: dict[str, Any], of_set: dict[str, Any], root: str, download: bool
) -> None:
    spec = {"name": "mine", "kind": "svhn", **of_set}
    config = EvaluateConfig.model_validate({"sets": [spec, "digits"], **of_all})
    found, other = config.located(ScrapeConfig.model_validate(scrape)).sets
    assert (found.root, found.download) == (root, download)
    assert (other.root, other.download) == ("", False)


def test_svhn_is_judged_where_it_was_scraped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch, "train")
    with pytest.raises(ConfigError, match=r"no test_32x32\.mat; .*\(-o evaluate\.download=true\)"):
        load_pipeline("svhn32", {"scrape.path": str(tmp_path)})
    write_svhn(tmp_path, monkeypatch, "test")
    assert [each[0].root for each in sets_of(load_pipeline("svhn32", {"scrape.path": str(tmp_path)}))] == [
        str(tmp_path),
        str(tmp_path),
    ]


def test_where_a_set_lies_changes_no_address(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = []
    for name in ("one", "two"):
        write_cifar10(tmp_path / name, monkeypatch)
        roots = {"scrape.path": str(photos), "evaluate.root": str(tmp_path / name)}
        addresses.append([stage.address for stage in load_pipeline("imagenet32", roots).stages])
    assert addresses[0] == addresses[1]


def test_a_missing_set_ends_a_run_before_its_first_stage(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    monkeypatch.setenv("DCGAN_ROOT", str(root))
    ended = CliRunner().invoke(app, ["run", "all", "-p", "imagenet32", "-o", f"scrape.path={photos}"])
    assert isinstance(ended.exception, ConfigError)
    said = str(ended.exception)
    assert "labelled set cifar10: nothing says where CIFAR-10 lies" in said
    for way_out in ("-o evaluate.root=DIR", "-o evaluate.download=true", "-o evaluate.sets=[]"):
        assert way_out in said
    assert all_manifests(Store(str(root))) == []


def test_a_missing_set_is_nothing_to_those_who_do_not_evaluate(photos: Path) -> None:
    place = {"scrape.path": str(photos)}
    for upto in ("train", "analyze"):
        load_pipeline("imagenet32", place, upto=upto)
    assert sets_of(load_pipeline("imagenet32", {**place, "evaluate.sets": []})) == [(), ()]


def test_a_bare_name_of_torchvisions_needs_the_common_root_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set("fashion-mnist", tmp_path / "sets", monkeypatch)
    chosen = {
        "scrape.path": str(photos),
        "evaluate.root": str(tmp_path / "sets"),
        "evaluate.sets": ["fashion-mnist"],
    }
    assert load_pipeline("imagenet32", chosen).of("evaluate")


@pytest.mark.parametrize(
    ("kind", "protocol", "folds", "least"),
    [
        ("cifar10", "cifar10", 10, 40_000),
        ("cifar10", "cifar10", 2, 8_000),
        ("svhn", "svhn", 10, 11_000),
        ("parquet", "svhn", 10, 10_200),
    ],
)
def test_a_protocol_that_max_train_starves_is_refused_before_anything_is_trained(
    kind: str, protocol: str, folds: int, least: int
) -> None:
    values = {"sets": [{"name": "mine", "kind": kind, "protocol": protocol}], "folds": folds}
    with pytest.raises(ValueError, match=rf"labelled set mine: .* -o evaluate\.max_train={least}\b"):
        EvaluateConfig.model_validate({**values, "max_train": least - 1})
    assert EvaluateConfig.model_validate({**values, "max_train": least}).max_train == least


def test_what_is_refused_is_what_the_protocols_take() -> None:
    ours = (limits.CIFAR_LABELS, limits.SVHN_LABELS, limits.SVHN_VALIDATION)
    assert ours == (contest.CIFAR_LABELS, contest.SVHN_LABELS, contest.SVHN_VALIDATION)
