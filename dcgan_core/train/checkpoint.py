"""Everything a resumed run needs, as safetensors and a small JSON file written last; no pickled code."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


@dataclass(frozen=True)
class Checkpoint:
    """A state that was saved: tensors by file and name, and plain facts (step, metrics so far, ...)."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    files: tuple[PartFile, ...]


def save(
    store: Store,
    address: Address,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
) -> tuple[PartFile, ...]:
    """Write ``checkpoints/step-.../`` and return its files; without its ``state.json`` it does not exist."""
    folder = f"{FOLDER}/step-{step:08d}"
    files = [
        write_part(
            store,
            address,
            f"{folder}/{name}.safetensors",
            save_tensors({key: value.detach().cpu().contiguous() for key, value in group.items()}),
            is_data=False,
        )
        for name, group in tensors.items()
    ]
    state = {"step": step, "sha256": {file.name: file.sha256 for file in files}, **facts}
    text = (json.dumps(state, indent=1) + "\n").encode()
    return (*files, write_part(store, address, f"{folder}/state.json", text, is_data=False))


def whole(store: Store, address: Address) -> list[Checkpoint]:
    """All checkpoints, oldest first; one that was cut off or damaged counts as none."""
    found = (_read(store, address, name) for name in store.names(address.part_path(FOLDER)))
    return [checkpoint for checkpoint in found if checkpoint is not None]


def drop_others(store: Store, address: Address, key: str) -> None:
    """Delete checkpoints whose ``key`` is another (of data that have changed since) and those cut off."""
    for name in store.names(address.part_path(FOLDER)):
        folder = address.part_path(f"{FOLDER}/{name}")
        try:
            belongs = json.loads(store.read_bytes(f"{folder}/state.json"))["key"] == key
        except (FileNotFoundError, ValueError, KeyError):
            belongs = False
        if not belongs:
            store.delete(folder)


def keep_latest(store: Store, address: Address, kept: int) -> list[str]:
    """Delete all but the latest ``kept`` checkpoints; returns the names of those left."""
    names = store.names(address.part_path(FOLDER))
    for name in names[:-kept]:
        store.delete(address.part_path(f"{FOLDER}/{name}/state.json"))
        store.delete(address.part_path(f"{FOLDER}/{name}"))
    return names[-kept:]


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


def _read(store: Store, address: Address, name: str) -> Checkpoint | None:
    folder = f"{FOLDER}/{name}"
    try:
        text = store.read_bytes(address.part_path(f"{folder}/state.json"))
        facts = json.loads(text)
        tensors: dict[str, dict[str, Tensor]] = {}
        files = []
        for path, sha256 in facts["sha256"].items():
            data = store.read_bytes(address.part_path(path))
            if sha256_hex(data) != sha256:
                return None
            tensors[path.rpartition("/")[2].removesuffix(".safetensors")] = load_tensors(data)
            files.append(PartFile(name=path, bytes=len(data), sha256=sha256, data=False))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    files.append(PartFile(name=f"{folder}/state.json", bytes=len(text), sha256=sha256_hex(text), data=False))
    return Checkpoint(facts["step"], tensors, facts, tuple(files))
