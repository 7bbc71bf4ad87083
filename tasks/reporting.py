"""What Prefect's UI shows of a stage: progress as it runs, then its counts, scores, pictures and report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from types import TracebackType
from uuid import UUID

from prefect.artifacts import Artifact as Card
from prefect.artifacts import ImageArtifact, LinkArtifact, MarkdownArtifact, TableArtifact
from prefect.artifacts import ProgressArtifact as ProgressCard
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from dcgan_core.artifacts import Manifest, PartFile, read_manifest, read_part
from dcgan_core.evaluate.score_table import HEAD, QUALITY_HEAD, quality_lines, score_lines
from dcgan_core.images import data_uri
from dcgan_core.progress import Pace, in_words
from dcgan_core.serve import page_url
from dcgan_core.stage import Artifact, Stage
from dcgan_core.storage import Store
from tasks.results import scores_in_words
from tasks.termination import end_if_told

_UPDATE_SECONDS = 2.0
_LOG_SECONDS = 15.0
_PICTURE_SECONDS = 30.0
SAMPLES = "samples"
"""Where a training puts pictures while it goes on."""
_PAGES = {"gallery": "Gallery of near duplicates", "report": "Report"}
"""Stages that make pages to open in a browser."""


class ProgressArtifact:
    """A progress bar in the UI, updated at most every two seconds; made when there is something to show.

    While a training goes on, its newest picture is beside it, looked for every half minute. What cannot be
    shown ends nothing.
    """

    def __init__(self, stage: Stage, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._stage, self._store, self._clock = stage, store, clock
        self._id: UUID | None = None
        self._shown, self._logged, self._looked = 0.0, clock(), clock()
        self._pace = Pace()
        self._pictures: dict[str, tuple[str, UUID]] = {}
        """By artifact key: the file that is shown, and where."""

    def __enter__(self) -> ProgressArtifact:
        return self

    def __call__(self, done: float, total: float, note: str) -> None:
        end_if_told()
        now = self._clock()
        self._pace.see(done, total, now)
        if self._id is not None and now - self._shown < _UPDATE_SECONDS and done < total:
            return
        self._shown = now
        seconds = self._pace.seconds_left(now)
        left = f"about {in_words(seconds)} left" if seconds else ""
        parts = (
            f"{self._stage.artifact}: {math.floor(done):,} of {total:,.0f} {self._stage.unit}",
            note,
            left,
        )
        text = "  ".join(part for part in parts if part)
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            get_run_logger().info(text)
        try:
            self._show(100.0 * done / total if total else 100.0, text)
            if self._stage.artifact == "train" and now - self._looked >= _PICTURE_SECONDS:
                self._looked = now
                self._show_newest_picture()
        except Exception as error:
            get_run_logger().warning("progress cannot be shown: %s: %s", type(error).__name__, error)

    def _show(self, percent: float, text: str) -> None:
        card = ProgressCard(progress=percent, key=f"{self._stage.artifact}-progress", description=text)
        self._id = show(card, self._id)

    def _show_newest_picture(self) -> None:
        """One artifact that changes, with the key of the picture that is published in the end."""
        name = _newest(self._store.names(self._stage.address.part_path(SAMPLES)))
        if not name:
            return
        key = f"{self._stage.artifact}-{name.partition('-')[0]}"
        shown, artifact = self._pictures.get(key, ("", None))
        if name == shown:
            return
        path = f"{SAMPLES}/{name}"
        picture = data_uri(self._store.read_bytes(self._stage.address.part_path(path)), "image/png")
        card = ImageArtifact(image_url=picture, key=key, description=path)
        self._pictures[key] = (name, show(card, artifact))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._id is not None and error is None:
            self._show(100.0, f"{self._stage.artifact}: done")


def _newest(names: Sequence[str]) -> str:
    """The picture of the latest step; of G's moving average where there is one."""
    return max(names, key=lambda name: (name.partition("-")[2], name.startswith("ema")), default="")


