"""Presets hold only differences and fit their own nets; tests/flows/test_parameters.py: flows offer all."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest

from dcgan_core.config import PipelineConfig, Section, load_config, preset_names
from dcgan_core.models.specs import net_spec

CONTACT = {"scrape.contact": "somebody@example.org"}


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_holds_only_differences_from_the_defaults(preset: str) -> None:
    text = (resources.files("dcgan_core") / "presets" / f"{preset}.toml").read_text("utf-8")
    defaults, config = PipelineConfig(), load_config(preset, CONTACT)
    repeated = []
    for name, section in tomllib.loads(text).items():
        default: Any = getattr(defaults, name)
        chosen: Any = getattr(config, name)
        if not isinstance(default, Section):
            repeated += [name] if chosen == default else []
        else:
            repeated += [f"{name}.{key}" for key in section if getattr(chosen, key) == getattr(default, key)]
    # Every preset names its net: whoever reads it should see it.
    assert [key for key in repeated if key != "train.net"] == []


@pytest.mark.parametrize("preset", preset_names())
def test_the_net_of_a_preset_draws_what_its_shards_hold(preset: str) -> None:
    config = load_config(preset, CONTACT)
    spec = net_spec(config.train.net, size=config.train.size, width=config.train.width)
    assert spec.size == config.shard.size <= config.crop.stored_size


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_begins_with_a_line_that_says_what_it_is(preset: str) -> None:
    text = (resources.files("dcgan_core") / "presets" / f"{preset}.toml").read_text("utf-8")
    assert text.startswith("# ")
    assert len(text.partition("\n")[0]) > 20
