"""What a run would do and why: what differs from the nearest artifact, and which inputs are missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from dcgan_core.artifacts import Address, Manifest, all_manifests, as_json, readable_manifest
from dcgan_core.exclusions import read_exclusions
from dcgan_core.stage import Stage, is_current
from dcgan_core.storage import Store

_SHOWN, _LONGEST = 8, 40
_ABSENT = "(absent)"


def why_it_would_run(stage: Stage, store: Store, *, refresh: bool = False) -> list[str]:
    """Return the reasons why a run would work on the stage; empty if it would find everything made."""
    if refresh:
        return ["--refresh"]
    current = is_current(stage, store)
    if current is None:
        return why_not_current(stage, store)
    return ["what failed is tried again"] if stage.wants_more(store, current) else []


def why_not_current(stage: Stage, store: Store) -> list[str]:
    """Return what differs from the nearest artifact of the same kind.

    That is the one with the fewest differences, of several the newest. Settings are named as in the
    configuration (``dedup.radius: 10 -> 8``).
    """
    exclusions = read_exclusions(store).digest
    contents = {
        name: there.content
        for name, address in stage.inputs.items()
        if (there := readable_manifest(store, address))
    }
    newest_first = reversed(all_manifests(store, stage.artifact))
    found = [list(_differences(each, stage, exclusions, contents)) for each in newest_first]
    if not found:
        return ["not made yet"]
    nearest = min(found, key=len)
    rest = [f"and {len(nearest) - _SHOWN} more"] if len(nearest) > _SHOWN else []
    return nearest[:_SHOWN] + rest or ["it was removed"]


def missing_inputs(
    stages: Sequence[Stage], pipeline: Iterable[Stage], store: Store
) -> dict[Address, Stage | None]:
    """Return what must be made before some stages can run, and the stage of the pipeline that makes it.

    Inputs of inputs are among it where those must be made as well. What no stage makes (``dedup.encoder``)
    has None. What the given stages make for each other is not missing.
    """
    makers = {stage.address: stage for stage in pipeline}
    own = {stage.address for stage in stages}
    exclusions = read_exclusions(store).digest
    missing: dict[Address, Stage | None] = {}
    wanted = [address for stage in stages for address in stage.inputs.values()]
    while wanted:
        address = wanted.pop(0)
        there = readable_manifest(store, address)
        if address in own | missing.keys() or (there is not None and there.exclusions == exclusions):
            continue
        missing[address] = maker = makers.get(address)
        wanted += maker.inputs.values() if maker else []
    return missing


def _differences(
    manifest: Manifest, stage: Stage, exclusions: str, contents: Mapping[str, str]
) -> Iterator[str]:
    yield from _leaves(stage.flow, manifest.config, as_json(stage.settings()))
    yield from _leaves("source", manifest.source, as_json(stage.source()))
    yield from _leaves("seed", manifest.seed, stage.seed)
    yield from _leaves("version", manifest.version, stage.version)
    if manifest.exclusions != exclusions:
        yield "exclusions: the list has changed"
    for name, address in stage.inputs.items():
        record = manifest.inputs.get(name)
        if record is None or record.fingerprint != address.fingerprint:
            yield f"input {name}: {record.fingerprint if record else _ABSENT} -> {address.fingerprint}"
        elif contents.get(name, record.content) != record.content:
            yield f"input {name}: its content has changed"


def _leaves(path: str, old: Any, new: Any) -> Iterator[str]:
    """The places where two JSON values differ, each with both values."""
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _leaves(f"{path}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _leaves(f"{path}[{number}]", one, other)
    else:
        yield f"{path}: {' -> '.join(_shortened(_text(old), _text(new)))}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shortened(old: str, new: str) -> list[str]:
    """Long texts cut so that what differs is seen."""
    if max(len(old), len(new)) <= _LONGEST:
        return [old, new]
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    begin = max(0, common - 10)
    return [
        ("..." if begin else "") + text[begin : begin + _LONGEST] + "..." * (len(text) > begin + _LONGEST)
        for text in (old, new)
    ]
