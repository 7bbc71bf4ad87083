"""The pages of the gallery as HTML: no scripts, pictures loaded as they come into view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dcgan_core.dedup.scoring import wilson
from dcgan_core.report.gallery import GROUPS_PER_PAGE, Cluster, Gallery, Source
from dcgan_core.report.gather import GALLERY
from dcgan_core.report.page import environment


@dataclass(frozen=True)
class Tile:
    """The picture of a crop: its file, relative to the pages, its size in pixels, where it comes from."""

    file: str
    width: int
    height: int
    source: Source


@dataclass(frozen=True)
class Page:
    """One page: its file, what the navigation calls it, and the groups on it where it shows groups."""

    file: str
    kind: str
    title: str
    groups: tuple[Cluster, ...] = ()
    number: int = 0


def pages(gallery: Gallery, tiles: Mapping[int, Tile]) -> dict[str, str]:
    """All pages by file name; ``tiles`` are the pictures of ``gallery.rows``, by row."""
    leaves = [
        gallery.groups[at : at + GROUPS_PER_PAGE] for at in range(0, len(gallery.groups), GROUPS_PER_PAGE)
    ]
    listed = [Page(GALLERY, "overview", "Overview")]
    listed += [
        Page(f"groups-{number}.html", "groups", "Groups", leaf, number)
        for number, leaf in enumerate(leaves, 1)
    ]
    if gallery.largest:
        listed.append(Page("largest.html", "largest", "Largest groups", gallery.largest))
    if gallery.collisions:
        listed.append(Page("sample.html", "sample", "Judge by eye"))
    listed.append(Page("apart.html", "apart", "Just not grouped"))
    template = environment().get_template("gallery.html.j2")
    return {
        page.file: template.render(
            page=page, pages=listed, leaves=len(leaves), gallery=gallery, tiles=tiles, odds=_odds(gallery)
        )
        for page in listed
    }


def _odds(gallery: Gallery) -> Sequence[tuple[int, float, float]]:
    """Number of wrong ones among the sample, and the interval of the precision it stands for."""
    total = len(gallery.collisions)
    found = [(wrong, wilson(total - wrong, total)) for wrong in range(min(6, total + 1))]
    return [(wrong, estimate.low, estimate.high) for wrong, estimate in found]
