"""A configuration is read once, wrong ones are refused by name, and only what matters has an identity."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.config import config_keys, describe, load_config, parse_override, preset_names
from dcgan_core.errors import ConfigError

EFFORT_FIELDS = {
    "evaluate.inception_weights",
    "scrape.path",
    "scrape.download",
    "scrape.contact",
    "scrape.allow_loopback",
    "scrape.addresses",
    "scrape.dbpedia_url",
    "scrape.row_cap",
    "scrape.commons_url",
    "scrape.breaker_failures",
    "scrape.breaker_pause_seconds",
    "scrape.retry_failed",
    "scrape.concurrency",
    "scrape.per_host",
    "scrape.timeout_seconds",
    "scrape.retries",
    "scrape.retry_base_seconds",
    "scrape.max_failure_rate",
    "scrape.max_shrink",
    "crop.weights",
    "crop.photo_seconds",
    "dedup.codes_per_task",
    "shard.samples_per_task",
    "evaluate.root",
    "evaluate.download",
    "train.data",
    "train.data_threads",
    "train.max_bad",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.cuda_graphs",
    "train.compile",
}


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads(preset: str) -> None:
    config = load_config(preset, {"scrape.contact": "somebody@example.org"})
    assert load_config(preset, {"scrape.contact": "somebody@example.org"}) == config


def test_overrides_win_over_the_preset_and_the_preset_over_the_defaults() -> None:
    assert load_config("faces64").train.batch_size == 128
    assert load_config("svhn32").train.batch_size == 64
    assert load_config("svhn32", {"train.batch_size": 3}).train.batch_size == 3


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("train.step", "train.steps"),
        ("trian.steps", "train.steps"),
        ("steps", "train.steps"),
        ("dedup.treshold", "dedup.threshold"),
        ("sead", "seed"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"no key '{wrong}'; did you mean '{meant}'"):
        load_config("faces64", {wrong: 1})


def test_a_key_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match="no key 'qqqqqq'; dcgan list keys"):
        load_config("faces64", {"qqqqqq": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", "many"),
        ("train.steps", 0),
        ("train.beta1", 1.5),
        ("train.learning_rate", math.inf),
        ("train.learning_rate", math.nan),
        ("crop.method", "guess"),
        ("crop.jpeg_quality", 101),
        ("dedup.code_bits", 100),
        ("shard.size", 48),
        ("scrape.as_of", "someday"),
        ("scrape.retries", -1),
        ("seed", -1),
        ("evaluate.sets", ["digits", "digits"]),
        ("evaluate.sets", ["unheard-of"]),
        ("evaluate.svm_c", []),
        ("evaluate.knn_k", []),
        ("evaluate.baselines", ["pixels", "pixels"]),
        ("evaluate.quality", ["pixels", "memorisation", "pixels"]),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("faces64", {key: value})
    assert key in str(caught.value)


def test_a_list_of_urls_needs_a_contact() -> None:
    with pytest.raises(ConfigError, match=r"scrape\.contact is empty"):
        load_config("faces64", {"scrape.source": "urls", "scrape.path": "list.txt"})
    for contact in ("nobody", "a@b.org\nX-Other: header", "é@example.org"):
        with pytest.raises(ConfigError, match=r"scrape\.contact"):
            load_config("faces64", {"scrape.source": "search", "scrape.contact": contact})


def test_an_unknown_preset_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="no preset 'face64'; did you mean 'faces64'"):
        load_config("face64")


def test_a_toml_file_of_the_users_own_is_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('seed = 5\n[train]\nsteps = 7\n[scrape]\npath = "/photos"\n')
    config = load_config(str(file), {"train.batch_size": 4})
    assert (config.seed, config.train.steps, config.train.batch_size) == (5, 7, 4)
    assert config.scrape.path == "/photos"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[train]\nsteps = = 7", "not valid TOML"),
        ("[train]\nstepps = 7", r"mine\.toml.*did you mean 'train\.steps'"),
        ("train = 5", "no key 'train'"),
        ("[trane]\nsteps = 7", "no key 'trane'"),
    ],
)
def test_a_wrong_toml_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_config(str(file))


def test_a_toml_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.steps=200", "train.steps", 200),
        ("train.learning_rate = 5e-4", "train.learning_rate", 5e-4),
        ("scrape.path=/data/my photos=2", "scrape.path", "/data/my photos=2"),
        ('scrape.path="2024"', "scrape.path", "2024"),
        ("scrape.as_of=2024-05-06", "scrape.as_of", datetime.date(2024, 5, 6)),
        ("evaluate.sets=['digits', 'lfw']", "evaluate.sets", ["digits", "lfw"]),
        ("scrape.allow_loopback=true", "scrape.allow_loopback", True),
        ("crop.method=center", "crop.method", "center"),
        ("scrape.path=", "scrape.path", ""),
    ],
)
def test_overrides_of_the_command_line_are_toml_or_plain_text(text: str, key: str, value: Any) -> None:
    assert parse_override(text) == (key, value)


def test_an_override_without_an_equals_sign_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match=r"-o train\.steps=200"):
        parse_override("train.steps")


@pytest.mark.parametrize("text", ['evaluate.sets=[{"name": "digits"}]', "evaluate.baselines=[pixels, knn]"])
def test_a_list_that_is_not_toml_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r'not valid TOML .* -o \'evaluate\.sets=\["digits", \{name = '):
        parse_override(text)


def test_dates_mean_the_same_as_text_and_as_dates() -> None:
    as_text = load_config("faces64", {"scrape.as_of": "2024-05-06"})
    assert as_text == load_config("faces64", {"scrape.as_of": datetime.date(2024, 5, 6)})


@pytest.mark.parametrize("key", config_keys())
def test_every_key_is_described(key: str) -> None:
    assert len(describe(key)) > 10


def test_effort_and_places_are_outside_the_identity_and_everything_else_is_inside() -> None:
    config = load_config("faces64")
    outside = set()
    for key in config_keys():
        section, _, field = key.rpartition(".")
        if section and field not in getattr(config, section).identity():
            outside.add(key)
    assert outside == EFFORT_FIELDS


def test_an_identity_can_be_cut_down_to_some_fields() -> None:
    shard = load_config("faces64").shard
    assert shard.identity("size", "fit") == {"size": 64, "fit": "resize"}


def test_sections_cannot_be_changed_after_the_fact() -> None:
    config = load_config("faces64")
    with pytest.raises(ValueError, match="frozen"):
        config.train.steps = 3  # pyright: ignore[reportAttributeAccessIssue]
