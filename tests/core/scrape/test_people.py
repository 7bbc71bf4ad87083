"""Names come out of dirty data the same way every time, and nobody is lost without a word."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import load_config
from dcgan_core.errors import ConfigError, FetchError, NoUsableData
from dcgan_core.pipeline import build
from dcgan_core.scrape.names import best_name, readable_date, tidy_name
from dcgan_core.scrape.people import people_rows
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.web import dbpedia
from tests.web.server import Faults

EXAMPLE = "http://dbpedia.org/resource/"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Jane Example", "Jane Example"),
        ("  Jane   Example ", "Jane Example"),
        ("Example, Jane", "Jane Example"),
        ("Jane Example (actor)", "Jane Example"),
        ("Jane Example (actor) (born 1970)", "Jane Example"),
        ("King, Martin Luther", "Martin Luther King"),
        ("Sammy Davis, Jr.", "Sammy Davis Jr."),
        ("Diana, Princess of Wales", None),
        ('William "Bill" Quoted', "William Bill Quoted"),
        ("山田太郎", "山田太郎"),
        ("Мария Иванова", "Мария Иванова"),
        ("Björn O'Neil-Müller", "Björn O'Neil-Müller"),
        ("Cher", None),
        ("", None),
        ("(actor)", None),
        ("<script>alert(1)</script> x", None),
        ("http://a.org/ b", None),
        ("Jane\x00 Example", None),
        ("x" * 200 + " y", None),
        ("1 2", None),
    ],
)
def test_a_label_becomes_a_name_or_nothing(label: str, name: str | None) -> None:
    assert tidy_name(label) == name


SPELLINGS = ["Example, Jane", "Jane Example", "jane example", "Jane Q. Example", "山田太郎"]


@given(st.lists(st.sampled_from(SPELLINGS)))
def test_the_best_of_several_names_does_not_depend_on_their_order(labels: list[str]) -> None:
    assert best_name(labels) == best_name(reversed(labels)) == best_name(sorted(labels))


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("1970-01-09", "1970-01-09"),
        ("1970-01-09T00:00:00Z", "1970-01-09"),
        ("1970-02-31", None),
        ("1970-13-01", None),
        ("1970", None),
        ("-0044-03-15", None),
        ("0000-00-00", None),
    ],
)
def test_only_days_that_exist_count(text: str, day: str | None) -> None:
    assert readable_date(text) == day


def test_whoever_cannot_be_searched_for_has_a_reason() -> None:
    rows = people_rows(
        [
            (f"{EXAMPLE}A", "Jane Example", "1970-01-09"),
            (f"{EXAMPLE}A", "Example, Jane", "1970-01-09"),
            (f"{EXAMPLE}B", "Jane  EXAMPLE", "1970-02-01"),
            (f"{EXAMPLE}C", "Cher", "1970-02-01"),
            (f"{EXAMPLE}D", "Never Born", "1970-02-31"),
            (f"{EXAMPLE}E", "Born Twice", "1970-05-05"),
            (f"{EXAMPLE}E", "Born Twice", "1969-05-05"),
        ],
        1970,
        1971,
    )
    assert [(row["name"], row["birth"], row["status"]) for row in rows] == [
        ("Jane Example", "1970-01-09", "ok"),
        ("Jane EXAMPLE", "1970-02-01", "same_name"),
        (None, "1970-02-01", "no_name"),
        ("Never Born", None, "bad_date"),
        ("Born Twice", "1970-05-05", "ok"),
    ]


def config_of(double: dbpedia.DBpedia | None = None, **changes: Any) -> Any:
    keys: dict[str, Any] = {
        "source": "search",
        "contact": "test@example.org",
        "dbpedia_url": f"http://{dbpedia.HOST}/sparql",
        "born_from": 1970,
        "born_to": 1972,
        "retry_base_seconds": 0.01,
        **changes,
    }
    if double:
        keys["addresses"] = {dbpedia.HOST: f"127.0.0.1:{double.port}"}
    return load_config("faces64", {f"scrape.{key}": value for key, value in keys.items()})


def people_of(store: Store, config: Any) -> list[dict[str, Any]]:
    stage = build(config, "faces64", upto="scrape").stages[0]
    run(stage, store, LocalBackend(1))
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return read_all(store, manifest, "people-").to_pylist()


def test_windows_are_halved_until_no_answer_is_cut(tmp_path: Path) -> None:
    """Whatever the endpoint's cap, and though a quarter of all share one birthday, everybody is found."""
    people = dbpedia.sample_people(60)
    with dbpedia.DBpedia(people, row_cap=10_000) as whole:
        everybody = people_of(Store(str(tmp_path / "whole")), config_of(whole))
        assert len(whole.requests) == 3  # a year each
    with dbpedia.DBpedia(people, row_cap=30, faults=Faults(kinds=("500", "reset"))) as cut:
        found = people_of(Store(str(tmp_path / "cut")), config_of(cut, row_cap=30))
        assert len(cut.requests) > 8
    assert found == everybody
    assert Counter(row["status"] for row in found)["ok"] > 55
    assert all(row["person"] and len(row["key"]) == 16 for row in found)


def test_an_answer_cut_off_by_time_is_not_believed(store: Store, tmp_path: Path) -> None:
    people = dbpedia.sample_people(40)
    with dbpedia.DBpedia(people) as calm:
        everybody = people_of(Store(str(tmp_path / "calm")), config_of(calm))
    with dbpedia.DBpedia(people, times_out_above=40) as tired:
        assert people_of(store, config_of(tired)) == everybody
        answers = [each for each in tired.requests if each.status == 200]
        assert len(answers) > 3


def test_manners_towards_the_endpoint(store: Store) -> None:
    with dbpedia.DBpedia(dbpedia.sample_people(10)) as double:
        began = time.monotonic()
        people_of(store, config_of(double))
        assert double.most_at_once(dbpedia.HOST) == 1
        # Two a second, counted from the start: single arrivals may be late on a busy machine.
        requests = double.of(dbpedia.HOST)
        assert len(requests) > 2
        assert all(each.at - began >= 0.5 * n for n, each in enumerate(requests))
        assert {each.path.partition("?")[0] for each in double.requests} == {"/sparql"}


def test_an_endpoint_that_is_none_is_named(store: Store) -> None:
    from tests.web.photo_host import PhotoHost

    with PhotoHost() as double:
        config = config_of(None, addresses={dbpedia.HOST: f"127.0.0.1:{double.port}"}, retries=0)
        with pytest.raises(FetchError, match=r"dbpedia\.org answered HTTP 404"):
            people_of(store, config)


def test_a_plain_file_of_names_will_do(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# mine\nJane Example\nExample, Jane\n\nCher\nOmar Müller (actor)\n<b>\n", "utf-8-sig")
    rows = people_of(store, config_of(None, names_from="file", path=str(path)))
    assert [(row["name"], row["status"]) for row in rows] == [
        ("Jane Example", "ok"),
        ("Jane Example", "same_name"),
        ("Cher", "ok"),  # asked for by name
        ("Omar Müller", "ok"),
        (None, "no_name"),
    ]
    path.write_text("<b>\n")
    with pytest.raises(NoUsableData, match="1 no_name"):
        people_of(store, config_of(None, names_from="file", path=str(path)))
    with pytest.raises(ConfigError, match=r"scrape\.path is empty: name a text file"):
        people_of(store, config_of(None, names_from="file"))
