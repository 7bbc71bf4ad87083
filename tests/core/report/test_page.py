"""The report: what it shows of artifacts, what it never lets through, and that it asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dcgan_core import images
from dcgan_core.artifacts import SCHEMA, Address, InputRecord, Manifest, PartFile, Receipt, write_part
from dcgan_core.config import PipelineConfig, load_config
from dcgan_core.crop.stage import CROPS
from dcgan_core.dedup.stage import CODES, DEDUP
from dcgan_core.report.content import Confusion, Line
from dcgan_core.report.curves import POINTS_SHOWN, curves_svg
from dcgan_core.report.gather import gather
from dcgan_core.report.page import mistakes, render
from dcgan_core.scrape.stage import PHOTOS
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows

HOSTILE = "<script>alert('x')</script><img src=http://evil.test/a.png onerror=alert(1)>"
ACTIVE_ELEMENTS = {"script", "iframe", "object", "embed", "form", "input", "button", "audio", "video", "base"}
LOADING = {"src", "href", "srcset", "action", "poster", "data", "background", "formaction", "xlink:href"}


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def config() -> PipelineConfig:
    return load_config("demo")


@pytest.fixture
def manifests(store: Store) -> dict[str, Manifest]:
    """Twelve photos in two parts, ten crops of which four are near duplicates, a trained pair, scores."""
    made = [_photos(store), _crops(store), _codes(store), _dedup(store), _shards(store), _train(store)]
    made += [_scores(store, ["cat", HOSTILE]), _figures(store)]
    return {manifest.artifact: manifest for manifest in made}


def test_hostile_words_of_the_web_stay_words(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    page = render(gather(store, manifests, config, HOSTILE), artifacts="../artifacts")
    assert page.count("&lt;script&gt;") >= 4  # caption, reason, class, preset
    tags = {tag for tag, _ in Elements(page).found}
    assert not tags & ACTIVE_ELEMENTS
    assert "<script" not in page
    assert not [
        name for _, attributes in Elements(page).found for name in attributes if name.startswith("on")
    ]


def test_nothing_is_asked_of_the_network(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    page = render(gather(store, manifests, config, "demo"), artifacts="../artifacts")
    elements = Elements(page).found
    addresses = [value for _, attributes in elements for name, value in attributes.items() if name in LOADING]
    assert len(addresses) > 20
    assert all(address.startswith(("data:", "#", "../artifacts/")) for address in addresses)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


def test_same_artifacts_give_the_same_bytes(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    first, second = (
        render(gather(store, manifests, config, "demo"), artifacts="../artifacts") for _ in range(2)
    )
    assert first == second


def test_a_report_over_nothing_says_so(store: Store) -> None:
    content = gather(store, {}, PipelineConfig(), "none")
    page = render(content, artifacts="../artifacts")
    for words in (
        "No photos have been",
        "Nothing has been trained",
        "No figures",
        "were not judged",
    ):
        assert words in page
    assert content.finished is None


def test_labelled_sets_averages_and_duplicates_may_be_missing(
    store: Store, manifests: dict[str, Manifest]
) -> None:
    config = load_config("demo", {"evaluate.sets": [], "train.ema": 0.0})
    scores = _manifest("scores", [], {})
    dedup = manifests["dedup"].model_copy(
        update={"counts": {**manifests["dedup"].counts, "near_duplicates": 0, "groups_of_duplicates": 0}}
    )
    train = _train(store, ema=False)
    content = gather(store, {**manifests, "scores": scores, "dedup": dedup, "train": train}, config, "demo")
    page = render(content, artifacts="../artifacts")
    assert "No labelled set was named" in page
    assert "No moving average was kept" in page
    assert "No two crops were near enough" in page


def test_every_dropped_item_is_counted_with_its_reason(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    drops = {(drop.step, drop.status): drop for drop in gather(store, manifests, config, "demo").data.drops}
    assert drops["scrape", "http_error"].count == 2
    assert drops["scrape", "http_error"].reason == HOSTILE
    assert drops["crop", "no_face"].count == 2
    assert drops["crop", "no_face"].reason == "the detector found none"
    assert drops["dedup", "near_duplicate"].count == 4
    assert drops["scrape", "http_error"].share == pytest.approx(2 / 14)


def test_the_funnel_ends_at_the_training_set(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    funnel = gather(store, manifests, config, "demo").data.funnel
    assert [step.count for step in funnel] == [14, 12, 10, 6, 6]


def test_the_kept_crop_leads_its_group_and_the_widest_group_comes_first(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    groups = gather(store, manifests, config, "demo").data.groups
    assert len(groups) == 2
    assert all(group.members[0].kept and not any(m.kept for m in group.members[1:]) for group in groups)
    assert [member.distance_bits for member in groups[0].members] == [0, 4, 8]


def test_squares_are_framed_where_the_crop_was_taken(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    import base64

    photos = gather(store, manifests, config, "demo").data.photos
    assert len(photos) == 12
    framed = next(photo for photo in photos if "1 crop " in photo.picture.alt)
    data = base64.b64decode(framed.picture.uri.partition(",")[2])
    pixels = images.decode_rgb(data, max_pixels=10**6).astype(int)
    yellow = (pixels[..., 0] > 180) & (pixels[..., 2] < 120)
    rows, columns = np.flatnonzero(yellow.any(axis=1)), np.flatnonzero(yellow.any(axis=0))
    assert abs(rows[0] - 10) <= 1
    assert abs(columns[0] - 20) <= 1
    assert abs(columns[-1] - 59) <= 1


def test_changed_values_are_marked_and_secrets_of_urls_left_out(store: Store) -> None:
    overrides = {"scrape.path": "https://name:secret@host/list.csv", "train.steps": 7}
    settings = {s.key: s for s in gather(store, {}, load_config("demo", overrides), "demo").settings}
    assert settings["train.steps"].changed
    assert settings["train.steps"].value == "7"
    assert not settings["train.beta1"].changed
    assert settings["scrape.path"].value == "https://host/list.csv"
    assert len(settings) > 60


def test_honest_notes_stand_beside_the_scores(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    (scored,) = gather(store, manifests, config, "demo").scores
    text = " ".join(scored.notes)
    assert "very faces" in text  # the set is LFW, the photos are the demo's
    assert "one image of 50 is worth 2.0" in text
    assert "raw pixels overlap" in text
    assert "untrained discriminator overlap" not in text
    assert "not converged" not in text
    assert "had converged on: raw pixels" in text


def test_a_row_over_draws_has_its_deviation_and_what_was_chosen(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    (scored,) = gather(store, manifests, config, "demo").scores
    page = render(gather(store, manifests, config, "demo"), artifacts="../../..")
    line = next(line for line in page.splitlines() if "nearest neighbours, 10 labels per class" in line)
    assert "70.0 ± 3.2 %" in line
    assert "k = 3" in line
    assert '<td class="number"></td>' in line  # no width
    assert [row.chosen for row in scored.rows] == ["C = 0.1"] * 3 + ["k = 3"]


def test_artifacts_are_linked_with_those_they_came_from(
    store: Store, manifests: dict[str, Manifest], config: PipelineConfig
) -> None:
    features = _manifest("features", [], {})
    store.write_bytes(f"{features.address.path}/manifest.json", features.model_dump_json().encode())
    inputs = {"features": InputRecord(fingerprint=features.fingerprint, content="0")}
    scores = manifests["scores"].model_copy(update={"inputs": inputs})
    page = render(gather(store, {**manifests, "scores": scores}, config, "demo"), artifacts="../../..")
    for manifest in (*manifests.values(), features):
        assert f'href="../../../{manifest.artifact}/{manifest.fingerprint}/"' in page


def test_large_confusion_matrices_become_their_commonest_mistakes() -> None:
    counts = [[5, 1, 3], [0, 9, 0], [2, 0, 4]]
    confusion = Confusion("discriminator", ("a", "b", "c"), tuple(tuple(row) for row in counts))
    assert mistakes(confusion) == [("a", "c", 3), ("c", "a", 2), ("a", "b", 1)]


def test_long_curves_are_averaged_and_take_the_colours_of_the_page() -> None:
    steps = tuple(float(step) for step in range(10_000))
    long = curves_svg("losses", [Line("g", steps, steps)])
    assert len(long) < 60 * POINTS_SHOWN
    assert "var(--line-1)" in long
    assert "http" not in long
    assert curves_svg("losses", [Line("g", (), ())])


def _manifest(
    artifact: str, parts: Sequence[Receipt], counts: dict[str, int], config: dict[str, Any] | None = None
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA,
        artifact=artifact,
        fingerprint=_address(artifact).fingerprint,
        version=1,
        config=config or {},
        source={},
        seed=1,
        inputs={},
        predecessor=None,
        parts=tuple(parts),
        counts=counts,
        metrics={},
        provenance={
            "finished": "2024-03-05T06:07:08+00:00",
            "seconds": 1.5,
            "parts_reused": 0,
            "backend": "local",
            "host": "here",
            "packages": {"numpy": "2.0"},
        },
    )


def _address(artifact: str) -> Address:
    return Address(artifact, artifact.encode().hex().ljust(16, "0")[:16])


def _rows(
    store: Store, artifact: str, part: int, rows: list[dict[str, Any]], schema: pa.Schema, **counts: int
) -> Receipt:
    file = write_rows(store, _address(artifact), f"{artifact}-{part:05d}.parquet", rows, schema)
    return Receipt(part=part, key=str(part), files=(file,), counts=counts)


def _jpeg(width: int, height: int) -> bytes:
    return images.encode_jpeg(np.full((height, width, 3), 128, np.uint8), 95)


def _photos(store: Store) -> Manifest:
    parts = []
    for part in range(2):
        rows = [
            {
                "key": f"p{part}{i}",
                "status": "ok",
                "caption": HOSTILE,
                "artist": HOSTILE,
                "image": _jpeg(120, 90),
            }
            | {"width": 120, "height": 90}
            for i in range(6)
        ]
        rows.append({"key": f"p{part}x", "status": "http_error", "reason": HOSTILE})
        parts.append(_rows(store, "photos", part, rows, PHOTOS, ok=6, http_error=1))
    return _manifest("photos", parts, {"items": 14, "ok": 12, "http_error": 2})


def _crops(store: Store) -> Manifest:
    parts = []
    for part in range(2):
        rows = [
            {"key": f"p{part}{i}_0", "photo_key": f"p{part}{i}", "status": "ok", "box": [20.0, 10.0, 40.0]}
            | {"image": _jpeg(64, 64)}
            for i in range(5)
        ]
        rows.append({"key": f"p{part}5", "status": "no_face", "reason": "the detector found none"})
        parts.append(_rows(store, "crops", part, rows, CROPS, ok=5, no_face=1, photos=6))
    return _manifest("crops", parts, {"ok": 10, "no_face": 2, "photos": 12})


def _codes(store: Store) -> Manifest:
    parts = [
        _rows(
            store, "codes", part, [{"key": f"p{part}{i}_0", "code": b"x"} for i in range(5)], CODES, crops=5
        )
        for part in range(2)
    ]
    return _manifest("codes", parts, {"crops": 10})


def _dedup(store: Store) -> Manifest:
    kept = {"p01_0": ("p00_0", 1), "p02_0": ("p00_0", 2), "p11_0": ("p04_0", 8), "p12_0": ("p04_0", 4)}
    rows = []
    for key in [f"p{part}{i}_0" for part in range(2) for i in range(5)]:
        group, distance = kept.get(key, (key, 0))
        rows.append(
            {"key": key, "keep": key not in kept, "group": group, "kept_key": group, "distance": distance}
        )
    counts = {"crops": 10, "kept": 6, "near_duplicates": 4, "groups_of_duplicates": 2, "undecodable": 0}
    return _manifest("dedup", [_rows(store, "dedup", 0, rows, DEDUP)], counts)


def _shards(store: Store) -> Manifest:
    return _manifest("shards", [], {"samples": 6, "shards": 1})


def _train(store: Store, *, ema: bool = True) -> Manifest:
    address = _address("train")
    sheet = images.encode_png(images.grid(np.zeros((64, 8, 8, 3), np.uint8)))
    spec = {
        "name": "paper64",
        "size": 8,
        "z_size": 100,
        "z_kind": "uniform",
        "discriminator": [{"filters": 4}],
    }
    log = [{"step": step, "loss_d": 1.0, "loss_g": 2.0, "d_real": 0.6, "d_fake": 0.4} for step in (10, 20)]
    files = [
        _text(store, address, "model.json", json.dumps({"spec": spec})),
        _text(store, address, "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in log)),
    ]
    for weights in ("step", "ema") if ema else ("step",):
        files += [write_part(store, address, f"samples/{weights}-{step:08d}.png", sheet) for step in (10, 20)]
    counts = {"samples": 6, "steps": 20, "images_seen": 640, "g_updates": 20, "d_updates": 20}
    config = {"schedule": "both", "batch_size": 32, "learning_rate": 2e-4, "beta1": 0.5, "ema": 0.999 * ema}
    return _manifest("train", [Receipt(part=0, key="0", files=tuple(files), counts=counts)], counts, config)


def _scores(store: Store, classes: list[str]) -> Manifest:
    row = {
        "protocol": "all labels",
        "width": 10,
        "c": 0.1,
        "sd": None,
        "converged": True,
        "confusion": [[20, 5], [1, 24]],
    }
    rows = [
        {**row, "features": "discriminator", "accuracy": 0.9, "ci95": [0.8, 0.95]},
        {**row, "features": "untrained discriminator", "accuracy": 0.6, "ci95": [0.5, 0.7]},
        {**row, "features": "raw pixels", "accuracy": 0.8, "ci95": [0.7, 0.85], "converged": False},
    ]
    neighbours = {
        "features": "nearest neighbours",
        "accuracy": 0.7,
        "ci95": [0.6, 0.75],
        "c": 3.0,
        "sd": 0.0318,
    }
    few = {"protocol": "10 labels per class", "width": 0}
    score = {"set": "lfw", "source": "a set", "classes": classes, "train": 90, "test": 50}
    parts = [
        {**score, "kind": "discriminator", "rows": rows},
        {**score, "kind": "knn", "rows": [{**row, **neighbours, **few}]},
    ]
    files = [
        _text(store, _address("scores"), f"scores-{number:05d}.json", json.dumps(part))
        for number, part in enumerate(parts)
    ]
    receipts = [Receipt(part=number, key=str(number), files=(file,)) for number, file in enumerate(files)]
    return _manifest("scores", receipts, {})


def _figures(store: Store) -> Manifest:
    address = _address("figures")
    about = {"figure": "samples", "title": "Samples", "caption": HOSTILE, "seed": 3, "weights": "ema"}
    picture = images.encode_png(np.zeros((8, 8, 3), np.uint8))
    files = (
        write_part(store, address, "samples-00000.png", picture),
        _text(store, address, "samples-00000.json", json.dumps(about)),
    )
    return _manifest("figures", [Receipt(part=0, key="0", files=files)], {"figures": 1})


def _text(store: Store, address: Address, name: str, text: str) -> PartFile:
    return write_part(store, address, name, text.encode())
