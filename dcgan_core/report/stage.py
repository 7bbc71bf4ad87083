"""The stage `report`: all artifacts in, one self-contained page out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from dcgan_core.artifacts import LATEST_REPORT, Receipt, write_part
from dcgan_core.config import Json, PipelineConfig
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store

_FROM_ROOT = "from-root.html"


@dataclass(frozen=True)
class Report(Stage):
    """``index.html``: counts, pictures, figures, scores, configuration, links."""

    artifact: ClassVar[str] = "report"
    flow: ClassVar[str] = "report"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "pages"

    config: PipelineConfig

    def settings(self) -> dict[str, Json]:
        return cast("dict[str, Json]", self.config.report.identity())

    def plan(self, store: Store) -> Sequence[Part]:
        """One part. Its key includes the addresses of the inputs, because the page names and links them."""
        shown = {
            name: [address.fingerprint, self.input_manifest(store, name).content]
            for name, address in self.inputs.items()
        }
        return [Part(0, self.part_key(shown), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.report.gather import gather
        from dcgan_core.report.page import render

        manifests = {name: self.input_manifest(store, name) for name in self.inputs}
        content = gather(store, manifests, self.config, self.preset)
        # The page shows when and how fast things were made, so its bytes differ from run to run.
        pages = {"index.html": "../../..", _FROM_ROOT: "../artifacts"}
        files = tuple(
            write_part(store, self.address, name, render(content, artifacts=links).encode(), is_data=False)
            for name, links in pages.items()
        )
        return Receipt(part=0, key=part.key, files=files, counts={"pages": 1})

    def settle(self, store: Store) -> None:
        """Put this run's page where the newest report lies."""
        store.copy(self.address.part_path(_FROM_ROOT), LATEST_REPORT)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts)
