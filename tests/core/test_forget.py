"""A forgotten photo is in no artifact any more, and the next run makes the rest again without it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import FLAG, Manifest, all_manifests, find
from dcgan_core.attribution import write_attribution
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import ConfigError, CorruptArtifact, OutdatedArtifact
from dcgan_core.exclusions import PATH, Exclusion, exclude, read_exclusions
from dcgan_core.forget import forget
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import is_current, run
from dcgan_core.storage import Store, sha256_of_file
from dcgan_core.tables import read_all
from dcgan_core.verify import problems
from tests.conftest import Tiny, make_all

FACE = "face-07.jpg"
HOLDING = {"codes", "links", "dedup", "gallery", "shards", "quality", "figures", "report"}


def table(store: Store, kind: str) -> list[dict[str, Any]]:
    return read_all(store, find(store, kind), f"{kind}-").to_pylist()


def held_bytes(store: Store) -> bytes:
    """Every byte of every file under the root."""
    return b"\0".join(path.read_bytes() for path in sorted(Path(store.root).rglob("*")) if path.is_file())


def secrets_of(store: Store, name: str) -> list[bytes]:
    """What must be gone: the photo's bytes and its crops', and the training images made of these."""
    photo = next(row for row in table(store, "photos") if row["url"] == name)
    crops = [row for row in table(store, "crops") if row["photo_key"] == photo["key"] and row["image"]]
    assert crops
    found = [photo["image"], *(row["image"] for row in crops)]
    shards = find(store, "shards")
    keys = {row["key"] for row in crops}
    for file in shards.files:
        if file.name.endswith(".index.parquet"):
            tar = store.read_bytes(shards.address.part_path(file.name.replace(".index.parquet", ".tar")))
            index = read_all(store, shards, file.name).to_pylist()
            found += [tar[row["offset"] :][: row["size"]] for row in index if row["key"] in keys]
    return found


def pieces(data: bytes) -> list[bytes]:
    """Stretches of a JPEG behind its tables, where it is nobody else's."""
    pixels = data.rindex(b"\xff\xda") + 16
    return [data[start : start + 32] for start in range(pixels, len(data) - 32, 53)]


def damages(store: Store) -> list[str]:
    return [wrong for manifest in all_manifests(store) for _, wrong in problems(store, manifest) if wrong]


def by_kind(store: Store) -> dict[str, Manifest]:
    return {manifest.artifact: manifest for manifest in all_manifests(store)}


def test_no_byte_of_a_forgotten_photo_is_left_and_what_follows_is_made_again(
    finished_store: Store, tiny: Tiny
) -> None:
    store = finished_store
    digest = sha256_of_file(tiny.photos / FACE)
    secrets = secrets_of(store, FACE)
    before, all_before = by_kind(store), held_bytes(store)
    assert all(piece in all_before for secret in secrets for piece in pieces(secret)[:3])
    done = forget(store, [Exclusion("sha256", digest)])

    assert len(done.photos) == 1
    assert {address.artifact for address in done.cleaned} == {"photos", "crops"}
    assert {address.artifact for address, _ in done.deleted} == HOLDING
    left = held_bytes(store)
    assert not [piece for secret in secrets for piece in pieces(secret) if piece in left]
    assert not store.exists("report/index.html")
    assert damages(store) == []
    (row,) = [row for row in table(store, "photos") if row["key"] in done.photos]
    assert (row["status"], row["url"], row["sha256"], row["image"]) == ("excluded", None, None, None)
    after = by_kind(store)
    assert after["photos"].counts == {
        **before["photos"].counts,
        "ok": before["photos"].counts["ok"] - 1,
        "excluded": 1,
    }
    assert after["crops"].counts["ok"] == before["crops"].counts["ok"] - 1
    assert after["train"].metrics[FLAG] == 1
    assert {address.artifact for address, _ in done.flagged} >= {"train"}

    made = make_all(tiny, store)
    assert {name for name, artifact in made.items() if artifact.cached} == {"photos", "crops"}
    assert FLAG not in by_kind(store)["train"].metrics
    assert damages(store) == []
    again = held_bytes(store)
    assert not [piece for secret in secrets for piece in pieces(secret) if piece in again]
    assert all(artifact.cached for artifact in make_all(tiny, store).values())


