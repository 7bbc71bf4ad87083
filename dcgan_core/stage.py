"""A stage: settings in, an artifact out. ``run`` computes only what is not there yet."""

from __future__ import annotations

import platform
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dcgan_core.artifacts import (
    SCHEMA,
    Address,
    InputRecord,
    Manifest,
    Receipt,
    all_manifests,
    as_json,
    fingerprint_of,
    now,
    read_manifest,
    read_receipts,
    remove,
    write_manifest,
    write_receipt,
)
from dcgan_core.errors import MissingArtifact, OutdatedArtifact
from dcgan_core.exclusions import read_exclusions
from dcgan_core.progress import Progress, silent
from dcgan_core.storage import Store

if TYPE_CHECKING:
    from dcgan_core.config import Json


@dataclass(frozen=True)
class Part:
    """One piece of a stage's work. ``key`` hashes everything its bytes depend on, but not its number."""

    index: int
    key: str
    payload: Any
    items: int = 1
    lane: str = ""
    """Parts of one lane are never worked on by two workers at once (see ``Stage.together``)."""
    wave: int = 0
    """Parts of a later wave begin when all of the earlier ones are done, and may read what these wrote."""


@dataclass(frozen=True)
class Summary:
    """What ``finish`` says of the whole artifact."""

    counts: dict[str, int]
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage(ABC):
    """Base of all stages. A subclass names its artifact, its flow and its version, and does the work.

    ``version`` must grow whenever the same settings would give other bytes.
    """

    artifact: ClassVar[str]
    flow: ClassVar[str]
    version: ClassVar[int]
    unit: ClassVar[str] = "items"
    gang: ClassVar[bool] = False
    """True where one part is worked on by several processes together (training)."""
    together: ClassVar[bool] = False
    """True where a worker does all parts of its lanes together, and nobody else does any of these lanes."""
    whole_machine: ClassVar[bool] = False
    """True where a part uses a machine's processors or GPU by itself, and much of its memory: one at a time
    is worked on there."""

    numbered_by_part: ClassVar[bool] = True
    """Whether a number in a file's name is its part's, and changes with it where a part is taken over."""

    seed: int
    inputs: Mapping[str, Address]
    preset: str

    @abstractmethod
    def settings(self) -> dict[str, Json]:
        """The fingerprinted configuration."""

    def source(self) -> dict[str, Json]:
        """Identity of everything read from outside the root (files by hash, listings)."""
        return {}

    @abstractmethod
    def plan(self, store: Store) -> Sequence[Part]:
        """The parts; cheap, and the same for the same inputs."""

    @abstractmethod
    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        """Do one part and write its files; may run anywhere and more than once."""

    def work_together(self, store: Store, parts: Sequence[Part], progress: Progress) -> Iterator[Receipt]:
        """Do several parts, whole lanes of them, in whatever order; only where ``together`` says so."""
        for part in parts:
            yield self.work(store, part, progress)

    def wants_more(self, store: Store, manifest: Manifest) -> bool:
        """Whether a finished artifact is to be taken up again (``scrape.retry_failed``)."""
        return False

    def prepare(self, store: Store, parts: Sequence[Part]) -> Sequence[Part]:
        """The planned parts, after whatever must come before done ones are told from those that are not."""
        return parts

    @abstractmethod
    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        """Counts of the whole artifact; raises where nothing usable is left."""

    def refreshed(self, store: Store) -> None:  # noqa: B027
        """Called when what was there has been deleted because it is wanted anew."""

    def settle(self, store: Store) -> None:  # noqa: B027
        """Called whenever the artifact is there, made now or long ago; for what points to the newest run."""

    @cached_property
    def address(self) -> Address:
        """Where the artifact is: follows from settings, inputs, source, version and seed alone."""
        value = [
            self.artifact,
            self.version,
            self.settings(),
            self.source(),
            {name: address.fingerprint for name, address in self.inputs.items()},
            self.seed,
        ]
        return Address(self.artifact, fingerprint_of(value))

    def part_key(self, *what: Any) -> str:
        """Key of a part: the stage's version and settings and whatever else the part's bytes depend on."""
        return fingerprint_of([self.artifact, self.version, self.settings(), self.seed, *what], length=32)

    def input_manifest(self, store: Store, name: str) -> Manifest:
        """Manifest of an input; MissingArtifact says which flow makes it."""
        address = self.inputs[name]
        manifest = read_manifest(store, address)
        if manifest is None:
            flow = FLOW_OF.get(address.artifact, address.artifact)
            raise MissingArtifact(self.flow, address.artifact, address.fingerprint, flow, self.preset)
        return manifest


