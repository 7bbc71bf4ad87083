"""The stage `gallery`: pages and pictures by which people judge what `dedup` took for duplicates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from dcgan_core import images
from dcgan_core.artifacts import Receipt, write_part
from dcgan_core.config import DedupConfig, Json
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import LongTable

_SIDE, _JPEG_QUALITY, _WRITERS = 160, 88, 8


@dataclass(frozen=True)
class ShowDuplicates(Stage):
    """``index.html`` and the pages it leads to; each crop shown is a file in ``pictures/``."""

    artifact: ClassVar[str] = "gallery"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "pictures"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("radius", "verify", "verify_step", "gallery_groups")

    def plan(self, store: Store) -> Sequence[Part]:
        contents = {name: self.input_manifest(store, name).content for name in self.inputs}
        return [Part(0, self.part_key(contents), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.dedup.links import read_links
        from dcgan_core.report.gallery import choose, read_pictures
        from dcgan_core.report.gallery_page import Tile, pages

        photos, crops, codes, links, dedup = (
            self.input_manifest(store, name) for name in ("photos", "crops", "codes", "links", "dedup")
        )
        pairs = read_links(store, links, LongTable(store, codes, "codes-").rows)
        gallery = choose(store, dedup, codes, pairs, self.config, self.seed)
        found = read_pictures(store, codes, crops, photos, gallery.rows)
        tiles: dict[int, Tile] = {}
        pictures: list[tuple[str, bytes]] = []
        for number, (row, (data, source)) in enumerate(sorted(found.items())):
            rgb = images.shrink(images.decode_rgb(data, max_pixels=2**31), _SIDE)
            name = f"pictures/{number:05d}.jpg"
            tiles[row] = Tile(name, rgb.shape[1], rgb.shape[0], source)
            pictures.append((name, images.encode_jpeg(rgb, _JPEG_QUALITY)))
            progress(number, len(found), "")
        store.delete(f"{self.address.path}/parts")  # of an earlier edition that showed more
        texts = [(name, page.encode()) for name, page in pages(gallery, tiles).items()]
        with ThreadPoolExecutor(_WRITERS) as pool:  # an object store takes its time for each
            files = pool.map(
                lambda named: write_part(store, self.address, *named), itertools.chain(pictures, texts)
            )
            counts = {"pages": len(texts), "pictures": len(pictures)}
            return Receipt(part=0, key=part.key, files=tuple(files), counts=counts)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts)
