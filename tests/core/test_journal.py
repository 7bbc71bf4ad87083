"""What is in the journal is there after a kill, and nothing half written is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcgan_core.journal import Journal
from dcgan_core.storage import Store

RECORDS = [
    ("a", {"status": "ok"}, b"body\nwith {lines}\n"),
    ("b", {"status": "gone"}, None),
    ("c", {}, b"x" * 5000),
]


def filled(store: Store, path: str = "j/1") -> Journal:
    journal = Journal(store, path)
    for key, record, body in RECORDS:
        journal.append(key, record, body)
    return journal


def read(store: Store, path: str = "j/1") -> dict[str, tuple[dict[str, object], bytes]]:
    journal = Journal(store, path)
    found = {key: (entry.record, journal.body(key)) for key, entry in journal.entries.items()}
    journal.close()
    return found


EXPECTED = {key: (record, body or b"") for key, record, body in RECORDS}


@pytest.fixture(params=["local", "object store"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root") if request.param == "local" else f"memory://{tmp_path.name}")


def test_records_come_back_after_closing_and_can_be_added_to(any_store: Store) -> None:
    journal = filled(any_store)
    assert journal.body("c") == b"x" * 5000
    journal.close()
    assert read(any_store) == EXPECTED
    journal = Journal(any_store, "j/1")
    journal.append("d", {"n": 1}, b"more")
    journal.append("a", {"status": "again"}, b"new")
    journal.close()
    assert read(any_store) == {**EXPECTED, "d": ({"n": 1}, b"more"), "a": ({"status": "again"}, b"new")}
    Journal(any_store, "j/1").delete()
    assert read(any_store) == {}


def test_on_local_disk_a_record_is_there_without_closing(store: Store) -> None:
    filled(store)  # its writer is never heard of again
    assert read(store) == EXPECTED


def test_a_journal_cut_anywhere_gives_its_whole_records_and_goes_on(store: Store) -> None:
    filled(store).close()
    path = store.local_path("j/1")
    whole = path.read_bytes()
    for length in [*range(120), *range(len(whole) - 40, len(whole))]:
        path.write_bytes(whole[:length])
        found = read(store)
        assert list(found) == list(EXPECTED)[: len(found)]
        assert all(EXPECTED[key] == value for key, value in found.items())
        journal = Journal(store, "j/1")
        journal.append("z", {}, b"after")
        journal.close()
        assert read(store) == {**found, "z": ({}, b"after")}


def test_an_object_store_gets_segments_not_an_object_a_record(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    journal = Journal(store, "j/2")
    for number in range(200):
        journal.append(str(number), {}, b"body")
    journal.close()
    assert len(store.names("j/2")) == 4
    assert len(read(store, "j/2")) == 200