FLOW_OF = {
    "people": "scrape",
    "searches": "scrape",
    "candidates": "scrape",
    "photos": "scrape",
    "crops": "crop",
    "autoencoder": "dedup",
    "codes": "dedup",
    "links": "dedup",
    "dedup": "dedup",
    "gallery": "dedup",
    "shards": "shard",
    "train": "train",
    "features": "evaluate",
    "scores": "evaluate",
    "quality": "evaluate",
    "figures": "analyze",
    "report": "report",
}
FLOWS = tuple(dict.fromkeys(FLOW_OF.values()))
"""All flows, in an order in which each comes after what it reads."""


class Backend(Protocol):
    """Who does the parts. ``work`` yields a receipt as each part ends, in any order."""

    @property
    def name(self) -> str: ...

    def work(
        self, stage: Stage, store: Store, parts: Sequence[Part], progress: Progress
    ) -> Iterator[Receipt]: ...


@dataclass(frozen=True)
class Artifact:
    """What travels between stages: where it is, never what is in it."""

    address: Address
    uri: str
    cached: bool
    seconds: float = 0.0


def perform(stage: Stage, store: Store, part: Part, progress: Progress = silent) -> Receipt:
    """Do one part where this process runs and commit its receipt."""
    receipt = stage.work(store, part, progress)
    write_receipt(store, stage.address, receipt)
    return receipt


def perform_together(
    stage: Stage, store: Store, parts: Sequence[Part], progress: Progress = silent
) -> Iterator[Receipt]:
    """Do whole lanes of parts where this process runs and commit each receipt as its part ends."""
    for receipt in stage.work_together(store, parts, progress):
        write_receipt(store, stage.address, receipt)
        yield receipt


def lanes_of(parts: Sequence[Part], workers: int) -> list[list[Part]]:
    """Deal parts out to workers, lanes kept whole and the numbers of items about equal; none is empty."""
    lanes: dict[str, list[Part]] = {}
    for part in parts:
        lanes.setdefault(part.lane, []).append(part)
    dealt: list[list[Part]] = [[] for _ in range(min(workers, len(lanes)))]
    load = [0] * len(dealt)
    for lane in sorted(lanes.values(), key=lambda lane: -sum(part.items for part in lane)):
        least = load.index(min(load))
        dealt[least] += lane
        load[least] += sum(part.items for part in lane)
    return dealt


def is_current(stage: Stage, store: Store) -> Manifest | None:
    """The stage's manifest, where it exists and was made from the inputs and exclusions as they are now."""
    manifest = read_manifest(store, stage.address)
    if manifest is None or manifest.exclusions != read_exclusions(store).digest:
        return None
    for name, address in stage.inputs.items():
        there = read_manifest(store, address)
        if there is not None and there.content != manifest.inputs[name].content:
            return None
    return manifest


