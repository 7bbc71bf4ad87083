"""A stage does what is missing and nothing else, whatever happened before."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from dcgan_core.artifacts import (
    Address,
    Manifest,
    Receipt,
    read_manifest,
    read_part,
    read_receipts,
    remove,
    write_manifest,
    write_part,
)
from dcgan_core.backend import LocalBackend
from dcgan_core.config import Json
from dcgan_core.errors import ClusterError, CorruptArtifact, MissingArtifact, NoUsableData
from dcgan_core.pipeline import load_pipeline
from dcgan_core.planned import why_it_would_run, why_not_current
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary, is_current, run
from dcgan_core.storage import Store
from tests.conftest import Tiny

HERE = LocalBackend(1)


class OnPurpose(Exception):
    """A crash in the middle of a stage."""


@dataclass(frozen=True)
class Words(Stage):
    """A part per word: its letters, upper or lower case. Notes what it did in ``done``."""

    artifact: ClassVar[str] = "words"
    flow: ClassVar[str] = "words"
    version: ClassVar[int] = 1

    words: Sequence[str] = ()
    case: str = "upper"
    crash_at: str | None = None
    done: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Json]:
        return {"case": self.case}

    def source(self) -> dict[str, Json]:
        return {"words": list(self.words)}

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(index, self.part_key(word), word) for index, word in enumerate(self.words)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        word: str = part.payload
        if word == self.crash_at:
            raise OnPurpose(word)
        self.done.append(word)
        progress(1, 2, f"spelling {word}")
        text = word.upper() if self.case == "upper" else word.lower()
        file = write_part(store, self.address, f"word-{part.index:05d}.txt", text.encode())
        return Receipt(part=part.index, key=part.key, files=(file,), counts={"letters": len(word)})

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        assert not store.exists(f"{self.address.path}/manifest.json")
        assert len(read_receipts(store, self.address)) == len(self.words)
        letters = sum(receipt.counts["letters"] for receipt in receipts)
        if not letters:
            raise NoUsableData("words", {}, "Give longer words")
        return Summary({"letters": letters})


@dataclass(frozen=True)
class Sentence(Stage):
    """One part that joins the words."""

    artifact: ClassVar[str] = "sentence"
    flow: ClassVar[str] = "sentence"
    version: ClassVar[int] = 1

    done: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Json]:
        return {}

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(0, self.part_key(self.input_manifest(store, "words").content), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        manifest = self.input_manifest(store, "words")
        texts = [read_part(store, manifest.address, file) for file in manifest.named("word-")]
        self.done.append(b" ".join(texts).decode())
        file = write_part(store, self.address, "sentence.txt", b" ".join(texts))
        return Receipt(part=0, key=part.key, files=(file,))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary({})


def words(*words: str, case: str = "upper", crash_at: str | None = None, seed: int = 1) -> Words:
    return Words(seed, {}, "faces64", words, case, crash_at)


def sentence(of: Words) -> Sentence:
    return Sentence(1, {"words": of.address}, "faces64")


def made(stage: Stage, store: Store) -> Manifest:
    run(stage, store, HERE)
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return manifest


def texts(store: Store, manifest: Manifest) -> list[str]:
    return [read_part(store, manifest.address, file).decode() for file in manifest.named("word-")]


def test_a_stage_runs_once(store: Store) -> None:
    first, again = words("one", "two"), words("one", "two")
    made_now = run(first, store, HERE)
    found = run(again, store, HERE)
    assert (made_now.cached, found.cached) == (False, True)
    assert made_now.address == found.address
    assert first.done == ["one", "two"]
    assert again.done == []


def test_after_a_crash_only_the_missing_parts_are_done(store: Store) -> None:
    crashing, again = words("one", "two", "three", crash_at="two"), words("one", "two", "three")
    with pytest.raises(OnPurpose):
        run(crashing, store, HERE)
    assert is_current(again, store) is None
    assert made(again, store).counts == {"letters": 11}
    assert (crashing.done, again.done) == (["one"], ["two", "three"])


def test_the_manifest_is_written_last_and_not_when_finishing_fails(store: Store) -> None:
    empty = words("", "")
    for _ in range(2):
        with pytest.raises(NoUsableData):
            run(empty, store, HERE)
        assert read_manifest(store, empty.address) is None
    assert empty.done == ["", ""]  # the parts themselves were done and kept


def test_the_address_depends_on_settings_source_seed_and_version_alone() -> None:
    @dataclass(frozen=True)
    class NextWords(Words):
        version: ClassVar[int] = 2

    first = words("one")
    assert first.address == words("one", crash_at="never").address
    assert Words(1, {}, "demo", ("one",)).address == first.address
    others = [
        words("two"),
        words("one", case="lower"),
        words("one", seed=2),
        NextWords(1, {}, "faces64", ("one",)),
    ]
    assert len({first.address, *(other.address for other in others)}) == 5


def test_an_edition_takes_over_unchanged_parts_under_their_new_numbers(store: Store) -> None:
    old = made(words("one", "two", "three"), store)
    newer = words("zero", "one", "three")
    new = made(newer, store)
    assert newer.done == ["zero"]
    assert texts(store, new) == ["ZERO", "ONE", "THREE"]
    assert new.predecessor == old.fingerprint
    assert new.provenance["parts_reused"] == 2
    one_before, one_now = (
        store.local_path(manifest.address.part_path(name))
        for manifest, name in ((old, "word-00000.txt"), (new, "word-00001.txt"))
    )
    assert one_before.samefile(one_now)
    remove(store, old.address)
    assert texts(store, new) == ["ZERO", "ONE", "THREE"]


def test_an_edition_with_other_settings_or_another_seed_gives_nothing(store: Store) -> None:
    made(words("one", "two"), store)
    lower, reseeded = words("one", "two", case="lower"), words("one", "two", seed=2)
    assert texts(store, made(lower, store)) == ["one", "two"]
    made(reseeded, store)
    assert lower.done == reseeded.done == ["one", "two"]


def test_a_part_that_an_edition_has_lost_is_done_again(store: Store) -> None:
    old = made(words("one", "two"), store)
    store.delete(old.address.part_path("word-00000.txt"))
    newer = words("zero", "one", "two")
    assert texts(store, made(newer, store)) == ["ZERO", "ONE", "TWO"]
    assert newer.done == ["zero", "one"]


def test_refresh_does_every_part_anew(store: Store) -> None:
    first, again = words("one", "two"), words("one", "two")
    content = made(first, store).content
    store.write_bytes(f"{first.address.path}/parts/rubbish", b"x")
    assert not run(again, store, HERE, refresh=True).cached
    assert again.done == ["one", "two"]
    assert not store.exists(f"{first.address.path}/parts/rubbish")
    assert made(again, store).content == content


def test_a_refresh_that_gives_the_same_bytes_leaves_dependants_alone(store: Store) -> None:
    source = words("one", "two")
    run(source, store, HERE)
    made(sentence(source), store)
    run(source, store, HERE, refresh=True)
    assert run(sentence(source), store, HERE).cached


def test_an_input_whose_bytes_changed_makes_its_dependants_run_again(store: Store) -> None:
    source = words("one", "two")
    run(source, store, HERE)
    first = sentence(source)
    made(first, store)
    change_the_bytes(store, source.address)
    again = sentence(source)
    assert is_current(again, store) is None
    assert not run(again, store, HERE).cached
    assert (first.done, again.done) == (["ONE TWO"], ["changed TWO"])


def test_a_receipt_of_other_inputs_is_not_taken_for_this_one(store: Store) -> None:
    source = words("one", "two")
    run(source, store, HERE)
    made(sentence(source), store)
    store.delete(f"{sentence(source).address.path}/manifest.json")  # killed before the manifest was written
    change_the_bytes(store, source.address)
    again = sentence(source)
    made(again, store)
    assert again.done == ["changed TWO"]


def test_an_input_that_was_removed_leaves_what_was_made_from_it_current(store: Store) -> None:
    source = words("one")
    run(source, store, HERE)
    made(sentence(source), store)
    remove(store, source.address)
    assert run(sentence(source), store, HERE).cached


def test_a_missing_input_is_named_with_the_commands_that_make_it(store: Store) -> None:
    crops = load_pipeline("demo", upto="crop").of("crop")[0]
    with pytest.raises(MissingArtifact) as caught:
        run(crops, store, HERE)
    text = str(caught.value)
    assert f"crop needs photos/{crops.inputs['photos'].fingerprint}" in text
    assert "prefect deployment run scrape/default -p preset=demo" in text
    assert "dcgan run scrape --preset demo" in text


def test_a_damaged_manifest_of_ones_own_is_made_good_by_refresh(store: Store) -> None:
    stage = words("one")
    run(stage, store, HERE)
    store.write_bytes(f"{stage.address.path}/manifest.json", b"{")
    with pytest.raises(CorruptArtifact, match="--refresh"):
        run(stage, store, HERE)
    run(stage, store, HERE, refresh=True)
    assert run(stage, store, HERE).cached


def test_it_is_said_what_differs_from_the_nearest_artifact(store: Store) -> None:
    assert why_not_current(words("one"), store) == ["not made yet"]
    source = words("one")
    run(source, store, HERE)
    assert why_not_current(words("one", case="lower"), store) == ["words.case: upper -> lower"]
    assert why_not_current(words("two"), store) == ["source.words[0]: one -> two"]
    assert why_not_current(words("one", seed=2), store) == ["seed: 1 -> 2"]
    made(sentence(source), store)
    (why,) = why_not_current(sentence(words("two")), store)
    assert why == f"input words: {source.address.fingerprint} -> {words('two').address.fingerprint}"
    run(words("quite", "others", case="lower", seed=7), store, HERE)  # newer and further away
    assert why_not_current(words("one", case="lower"), store) == ["words.case: upper -> lower"]
    run(words("one", "two"), store, HERE)
    run(words("one", "six"), store, HERE)  # as near as the one before, and newer
    assert why_not_current(words("one", "ten"), store) == ["source.words[1]: six -> ten"]


def test_texts_that_differ_are_shown_where_they_differ(store: Store) -> None:
    many = [f"word{number}" for number in range(20)]
    run(words(*many), store, HERE)
    reasons = why_not_current(words(*(word.upper() for word in many)), store)
    assert len(reasons) == 9
    assert reasons[-1] == "and 12 more"
    long = "a" * 60
    run(words(long + "b"), store, HERE)
    (why,) = why_not_current(words(long + "c"), store)
    assert why == f"source.words[0]: ...{'a' * 10}b -> ...{'a' * 10}c"


def test_values_that_become_the_same_json_do_not_differ(store: Store) -> None:
    @dataclass(frozen=True)
    class Tuples(Words):
        def settings(self) -> dict[str, Json]:
            return {"case": self.case, "spec": {"layers": ({"width": 4}, {"width": 2})}}  # type: ignore[dict-item]

    first = Tuples(1, {}, "faces64", ("one", "two"))
    old = made(first, store)
    (why,) = why_not_current(Tuples(1, {}, "faces64", ("one", "two"), "lower"), store)
    assert why == "words.case: upper -> lower"
    newer = Tuples(1, {}, "faces64", ("zero", "one"))
    assert made(newer, store).predecessor == old.fingerprint
    assert newer.done == ["zero"]


def test_it_is_said_that_an_input_has_other_content(store: Store) -> None:
    source = words("one", "two")
    run(source, store, HERE)
    made(sentence(source), store)
    assert why_it_would_run(sentence(source), store) == []
    assert why_it_would_run(sentence(source), store, refresh=True) == ["--refresh"]
    change_the_bytes(store, source.address)
    assert why_it_would_run(sentence(source), store) == ["input words: its content has changed"]


def test_progress_begins_with_what_is_there_and_ends_with_all(store: Store) -> None:
    with pytest.raises(OnPurpose):
        run(words("one", "two", "three", crash_at="three"), store, HERE)
    seen: list[tuple[float, float, str]] = []
    run(words("one", "two", "three"), store, HERE, progress=lambda *report: seen.append(report))
    # Of the only part that is left one sees how far it is: it may take long.
    assert seen == [(2, 3, ""), (2.5, 3, "spelling three"), (3, 3, "")]


def test_progress_within_parts_is_not_taken_for_the_stages(store: Store) -> None:
    seen: list[tuple[float, float, str]] = []
    run(words("one", "two"), store, HERE, progress=lambda *report: seen.append(report))
    assert seen == [(0, 2, ""), (1, 2, ""), (2, 2, "")]
    seen.clear()
    run(words("alone"), store, HERE, progress=lambda *report: seen.append(report))
    assert (1, 2, "spelling alone") in seen


def test_several_processes_give_the_same_bytes_as_one(finished_store: Store, tiny: Tiny) -> None:
    crops = load_pipeline(tiny.preset, tiny.overrides, upto="crop").of("crop")[0]
    alone = read_manifest(finished_store, crops.address)
    assert alone is not None
    assert len(alone.parts) > 2
    run(crops, finished_store, LocalBackend(2), refresh=True)
    together = read_manifest(finished_store, crops.address)
    assert together is not None
    assert together.parts == alone.parts


def test_an_error_in_another_process_comes_out_as_it_was_raised(finished_store: Store, tiny: Tiny) -> None:
    crops = load_pipeline(tiny.preset, tiny.overrides, upto="crop").of("crop")[0]
    photos = read_manifest(finished_store, crops.inputs["photos"])
    assert photos is not None
    damaged = finished_store.local_path(photos.address.part_path(photos.named("photos-")[1].name))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact) as caught:
        run(crops, finished_store, LocalBackend(2), refresh=True)
    assert caught.value.path == str(damaged)


def test_killed_processes_are_said_to_be_killed_and_finished_parts_are_kept(
    finished_store: Store, tiny: Tiny
) -> None:
    # One part a photo, so that not all are done by the time the first is known to be.
    photos, crops = load_pipeline(tiny.preset, tiny.changed(scrape__items_per_part=1), upto="crop").stages
    run(photos, finished_store, HERE)
    parts = len(crops.plan(finished_store))

    def kill_them(done: float, total: float, note: str) -> None:
        for child in multiprocessing.active_children() if done else ():
            child.kill()

    with pytest.raises(ClusterError, match="DCGAN_SLOTS=1"):
        run(crops, finished_store, LocalBackend(2), refresh=True, progress=kill_them)
    kept = len(read_receipts(finished_store, crops.address))
    assert 0 < kept < parts
    assert not run(crops, finished_store, HERE).cached
    manifest = read_manifest(finished_store, crops.address)
    assert manifest is not None
    assert manifest.provenance["parts_done"] <= parts - kept  # an earlier edition may have given some more


def change_the_bytes(store: Store, address: Address) -> None:
    """What a refresh does whose source gave other bytes: the same address with other content."""
    manifest = read_manifest(store, address)
    assert manifest is not None
    file = write_part(store, address, "word-00000.txt", b"changed")
    first = manifest.parts[0].model_copy(update={"files": (file,)})
    write_manifest(store, manifest.model_copy(update={"parts": (first, *manifest.parts[1:])}))
