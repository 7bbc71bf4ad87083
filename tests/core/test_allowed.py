"""Parameters of a run read and import only what the operator's environment allows."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from dcgan_core.config import PipelineConfig, load_config, preset_names
from dcgan_core.errors import ConfigError, NotAllowed

LOCATIONS = {
    "scrape.path",
    "scrape.dbpedia_url",
    "scrape.commons_url",
    "crop.weights",
    "evaluate.root",
    "evaluate.inception_weights",
    "evaluate.sets.train",
    "evaluate.sets.test",
    "evaluate.sets.root",
}
NO_LOCATIONS = {
    "scrape.url_column",
    "scrape.caption_column",
    "scrape.image_column",
    "crop.weights_sha256",
    "evaluate.inception_weights_sha256",
    "evaluate.sets.name",
}
"""Settings whose descriptions speak of paths or urls, though their value is none."""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one directory that is allowed, beside one that is not; and a prefix in a bucket."""
    for name in ("photos", "secrets"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("DCGAN_ALLOWED_PATHS", f"{tmp_path / 'photos'}, s3://bucket/photos")
    return tmp_path / "photos"


def labelled(**where: str) -> list[dict[str, str]]:
    kind = "cifar10" if "root" in where else "parquet"
    return [{"name": "mine", "kind": kind, **where}]


def named(place: str) -> dict[str, Any]:
    """An override for each setting that names a file."""
    return {
        "scrape.path": place,
        "crop.weights": place,
        "evaluate.root": place,
        "evaluate.inception_weights": place,
        "evaluate.sets.train": labelled(train=place),
        "evaluate.sets.test": labelled(train="s3://bucket/photos/train", test=place),
        "evaluate.sets.root": labelled(root=place),
    }


@pytest.mark.parametrize("key", sorted(named("")))
def test_each_setting_that_names_a_file_is_held_to_the_allowed_places(key: str, photos: Path) -> None:
    setting = "evaluate.sets" if key.startswith("evaluate.sets") else key
    load_config("faces64", {setting: named(str(photos / "a"))[key]})
    secret = str(photos.parent / "secrets" / "key.pem")
    with pytest.raises(NotAllowed) as refused:
        load_config("faces64", {setting: named(secret)[key]})
    said = str(refused.value)
    assert re.sub(r"\[0\]", "", refused.value.key) == key
    assert all(words in said for words in (secret, str(photos), "s3://bucket/photos", "DCGAN_ALLOWED_PATHS"))


@pytest.mark.parametrize(
    "place",
    [
        "{photos}",
        "{photos}/",
        "{photos}/a/../b",
        "{photos}/shard-{{00000..00041}}.tar",
        "{photos}/*.tar",
        "file://{photos}/a.tar",
        "s3://bucket/photos",
        "s3://bucket/photos/",
        "s3a://bucket/photos/{{a,b}}.tar",
    ],
)
def test_what_is_below_an_allowed_place_is_allowed_however_it_is_written(place: str, photos: Path) -> None:
    load_config("faces64", {"scrape.path": place.format(photos=photos)})


@pytest.mark.parametrize(
    "place",
    [
        "/",
        "relative",
        "~/.ssh",
        "{photos}/..",
        "{photos}/../secrets",
        "{photos}-of-others",
        "{photos}/link",
        "{photos}/link/key.pem",
        "{photos}/l*",
        "{photos}/*/../../secrets/a.tar",
        "{photos}/{{a,../../secrets/b}}.tar",
        "{photos}/{{../../secrets/,b}}.tar",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "local:///etc/passwd",
        "local:/etc/passwd",
        "simplecache::/etc/passwd",
        "simplecache::file:///etc/passwd",
        "{photos}/a.zip::/etc/passwd",
        "zip://secret::s3://bucket/photos/a.zip",
        "zip:///etc/a.zip",
        "http://127.0.0.1:4200/api",
        "https://example.org/list.csv",
        "s3://bucket",
        "s3://bucket/photos-of-others",
        "s3://bucket/photos/../secrets",
        "s3://bucket/photos/%2e%2e/secrets",
        "s3://bucket/photos/{{a,../secrets/b}}.tar",
        "s3://other/photos",
    ],
)
def test_no_way_round_leads_out_of_the_allowed_places(
    place: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "link").symlink_to(photos.parent / "secrets")
    monkeypatch.chdir(photos.parent)
    with pytest.raises(NotAllowed, match=r"scrape\.path="):
        load_config("faces64", {"scrape.path": place.format(photos=photos)})


def test_paths_that_only_look_like_urls_are_refused_even_where_the_working_directory_is_allowed(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    load_config("faces64", {"scrape.path": "a"})
    for place in ("file:/etc/passwd", "local:/etc/passwd", "data:,x"):
        with pytest.raises(NotAllowed):
            load_config("faces64", {"scrape.path": place})


@pytest.mark.parametrize(
    ("key", "value", "allowing"),
    [
        ("scrape.commons_url", "https://wiki.example.org/w/api.php", "https://wiki.example.org"),
        ("scrape.dbpedia_url", "https://db.example.org/sparql", "https://db.example.org/sparql"),
        ("scrape.addresses", {"a.example.org": "10.0.0.1:80"}, "http://10.0.0.1:80"),
        ("scrape.allow_loopback", True, "http://localhost"),
    ],
)
def test_services_behind_the_door_are_reached_only_where_the_operator_names_them(
    key: str, value: Any, allowing: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAllowed, match=re.escape(key)):
        load_config("faces64", {key: value})
    monkeypatch.setenv("DCGAN_ALLOWED_PATHS", allowing)
    load_config("faces64", {key: value})


def test_a_preset_file_is_read_only_below_an_allowed_place(photos: Path) -> None:
    for folder in ("photos", "secrets"):
        (photos.parent / folder / "mine.toml").write_text("seed = 5\n")
    assert load_config(str(photos / "mine.toml")).seed == 5
    with pytest.raises(NotAllowed, match="preset="):
        load_config(str(photos.parent / "secrets" / "mine.toml"))
    with pytest.raises(NotAllowed, match="preset="):  # nor is it told whether there is one
        load_config("/etc/absent.toml")


def test_what_a_preset_file_names_is_looked_at_as_well(photos: Path) -> None:
    (photos / "mine.toml").write_text('[scrape]\npath = "/etc"\n')
    with pytest.raises(NotAllowed, match=r"scrape\.path='/etc'"):
        load_config(str(photos / "mine.toml"))


def test_a_list_without_entries_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCGAN_ALLOWED_PATHS", ",")
    with pytest.raises(NotAllowed, match="DCGAN_ALLOWED_PATHS is empty"):
        load_config("faces64", {"scrape.path": "/photos"})


@pytest.mark.parametrize("preset", preset_names())
def test_shipped_presets_need_no_allowance(preset: str, photos: Path) -> None:
    load_config(preset, {"scrape.contact": "somebody@example.org"})


def test_engines_are_imported_only_from_the_operators_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DCGAN_ENGINES", raising=False)
    with pytest.raises(NotAllowed, match=r"scrape\.engine='os:system'.*DCGAN_ENGINES is empty"):
        load_config("faces64", {"scrape.engine": "os:system"})
    monkeypatch.setenv("DCGAN_ENGINES", "mine:Engine, my_engines:Other")
    load_config("faces64", {"scrape.engine": "my_engines:Other"})
    with pytest.raises(NotAllowed, match="mine:Engine, my_engines:Other"):
        load_config("faces64", {"scrape.engine": "my_engines:Else"})


@pytest.mark.parametrize(
    "text", ["AWS_SECRET = = hunter2", "password hunter2", "a = 1\n[hunter2]\n[hunter2]\n", 'x = "hunter2']
)
def test_a_file_that_is_not_toml_is_not_quoted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML at ") as refused:
        load_config(str(file))
    assert "hunter2" not in str(refused.value)


def test_every_setting_that_speaks_of_paths_or_urls_is_marked_as_a_location() -> None:
    marked, speaking = set(), set()
    for key, field in _fields("", PipelineConfig):
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("location"):
            marked.add(key)
        text = (field.description or "").lower()
        may_hold_text = field.annotation in (str, str | None)
        if may_hold_text and re.search(r"\b(path|file|directory|folder|url|endpoint|api|where the)\b", text):
            speaking.add(key)
    assert marked == LOCATIONS
    assert speaking - marked == NO_LOCATIONS


def _fields(above: str, section: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        yield f"{above}{name}", field
        for each in _sections_in(field.annotation):
            yield from _fields(f"{above}{name}.", each)


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
    elif get_origin(annotation) is not None:
        for each in get_args(annotation):
            yield from _sections_in(each)
