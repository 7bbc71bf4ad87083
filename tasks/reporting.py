"""What Prefect's UI shows of a stage: progress while it runs, then its counts, pictures and report."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from dcgan_core.artifacts import Manifest, PartFile, read_manifest, read_part
from dcgan_core.images import data_uri
from dcgan_core.stage import Artifact, Stage
from dcgan_core.storage import Store

_UPDATE_SECONDS = 2.0
_LOG_SECONDS = 15.0
_PAGES = {"gallery": "Gallery of near duplicates", "report": "Report"}
"""Stages that make pages to open in a browser."""


class ProgressArtifact:
    """A progress bar in the UI, updated at most every two seconds; made when there is something to show."""

    def __init__(self, artifact: str, unit: str) -> None:
        self._artifact, self._unit = artifact, unit
        self._id: UUID | None = None
        self._shown = 0.0
        self._logged = time.monotonic()

    def __enter__(self) -> ProgressArtifact:
        return self

    def __call__(self, done: float, total: float, note: str) -> None:
        now = time.monotonic()
        if self._id is not None and now - self._shown < _UPDATE_SECONDS and done < total:
            return
        self._shown = now
        share = 100.0 * done / total if total else 100.0
        text = f"{self._artifact}: {done:,.0f} of {total:,.0f} {self._unit}  {note}".rstrip()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            get_run_logger().info(text)
        if self._id is None:
            created = create_progress_artifact(share, key=f"{self._artifact}-progress", description=text)
            self._id = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._id, share, description=text)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._id is not None and error is None:
            update_progress_artifact(self._id, 100.0, description=f"{self._artifact}: done")


def publish(stage: Stage, store: Store, artifact: Artifact) -> None:
    """Counts as a table, a summary as markdown, pictures as images."""
    manifest = read_manifest(store, artifact.address)
    if manifest is None:
        return
    rows = [{"what": name, "count": count} for name, count in manifest.counts.items()]
    create_table_artifact(
        rows, key=f"{stage.artifact}-counts", description=f"{artifact.address} under {store.root}"
    )
    create_markdown_artifact(_summary(manifest, artifact), key=f"{stage.artifact}-summary")
    if stage.artifact in _PAGES:  # a link, no copy: pictures outside the root would outlive their takedown
        page = store.uri(artifact.address.part_path("index.html"))
        link = page if "://" in page else Path(page).absolute().as_uri()
        create_link_artifact(
            link, link_text=_PAGES[stage.artifact], key=f"{stage.artifact}-page", description=page
        )
    for file in _pictures(manifest):
        picture = data_uri(read_part(store, artifact.address, file), "image/png")
        kind = file.name.rpartition("/")[2].partition("-")[0]
        create_image_artifact(picture, key=f"{stage.artifact}-{kind}", description=file.name)


def _summary(manifest: Manifest, artifact: Artifact) -> str:
    lines = [f"# {artifact.address}", "", f"`{artifact.uri}`", ""]
    lines += [f"- **{name}**: {value}" for name, value in manifest.counts.items()]
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