def test_a_training_no_longer_names_a_photo_that_it_held_out(finished_store: Store, tiny: Tiny) -> None:
    store, held_out = finished_store, tiny.changed(train__held_out=0.4, train__steps=2)
    for stage in load_pipeline(tiny.preset, held_out, upto="train").stages:
        run(stage, store, LocalBackend(1))
    before = find(store, "train")
    rows = read_all(store, before, "held-out").to_pylist()
    key = rows[0]["photo_key"]
    (photo,) = [row for row in table(store, "photos") if row["key"] == key]
    done = forget(store, [Exclusion("url", photo["url"])])
    after = next(each for each in all_manifests(store, "train") if each.address == before.address)
    assert done.photos == {key}
    assert before.address in done.cleaned
    assert read_all(store, after, "held-out").to_pylist() == [row for row in rows if row["photo_key"] != key]
    assert (after.content, after.counts) == (before.content, before.counts)
    assert damages(store) == []
    again = forget(store, [Exclusion("url", photo["url"])])
    assert before.address not in again.cleaned


def test_a_cleaned_edition_is_what_a_fresh_run_under_the_list_makes(
    finished_store: Store, store: Store, tiny: Tiny
) -> None:
    digest = sha256_of_file(tiny.photos / FACE)
    done = forget(finished_store, [Exclusion("sha256", digest)])
    exclude(store, read_exclusions(finished_store).entries)
    for stage in load_pipeline(tiny.preset, tiny.overrides, upto="crop").stages:
        run(stage, store, LocalBackend(1))
    assert done.photos
    for kind in ("photos", "crops"):
        ours, fresh = by_kind(finished_store)[kind], by_kind(store)[kind]
        assert [part.key for part in ours.parts][: len(fresh.parts)] == [
            part.key for part in fresh.parts
        ] or (kind == "crops")
        assert ours.counts == fresh.counts
        rows = table(finished_store, kind)
        assert [row["key"] for row in rows] == [row["key"] for row in table(store, kind)]


def test_parts_that_held_nothing_of_it_are_not_done_again(finished_store: Store, tiny: Tiny) -> None:
    forget(finished_store, [Exclusion("url", FACE)])
    stages = load_pipeline(tiny.preset, tiny.overrides, upto="crop").stages
    for stage in stages:
        manifest = is_current(stage, finished_store)
        assert manifest is not None
        finished_store.delete(f"{stage.address.path}/manifest.json")  # plan anew, from receipts alone
        run(stage, finished_store, LocalBackend(1))
        planned = is_current(stage, finished_store)
        assert planned is not None
        assert planned.provenance["parts_done"] == 0
        assert planned.content == manifest.content


def test_shards_kept_of_a_remote_root_go_too(finished_store: Store, tmp_path: Path) -> None:
    cached = replace(finished_store, cache=str(tmp_path / "cache"), cache_bytes=10**9)
    shards = find(cached, "shards")
    for file in shards.files:
        (tmp_path / "cache").mkdir(exist_ok=True)
        data = cached.read_bytes(shards.address.part_path(file.name))
        (tmp_path / "cache" / file.sha256).write_bytes(data)
    (tmp_path / "cache" / ("0" * 64)).write_bytes(b"of another root")
    forget(cached, [Exclusion("url", FACE)])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["0" * 64]


def test_a_photo_that_nothing_was_made_of_costs_no_shard(finished_store: Store, tiny: Tiny) -> None:
    done = forget(finished_store, [Exclusion("url", "scene-01.jpg")])
    assert len(done.photos) == 1
    assert {address.artifact for address, _ in done.deleted} == {"gallery", "report"}
    assert done.flagged == []


def test_what_matches_nothing_is_only_put_on_the_list(finished_store: Store, tiny: Tiny) -> None:
    before = by_kind(finished_store)
    done = forget(finished_store, [Exclusion("artist", "Nobody  At All")])
    assert (done.photos, done.cleaned, done.deleted, done.flagged) == (set(), [], [], [])
    assert Exclusion("artist", "nobody at all") in read_exclusions(finished_store).entries
    assert {kind: manifest.content for kind, manifest in by_kind(finished_store).items()} == {
        kind: manifest.content for kind, manifest in before.items()
    }
    assert all(artifact.cached for artifact in make_all(tiny, finished_store).values())


