"""Going on from a shorter run: its checkpoints are taken over where a longer one would pass through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from dcgan_core.artifacts import FOLDER, Address
from dcgan_core.train import checkpoint
from dcgan_core.train.checkpoint import Saved
from dcgan_core.train.state import Job, differences


def take_over(job: Job, steps: int) -> int:
    """Copy the newest checkpoint, and the best by then, of a run over the same data with the same settings
    but its length, where there is one of at most ``steps`` and none here; returns its step, 0 without one.

    The weights are then those of a straight run; the log has one more line, that of the shorter run's end.
    """
    store = job.store
    if store.exists(anew(job.address)) or reached(job):
        return 0
    found: list[tuple[Address, Saved]] = []
    for address, each in _of_other_runs(job):
        # A run scores its last step whatever the interval; a longer one would not have.
        on_time = each.facts.get("best", {}).get("step", 0) % job.config.score_every == 0
        if each.facts.get("settings") == job.settings and on_time and each.step <= steps:
            found.append((address, each))
    if not found:
        return 0
    address, newest = max(found, key=_by_step)
    step = newest.step
    best = newest.facts["best"].get("step")
    files = [file["name"] for file in newest.facts["samples"]]
    for each in checkpoint.saved(store, address):
        files += [file.name for file in each.files] if each.step == best != step else []
    with suppress(FileNotFoundError):  # the other run has gone on and pruned it
        for name in [*files, *(file.name for file in newest.files)]:  # state.json is the last of them
            store.copy(address.part_path(name), job.address.part_path(name))
        return step
    return 0


def reached(job: Job) -> int:
    """The step of the newest checkpoint of this work that is here; 0 where there is none."""
    mine = [each for each in checkpoint.saved(job.store, job.address) if each.facts.get("key") == job.key]
    return max((each.step for each in mine), default=0)


def passed_over(job: Job) -> str:
    """In words, the run over the same data that stopped last before its end and is not gone on from, with
    the settings in which it differs; empty where there is none."""
    unfinished = [
        (address, each)
        for address, each in _of_other_runs(job)
        if not job.store.exists(f"{address.path}/manifest.json")
    ]
    if not unfinished:
        return ""
    address, newest = max(unfinished, key=_by_step)
    changes = differences(newest.facts["settings"], job)
    if not changes:
        return ""
    shown = "; ".join(f"{name}: {there} -> {here}" for name, there, here in changes)
    return f"{address}, at step {newest.step:,}, is another training ({shown}); this one begins anew"


def _of_other_runs(job: Job) -> Iterator[tuple[Address, Saved]]:
    """Checkpoints over the same data at other addresses."""
    for name in job.store.names(f"{FOLDER}/{job.address.artifact}"):
        address = Address(job.address.artifact, name)
        for each in checkpoint.saved(job.store, address) if address != job.address else []:
            if each.facts.get("key") == job.key:
                yield address, each


def _by_step(found: tuple[Address, Saved]) -> tuple[int, str]:
    return found[1].step, found[0].fingerprint


def anew(address: Address) -> str:
    """A mark that nothing is to be taken over: the run was asked for anew, whatever is there."""
    return f"{address.path}/anew"