def show(card: Card, id_: UUID | None = None) -> UUID:
    """Show a card of this flow run, in place of the one that has its key (an earlier try's); its id."""
    client = get_client(sync_client=True)
    if id_ is None:
        same = {"key": {"any_": [card.key]}, "flow_run_id": {"any_": [flow_run.get_id()]}}
        found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(same), limit=1)
        if not found:
            return card.create().id  # pyright: ignore[reportAttributeAccessIssue]: not awaited here
        id_ = found[0].id
    client.update_artifact(id_, ArtifactUpdate(data=card.format(), description=card.description))
    return id_


def publish(stage: Stage, store: Store, artifact: Artifact, report_url: str = "") -> None:
    """A summary as markdown, scores as a table, pictures as images, a link to its page: each once."""
    manifest = read_manifest(store, artifact.address)
    if manifest is None:
        return
    show(MarkdownArtifact(markdown=_summary(manifest, artifact), key=f"{stage.artifact}-summary"))
    if stage.artifact == "scores":
        lines = [dict(zip(HEAD, line.cells, strict=True)) for line in score_lines(store, manifest)]
        show(TableArtifact(table=lines, key="scores-table", description="accuracy on the test images"))
        for line in scores_in_words(store, manifest):
            get_run_logger().info(line)
    if stage.artifact == "quality":
        measured = quality_lines(store, manifest)
        figures = [dict(zip(QUALITY_HEAD, line.cells, strict=True)) for line in measured]
        show(TableArtifact(table=figures, key="quality-table", description="the generator's samples"))
        for line in measured:
            get_run_logger().info(f"{line.title}: {line.value}")
    publish_page(stage, store, artifact, report_url)
    for file in _pictures(manifest):
        picture = data_uri(read_part(store, artifact.address, file), "image/png")
        name = PurePath(file.name).stem.lower().replace("_", "-")
        if stage.artifact == "train":  # in place of the one that was shown meanwhile, of an earlier step
            name = name.partition("-")[0]
        show(ImageArtifact(image_url=picture, key=f"{stage.artifact}-{name}", description=file.name))


def publish_page(stage: Stage, store: Store, artifact: Artifact, report_url: str = "") -> None:
    """A link to the stage's page, if it makes one: on the server at ``report_url``, or to the file.

    A link, no copy: pictures outside the root would outlive their takedown.
    """
    if stage.artifact not in _PAGES:
        return
    page = store.uri(artifact.address.part_path("index.html"))
    if report_url:
        link = page_url(report_url, artifact.address)
    else:
        link = page if "://" in page else Path(page).absolute().as_uri()
    text = _PAGES[stage.artifact]
    show(LinkArtifact(link=link, link_text=text, key=f"{stage.artifact}-page", description=page))


def _summary(manifest: Manifest, artifact: Artifact) -> str:
    lines = [f"# {artifact.address}", "", f"`{artifact.uri}`", ""]
    lines += [f"- **{name}**: {value}" for name, value in manifest.counts.items()]
    if manifest.artifact not in ("scores", "quality"):  # theirs are in a table beside this
        lines += [f"- {name}: {value}" for name, value in manifest.metrics.items()]
    provenance = manifest.provenance
    lines += ["", f"{provenance['seconds']} s, {provenance['parts_done']} parts done, "]
    lines[-1] += f"{provenance['parts_reused']} taken over, on {provenance['backend']}"
    return "\n".join(lines)


def _pictures(manifest: Manifest) -> list[PartFile]:
    if manifest.artifact == "train":
        return manifest.named("samples/ema-")[-1:] or manifest.named("samples/")[-1:]
    if manifest.artifact == "figures":
        # Neighbours show training images; copies outside the root would outlive their takedown.
        return [
            file
            for file in manifest.files
            if file.name.endswith(".png") and not file.name.startswith("neighbours")
        ]
    return []