def test_with_models_those_that_had_seen_it_go_too(finished_store: Store, tiny: Tiny) -> None:
    done = forget(finished_store, [Exclusion("url", FACE)], models=True)
    gone = {address.artifact for address, _ in done.deleted}
    assert gone >= {*HOLDING, "autoencoder", "train", "features", "scores"}
    assert by_kind(finished_store).keys() == {"photos", "crops"}


def test_a_list_written_by_hand_is_honoured_by_the_next_run(finished_store: Store, tiny: Tiny) -> None:
    exclude(finished_store, [Exclusion("url", FACE)])
    stages = {stage.artifact: stage for stage in load_pipeline(tiny.preset, tiny.overrides).stages}
    with pytest.raises(OutdatedArtifact, match="before the exclusion list changed; run: dcgan run crop"):
        run(stages["codes"], finished_store, LocalBackend(1))
    made = make_all(tiny, finished_store)
    assert not made["photos"].cached
    counts = by_kind(finished_store)["photos"].counts
    assert counts["excluded"] == 1
    assert by_kind(finished_store)["photos"].provenance["parts_done"] == 1


def test_forgetting_goes_on_after_a_kill(
    finished_store: Store, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of its writes in turn: asked again, it always ends the same."""
    import shutil

    from dcgan_core import storage

    class Killed(BaseException):
        pass

    asked = [Exclusion("url", FACE)]
    secrets = secrets_of(finished_store, FACE)
    pristine = Path(finished_store.root)
    kills = 0
    for at in range(1, 400, 2):
        root = pristine.with_name(f"killed-{at}")
        shutil.copytree(pristine, root)
        victim = Store(str(root))
        countdown = [at]
        commit, remove = storage.Store._commit, storage.Store.delete

        def counted(original: Any, countdown: list[int] = countdown) -> Any:
            def step(self: Store, *arguments: Any, **named: Any) -> Any:
                countdown[0] -= 1
                if countdown[0] == 0:
                    raise Killed
                return original(self, *arguments, **named)

            return step

        with monkeypatch.context() as patch:
            patch.setattr(storage.Store, "_commit", counted(commit))
            patch.setattr(storage.Store, "delete", counted(remove))
            try:
                forget(victim, asked)
            except Killed:
                kills += 1
        over = countdown[0] > 0
        forget(victim, asked)
        left = held_bytes(victim)
        assert not [piece for secret in secrets for piece in pieces(secret) if piece in left], at
        assert damages(victim) == [], at
        assert by_kind(victim).keys() == {"photos", "crops", "autoencoder", "train", "features", "scores"}, at
        assert by_kind(victim)["train"].metrics[FLAG] == 1, at
        shutil.rmtree(root)
        if over:
            break
    assert kills > 20


def test_what_is_no_exclusion_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be by 'colour'"):
        Exclusion("colour", "red")
    with pytest.raises(ConfigError, match="no sha256"):
        Exclusion("sha256", "abc")
    with pytest.raises(ConfigError, match="needs a value"):
        Exclusion("url", "  ")


def test_a_damaged_list_stops_everything_by_name(finished_store: Store, tiny: Tiny) -> None:
    finished_store.write_bytes(PATH, b'{"kind": "url", "value": "http://a/1"}\n{"kind": "url"}\n')
    with pytest.raises(CorruptArtifact, match=r"exclusions\.jsonl is damaged: line 2"):
        make_all(tiny, finished_store)


def test_attribution_names_the_photos_that_were_kept(finished_store: Store) -> None:
    text = io.StringIO()
    count = write_attribution(finished_store, "shards", text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    kept = find(finished_store, "shards").counts["samples"]
    assert len(rows) == count
    assert sum(int(row["crops"]) for row in rows) == kept
    assert all(row["url"].endswith(".jpg") and len(row["sha256"]) == 64 for row in rows)
    assert "name" not in rows[0]
    with pytest.raises(ConfigError, match="attribution is of shards, crops or photos"):
        write_attribution(finished_store, "train", text)
