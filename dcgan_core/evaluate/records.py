"""Records of `evaluate` kept in the repository: a JSON file for each labelled set, and for the generator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcgan_core.artifacts import Manifest, fingerprint_of, read_part
from dcgan_core.config import PipelineConfig
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.results import Measures, Record, page, record_from_json
from dcgan_core.storage import Store


def records_of(
    store: Store,
    scores: Manifest,
    quality: Manifest | None,
    train: Manifest,
    config: PipelineConfig,
    command: str,
    note: str = "",
) -> dict[str, Record | Measures]:
    """What finished artifacts say of each labelled set and of the generator, with how it came about.

    By the name of the file that each is kept in: that of the set, or ``generator``, and what the net and the
    set's images are known by, so that further baselines or measures of the same take the place of fewer.
    """
    by_set: dict[str, list[dict[str, Any]]] = {}
    for part in scores.parts:
        (file,) = (file for file in part.files if file.name.startswith("scores-"))
        score = json.loads(read_part(store, scores.address, file))
        by_set.setdefault(score["set"], []).append({**score, "machine": part.metrics.get("machine", "")})
    counts, place = train.counts, Path(config.scrape.path).name
    source = f"{config.scrape.source} ({place})" if place else config.scrape.source
    run = {
        "net": config.train.net,
        "trained_on": f"{counts['samples']:,} images of {source}",
        "images_seen": counts["images_seen"],
        "updates": f"{counts['g_updates']:,} updates of G and {counts['d_updates']:,} of D",
        "command": command,
        "note": note,
    }
    records: dict[str, Record | Measures] = {
        f"{name}-{_known_by(train, same[0])}": Record(
            set=name,
            protocol=same[0]["protocol"],
            source=same[0]["source"],
            classes=len(same[0]["classes"]),
            train=same[0]["train"],
            test=same[0]["test"],
            rows=tuple(_row(score, row) for score in same for row in score["rows"]),
            machine=same[0]["machine"],
            date=_date(scores),
            **run,
        )
        for name, same in by_set.items()
    }
    if quality is not None and (files := quality.named("quality-")):
        records[f"generator-{train.fingerprint[:8]}"] = Measures(
            measures=tuple(json.loads(read_part(store, quality.address, file)) for file in files),
            machine=quality.parts[-1].metrics["machine"],
            date=_date(quality),
            **run,
        )
    if not records:
        raise ConfigError(
            "nothing was judged: evaluate.sets and evaluate.quality are empty; name sets or measures and run "
            "evaluate"
        )
    return records


def keep(folder: Path, records: Mapping[str, Record | Measures]) -> None:
    """Write a file for each record; one of the same run is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def page_of(folder: Path) -> str:
    """The page of all records in a folder, by set and date. ConfigError for a file that is none."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(record_from_json(json.loads(path.read_text(encoding="utf-8"))))
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no record of a score: {error}; delete it or make it anew") from None
    return page(sorted(records, key=lambda record: (record.about, record.date)))


def without_details(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row of `scores` is kept in a record."""
    return {name: value for name, value in row.items() if name not in ("confusion", "trials")}


def _known_by(train: Manifest, score: dict[str, Any]) -> str:
    facts = [score[name] for name in ("protocol", "source", "classes", "train", "test")]
    return fingerprint_of([train.fingerprint, *facts], 8)


def _date(manifest: Manifest) -> str:
    return str(manifest.provenance.get("finished", ""))[:10]


def _row(score: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row without its details, with what its part says of it: kind, machine, and of a random search the
    smallest validation error."""
    errors = [trial["validation_error"] for trial in score["search"] if trial["status"] == "ok"]
    found = {"validation_error": min(errors)} if errors else {}
    return {**without_details(row), "kind": score["kind"], "machine": score["machine"], **found}
