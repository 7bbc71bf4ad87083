"""Records of `evaluate` kept in the repository: one JSON file for each labelled set of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcgan_core.artifacts import Manifest, read_part
from dcgan_core.config import PipelineConfig
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.results import Record, page, record_from_json
from dcgan_core.storage import Store


def records_of(
    store: Store, scores: Manifest, train: Manifest, config: PipelineConfig, command: str, note: str = ""
) -> list[Record]:
    """What a finished `scores` artifact says of each of its sets, with how it came about."""
    by_set: dict[str, list[dict[str, Any]]] = {}
    for part in scores.parts:
        (file,) = (file for file in part.files if file.name.startswith("scores-"))
        score = json.loads(read_part(store, scores.address, file))
        by_set.setdefault(score["set"], []).append({**score, "machine": part.metrics.get("machine", "")})
    if not by_set:
        raise ConfigError("nothing was judged: evaluate.sets is empty; name labelled sets and run evaluate")
    counts, place = train.counts, Path(config.scrape.path).name
    images = f"{counts['samples']:,} images of {config.scrape.source}{f' ({place})' if place else ''}"
    return [
        Record(
            set=name,
            protocol=same[0]["protocol"],
            source=same[0]["source"],
            classes=len(same[0]["classes"]),
            train=same[0]["train"],
            test=same[0]["test"],
            rows=tuple(_row(score, row) for score in same for row in score["rows"]),
            net=config.train.net,
            trained_on=images,
            images_seen=counts["images_seen"],
            updates=f"{counts['g_updates']:,} updates of G and {counts['d_updates']:,} of D",
            machine=same[0]["machine"],
            date=str(scores.provenance.get("finished", ""))[:10],
            command=command,
            note=note,
        )
        for name, same in by_set.items()
    ]


def keep(folder: Path, records: Sequence[Record], fingerprint: str) -> None:
    """Write a file for each record; one of the same run is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n"
        (folder / f"{record.set}-{fingerprint[:8]}.json").write_text(text, encoding="utf-8")


def page_of(folder: Path) -> str:
    """The page of all records in a folder, by date, set and name. ConfigError for a file that is none."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(record_from_json(json.loads(path.read_text(encoding="utf-8"))))
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no record of a score: {error}; delete it or make it anew") from None
    return page(sorted(records, key=lambda record: (record.set, record.date)))


def _row(score: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row without its details, with what its part says of it: kind, machine, and of a random search the
    smallest validation error."""
    kept = {name: value for name, value in row.items() if name not in ("confusion", "trials")}
    errors = [trial["validation_error"] for trial in score["search"] if trial["status"] == "ok"]
    found = {"validation_error": min(errors)} if errors else {}
    return {**kept, "kind": score["kind"], "machine": score["machine"], **found}