def run(
    stage: Stage,
    store: Store,
    backend: Backend,
    *,
    refresh: bool = False,
    progress: Progress = silent,
    place: Mapping[str, Any] | None = None,
) -> Artifact:
    """Make the stage's artifact, or find it made.

    Parts whose receipt is there are not done again; parts that an earlier edition has done from the same
    bytes are taken over. ``refresh`` does everything anew. ``place`` is noted as provenance.
    """
    address = stage.address
    uri = store.uri(address.path)
    current = None if refresh else is_current(stage, store)
    if current and not stage.wants_more(store, current):
        stage.settle(store)
        return Artifact(address, uri, cached=True)
    started, clock = now(), time.monotonic()
    exclusions = read_exclusions(store).digest
    inputs = {name: stage.input_manifest(store, name) for name in stage.inputs}
    for manifest in inputs.values():
        if manifest.exclusions != exclusions:
            flow = FLOW_OF.get(manifest.artifact, manifest.artifact)
            raise OutdatedArtifact(stage.flow, str(manifest.address), flow, stage.preset)
    store.check_writable()
    if refresh:
        remove(store, address)
        stage.refreshed(store)
    else:
        store.delete(f"{address.path}/manifest.json")  # made from inputs that have changed since
    parts = stage.plan(store)
    before = [] if refresh else _editions(stage, store)
    parts = stage.prepare(store, parts)
    done = _reuse(stage, store, parts, before)
    missing = [part for part in parts if part.index not in done]
    total = sum(part.items for part in parts)
    ready = total - sum(part.items for part in missing)
    progress(ready, total, "")
    items = {part.index: part.items for part in parts}

    def within(alone: Sequence[Part]) -> Progress:
        def inner(part_done: float, part_total: float, note: str) -> None:
            if len(parts) == 1:  # progress within the one part is the stage's progress
                progress(part_done, part_total, note)
            elif (len(alone) == 1 or stage.whole_machine) and part_total:  # only one is at work: its share
                share = min(part_done / part_total, 0.99)
                progress(ready + share * alone[0].items, total, note)

        return inner

    for wave in sorted({part.wave for part in missing}):
        together = [part for part in missing if part.wave == wave]
        for receipt in backend.work(stage, store, together, within(together)):
            done[receipt.part] = receipt
            ready += items[receipt.part]
            if len(parts) > 1:
                progress(ready, total, "")
    receipts = [done[part.index] for part in parts]
    summary = stage.finish(store, receipts)
    manifest = Manifest(
        schema_version=SCHEMA,
        artifact=stage.artifact,
        fingerprint=address.fingerprint,
        version=stage.version,
        config=stage.settings(),
        source=stage.source(),
        seed=stage.seed,
        exclusions=exclusions,
        inputs={
            name: InputRecord(fingerprint=there.fingerprint, content=there.content)
            for name, there in inputs.items()
        },
        predecessor=before[-1].fingerprint if before else None,
        parts=tuple(receipts),
        counts=summary.counts,
        metrics=summary.metrics,
        provenance={
            "started": started,
            "finished": now(),
            "seconds": round(time.monotonic() - clock, 3),
            "parts_done": len(missing),
            "parts_reused": len(parts) - len(missing),
            "backend": backend.name,
            "place": dict(place or {}),
            **surroundings(),
        },
    )
    write_manifest(store, manifest)
    stage.settle(store)
    return Artifact(address, uri, cached=False, seconds=time.monotonic() - clock)


def surroundings() -> dict[str, Any]:
    """Versions and machine, for provenance."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("dcgan", "torch", "numpy", "opencv-python-headless", "pyarrow", "ray", "prefect"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        git = ""
    return {"git": git, "python": platform.python_version(), "packages": packages, "host": platform.node()}


def _editions(stage: Stage, store: Store) -> list[Manifest]:
    """Finished artifacts with the same settings over another source or other inputs, oldest first."""
    settings = as_json(stage.settings())
    return [
        manifest
        for manifest in all_manifests(store, stage.artifact)
        if manifest.version == stage.version
        and manifest.config == settings
        and manifest.seed == stage.seed
        and manifest.fingerprint != stage.address.fingerprint
    ]


def _reuse(
    stage: Stage, store: Store, parts: Sequence[Part], editions: Iterable[Manifest]
) -> dict[int, Receipt]:
    """Receipts of parts already done here, and of those taken over from earlier editions."""
    address = stage.address
    keys = {part.index: part.key for part in parts}
    here = read_receipts(store, address)
    done = {index: receipt for index, receipt in here.items() if keys.get(index) == receipt.key}
    for index in here.keys() - done.keys():
        store.delete(f"{address.path}/receipts/{index:05d}.json")
    known = {receipt.key: (edition, receipt) for edition in editions for receipt in edition.parts}
    for part in parts:
        if part.index not in done and part.key in known:
            edition, receipt = known[part.key]
            with suppress(FileNotFoundError):  # an edition that lost a file: the part is done again
                done[part.index] = _take_over(store, stage, edition.address, receipt, part)
    return done


def _take_over(store: Store, stage: Stage, old: Address, receipt: Receipt, part: Part) -> Receipt:
    new, files = stage.address, []
    for file in receipt.files:
        name = file.name
        if stage.numbered_by_part:
            name = name.replace(f"-{receipt.part:05d}.", f"-{part.index:05d}.")
        store.copy(old.part_path(file.name), new.part_path(name))
        files.append(file.model_copy(update={"name": name}))
    taken = receipt.model_copy(update={"part": part.index, "files": tuple(files)})
    write_receipt(store, new, taken)
    return taken
