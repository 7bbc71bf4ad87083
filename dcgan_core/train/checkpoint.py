"""Everything a resumed run needs, as safetensors and a small JSON file written last; no pickled code."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.optim import Adam

from dcgan_core.artifacts import Address, PartFile, write_part
from dcgan_core.storage import Store, sha256_hex

FOLDER = "checkpoints"
Tensors = Mapping[str, Mapping[str, Tensor]]
"""By file, then by name."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is there: its plain facts (step, key, metrics so far, ...) and its files."""

    step: int
    facts: dict[str, Any]
    files: tuple[PartFile, ...]


def save(store: Store, address: Address, step: int, tensors: Tensors, facts: Mapping[str, Any]) -> Saved:
    """Write ``checkpoints/step-.../``; without its ``state.json``, written last, it does not exist."""
    folder = folder_of(step)
    files = [
        write_part(store, address, f"{folder}/{name}.safetensors", save_tensors(dict(group)), is_data=False)
        for name, group in tensors.items()
    ]
    state = {"step": step, "files": [file.model_dump() for file in files], **facts}
    text = (json.dumps(state, indent=1) + "\n").encode()
    files.append(write_part(store, address, f"{folder}/state.json", text, is_data=False))
    return Saved(step, dict(facts), tuple(files))


def saved(store: Store, address: Address) -> list[Saved]:
    """All checkpoints, oldest first; one that was cut off counts as none. Tensors are not looked at."""
    found = (_listed(store, address, name) for name in store.names(address.part_path(FOLDER)))
    return [each for each in found if each is not None]


def load(store: Store, address: Address, checkpoint: Saved) -> dict[str, dict[str, Tensor]] | None:
    """Its tensors, every file checked; None where one is damaged."""
    tensors: dict[str, dict[str, Tensor]] = {}
    for file in checkpoint.files:
        if file.name.endswith(".safetensors"):
            try:
                data = store.read_bytes(address.part_path(file.name))
            except FileNotFoundError:
                return None
            if sha256_hex(data) != file.sha256:
                return None
            tensors[file.name.rpartition("/")[2].removesuffix(".safetensors")] = load_tensors(data)
    return tensors


def drop_others(store: Store, address: Address, key: str) -> None:
    """Delete checkpoints whose ``key`` is another (of data that have changed since) and those cut off."""
    for name in store.names(address.part_path(FOLDER)):
        found = _listed(store, address, name)
        if found is None or found.facts.get("key") != key:
            store.delete(address.part_path(f"{FOLDER}/{name}"))


def keep(store: Store, address: Address, steps: Collection[int]) -> None:
    """Delete all but the checkpoints of these steps; one that is being deleted does not exist any more."""
    kept = {folder_of(step).rpartition("/")[2] for step in steps}
    for name in store.names(address.part_path(FOLDER)):
        if name not in kept:
            store.delete(address.part_path(f"{FOLDER}/{name}/state.json"))
            store.delete(address.part_path(f"{FOLDER}/{name}"))


def folder_of(step: int) -> str:
    """Where the checkpoint of a step lies, within an artifact."""
    return f"{FOLDER}/step-{step:08d}"


def on_host(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory, contiguous: what a later step changes is not what is being written."""
    return {
        name: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        for name, value in values.items()
    }


def optimiser_tensors(optimiser: Adam) -> dict[str, Tensor]:
    """Adam's state by parameter number and name."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore_optimiser(optimiser: Adam, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``optimiser_tensors``."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        # Fused Adam walks memory, so a moment must lie in it as its parameter does (channels_last).
        alike = torch.empty_like(parameters[int(index)]).copy_(value) if value.ndim else value
        state.setdefault(int(index), {})[name] = alike
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _listed(store: Store, address: Address, name: str) -> Saved | None:
    path = f"{FOLDER}/{name}/state.json"
    try:
        text = store.read_bytes(address.part_path(path))
        facts = json.loads(text)
        files = [PartFile(**file) for file in facts["files"]]
        step = int(facts["step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    files.append(PartFile(name=path, bytes=len(text), sha256=sha256_hex(text), data=False))
    return Saved(step, facts, tuple(files))
