"""The model that a user names: an artifact, a folder or a file, and where its run's artifacts are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgan_core.artifacts import FOLDER, Address, Manifest, find, readable_manifest
from dcgan_core.errors import ConfigError
from dcgan_core.models.weights import Model, load_model, load_trained
from dcgan_core.storage import Store


@dataclass(frozen=True)
class Opened:
    """A model, how to call it, and the artifact it belongs to where that is known."""

    model: Model
    name: str
    store: Store | None = None
    manifest: Manifest | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """``seed``, ``config`` and ``counts`` of the training, as far as they are known."""


def open_model(text: str, store: Store) -> Opened:
    """The model of an artifact (``train``, ``train/3f9a``), or at a path or fsspec url.

    A path goes before an artifact of the same name. Raises ConfigError where there is neither, and
    CorruptArtifact where an artifact's file is damaged.
    """
    here = Path(text).expanduser()
    if "://" in text:
        return Opened(load_model(text), text)
    if here.is_file() or _may_hold_a_model(here) or here.suffix == ".safetensors":
        store_of_it, manifest = _run_of(here)
        facts = _facts(manifest) if manifest else _facts_beside(here)
        return Opened(load_model(here), text, store_of_it, manifest, facts)
    try:
        manifest = find(store, text)
    except ConfigError as error:
        if here.is_dir():
            load_model(here)  # says what is missing
        raise ConfigError(f"{error}; nor is there a folder or file of that name") from None
    return Opened(load_trained(store, manifest), str(manifest.address), store, manifest, _facts(manifest))


def _may_hold_a_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("model.json", "parts/model.json", "state.json"))


def _run_of(here: Path) -> tuple[Store | None, Manifest | None]:
    """The root and the manifest of the artifact that a local path lies in."""
    for folder in (here.absolute(), *here.absolute().parents):
        if (folder / "manifest.json").is_file() and folder.parents[1].name == FOLDER:
            store = Store(str(folder.parents[2]))
            return store, readable_manifest(store, Address(folder.parent.name, folder.name))
    return None, None


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {"seed": manifest.seed, "config": manifest.config, "counts": manifest.counts}


def _facts_beside(here: Path) -> dict[str, Any]:
    """Those that ``model.json`` has kept, of a copied folder or a file in it."""
    folder = here.parent if here.is_file() else here
    for path in (folder / "model.json", folder / "parts" / "model.json"):
        if path.is_file():
            about = json.loads(path.read_bytes())
            return {name: about[name] for name in ("seed", "config", "counts") if name in about}
    return {}
