"""Example pictures and reasons out of photos, crops and dedup; of large artifacts few parts are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from dcgan_core import images
from dcgan_core.artifacts import Manifest, PartFile, Receipt, read_part
from dcgan_core.errors import DecodeError
from dcgan_core.images import Rgb
from dcgan_core.report.content import Example, Group, Member, Picture
from dcgan_core.storage import Store
from dcgan_core.tables import read_all, read_rows

PARTS_READ = 4
"""Parts that example pictures are taken from, evenly spread."""
MEMBERS_SHOWN = 6
MAX_PNG_BYTES = 220_000
"""Sheets that are larger as PNG are carried as JPEG."""

_MAX_PIXELS = 2**31  # larger photos were turned away by `scrape`
_PHOTO_SIDE, _CROP_SIDE, _JPEG_QUALITY = 240, 96, 85
_SHEET_QUALITY = 90
_BOX_RGB = (250, 204, 21)


def jpeg_picture(rgb: Rgb, alt: str, quality: int = _JPEG_QUALITY) -> Picture:
    """An RGB array (H, W, 3) as a JPEG the page can carry."""
    uri = images.data_uri(images.encode_jpeg(rgb, quality), "image/jpeg")
    return Picture(uri, alt, width=rgb.shape[1], height=rgb.shape[0])


def sheet_picture(store: Store, manifest: Manifest, file: PartFile, alt: str) -> Picture:
    """A PNG of an artifact, as JPEG where it is large."""
    data = read_part(store, manifest.address, file)
    rgb = images.decode_rgb(data, max_pixels=_MAX_PIXELS)
    if len(data) > MAX_PNG_BYTES:
        return jpeg_picture(rgb, alt, _SHEET_QUALITY)
    return Picture(images.data_uri(data, "image/png"), alt, width=rgb.shape[1], height=rgb.shape[0])


def spread(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` positions out of ``range(total)``, evenly spread, ascending."""
    if total <= wanted:
        return list(range(total))
    return [index * total // wanted for index in range(wanted)]


def reasons(store: Store, manifest: Manifest, prefix: str) -> dict[str, str]:
    """For each status but `ok` the words of the first item that has it, from as few parts as possible."""
    found: dict[str, str] = {}
    for receipt in manifest.parts:
        statuses = set(receipt.counts) - {"ok", "photos"}
        if statuses <= found.keys():
            continue
        table = read_rows(store, manifest.address, _file(receipt, prefix), ["status", "reason"])
        for row in table.to_pylist():
            if row["status"] in statuses:
                found.setdefault(row["status"], row["reason"] or "")
    return found


def photo_examples(store: Store, photos: Manifest, crops: Manifest | None, count: int) -> tuple[Example, ...]:
    """Usable photos, scaled down, the squares that became crops outlined.

    They are decoded in this process, so only those that `crop` has decoded before without harm.
    """
    columns = ["key", "status", "caption", "width", "height", "licence", "artist", "credit", "image"]
    examples = []
    for receipt, wanted in _chosen_parts(photos, count):
        rows = _usable(store, photos, _file(receipt, "photos-"), columns)
        boxes = _boxes(store, crops, receipt.part)
        rows = rows[rows["key"].isin(list(boxes))].reset_index(drop=True)
        taken = 0
        for index in _spread_first(len(rows), wanted):
            row = rows.iloc[index]
            try:
                rgb = images.decode_rgb(row["image"], max_pixels=_MAX_PIXELS, min_side=_PHOTO_SIDE)
            except DecodeError:  # cut off behind its header; `crop` reports it
                continue
            small = np.array(images.shrink(rgb, _PHOTO_SIDE))
            scale = max(small.shape[:2]) / max(row["width"], row["height"])
            own = boxes[row["key"]]
            for box in own:
                _outline(small, [scale * value for value in box])
            size = f"{int(row['width'])} × {int(row['height'])} pixels"
            alt = f"Photo of {size}, {len(own)} crop{'' if len(own) == 1 else 's'} outlined"
            examples.append(Example(jpeg_picture(small, alt), _text(row["caption"]), _credit(row)))
            taken += 1
            if taken == wanted:
                break
    return tuple(examples)


def crop_examples(store: Store, crops: Manifest, count: int) -> tuple[Picture, ...]:
    """Usable crops, evenly spread."""
    pictures = []
    for receipt, wanted in _chosen_parts(crops, count):
        rows = _usable(store, crops, _file(receipt, "crops-"), ["status", "image"])
        pictures += [_crop_picture(rows["image"].iloc[index], "Crop") for index in spread(len(rows), wanted)]
    return tuple(pictures)


def group_examples(
    store: Store, dedup: Manifest, codes: Manifest, crops: Manifest, count: int
) -> tuple[Group, ...]:
    """Groups of near duplicates: a third are those farthest apart, the others evenly spread."""
    table = read_all(store, dedup, "dedup-").to_pandas()
    groups = table.groupby("group")["distance"].agg(["size", "max"]).reset_index()
    groups = groups[groups["size"] > 1]
    widest = groups.sort_values(["max", "group"], ascending=[False, True])["group"].head(max(1, count // 3))
    others = groups[~groups["group"].isin(widest)]["group"].sort_values()
    chosen = [*widest, *others.iloc[spread(len(others), count - len(widest))]]
    members = table[table["group"].isin(chosen)].sort_values(
        ["keep", "distance", "key"], ascending=[False, True, True]
    )
    shown = {name: rows.head(MEMBERS_SHOWN) for name, rows in members.groupby("group", sort=False)}
    sizes = members.groupby("group").size()
    keys = {key for rows in shown.values() for key in rows["key"]}
    pictures = _crops_by_key(store, codes, crops, keys)
    return tuple(
        Group(
            tuple(
                Member(pictures[row.key], bool(row.keep), int(row.distance))
                for row in shown[name].itertuples()
                if row.key in pictures
            ),
            more=int(sizes[name]) - len(shown[name]),
        )
        for name in chosen
    )


def _file(receipt: Receipt, prefix: str) -> PartFile:
    return next(file for file in receipt.files if file.name.startswith(prefix))


def _chosen_parts(manifest: Manifest, count: int) -> Iterator[tuple[Receipt, int]]:
    """Some parts with usable items, and how many to take of each."""
    parts = [receipt for receipt in manifest.parts if receipt.counts.get("ok")]
    chosen = [parts[index] for index in spread(len(parts), PARTS_READ)]
    for position, receipt in enumerate(chosen):
        wanted = min(math.ceil(count / (len(chosen) - position)), receipt.counts["ok"])
        count -= wanted
        if wanted:
            yield receipt, wanted


def _usable(store: Store, manifest: Manifest, file: PartFile, columns: Sequence[str]) -> pd.DataFrame:
    rows = read_rows(store, manifest.address, file, columns).to_pandas()
    return rows[rows["status"] == "ok"].reset_index(drop=True)


def _spread_first(total: int, wanted: int) -> list[int]:
    """All positions, the evenly spread ones first: the rest stand in for what cannot be decoded."""
    first = spread(total, wanted)
    return [*first, *sorted(set(range(total)) - set(first))]


def _boxes(store: Store, crops: Manifest | None, part: int) -> dict[str, list[list[float]]]:
    """x, y, side in pixels of the upright photo of the usable crops of one part, by photo.

    Photos are missing of which `crops` says nothing, or that a decoder did not survive.
    """
    files = crops.named("crops-") if crops else []
    if crops is None or part >= len(files):
        return {}
    rows = read_rows(store, crops.address, files[part], ["key", "photo_key", "status", "box"]).to_pylist()
    boxes: dict[str, list[list[float]]] = {}
    for row in rows:
        if not row["status"].startswith("decoder_"):
            # The row of a photo without any crop has the photo's key for its own.
            own = boxes.setdefault(row["photo_key"] or row["key"], [])
            own += [row["box"]] if row["status"] == "ok" else []
    return boxes


def _outline(rgb: Rgb, box: Sequence[float], thickness: int = 2) -> None:
    """Draw the frame of a square (x, y, side in pixels) into an image, cut off at its edges."""
    height, width = rgb.shape[:2]
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[2]))
    square = rgb[top:bottom, left:right]
    for edge in (square[:thickness], square[-thickness:], square[:, :thickness], square[:, -thickness:]):
        edge[:] = _BOX_RGB


def _credit(row: pd.Series) -> str:
    """Author, source and licence as far as known."""
    return ", ".join(text for name in ("artist", "credit", "licence") if (text := _text(row[name])))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _crop_picture(data: bytes, alt: str) -> Picture:
    rgb = images.decode_rgb(data, max_pixels=_MAX_PIXELS)
    return jpeg_picture(images.shrink(rgb, _CROP_SIDE), alt)


def _crops_by_key(store: Store, codes: Manifest, crops: Manifest, keys: set[str]) -> dict[str, Picture]:
    """Pictures of some crops. Codes are small and lie in the same parts: they tell which parts to read."""
    pictures: dict[str, Picture] = {}
    for code_file, crop_file in zip(codes.named("codes-"), crops.named("crops-"), strict=True):
        there = read_rows(store, codes.address, code_file, ["key"]).column("key").to_pylist()
        if keys.isdisjoint(there):
            continue
        for row in read_rows(store, crops.address, crop_file, ["key", "image"]).to_pylist():
            if row["key"] in keys and row["image"] is not None:
                pictures[row["key"]] = _crop_picture(row["image"], "Crop")
    return pictures
