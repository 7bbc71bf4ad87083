"""Going on from a shorter run: its checkpoints are taken over where a longer one would pass through them."""

from __future__ import annotations

from dcgan_core.artifacts import FOLDER, Address
from dcgan_core.train import checkpoint
from dcgan_core.train.checkpoint import Saved
from dcgan_core.train.state import Job


def take_over(job: Job, steps: int) -> int:
    """Copy the newest checkpoint of a run over the same data with the same settings but its length, where
    there is one of at most ``steps`` and none here; returns its step, 0 where there was none.

    The weights are then those of a straight run; the log has one more line, that of the shorter run's end.
    """
    store = job.store
    if checkpoint.saved(store, job.address):
        return 0
    found: list[tuple[int, str, Address, Saved]] = []
    for name in store.names(f"{FOLDER}/{job.address.artifact}"):
        address = Address(job.address.artifact, name)
        for each in checkpoint.saved(store, address) if address != job.address else []:
            alike = each.facts.get("key") == job.key and each.facts.get("settings") == job.settings
            if alike and each.step <= steps:
                found.append((each.step, name, address, each))
    if not found:
        return 0
    step, _, address, newest = max(found, key=lambda each: each[:2])
    pictures = [file["name"] for file in newest.facts["samples"]]
    for name in [*pictures, *(file.name for file in newest.files)]:  # state.json is the last of them
        store.copy(address.part_path(name), job.address.part_path(name))
    return step
