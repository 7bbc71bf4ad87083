"""Which artifacts may go: all but the newest of each kind and what those were made from."""

from __future__ import annotations

from collections.abc import Sequence

from dcgan_core.artifacts import FOLDER, Address, Manifest, readable_manifest
from dcgan_core.storage import Store


def superseded(manifests: Sequence[Manifest], keep: int) -> list[Manifest]:
    """Artifacts neither among the newest ``keep`` of their kind nor an input of one that is, oldest first."""
    by_address = {manifest.address: manifest for manifest in manifests}
    kept: set[Address] = set()
    kinds = {manifest.artifact for manifest in manifests}
    for kind in kinds:
        of_kind = sorted((m for m in manifests if m.artifact == kind), key=lambda manifest: manifest.finished)
        for manifest in of_kind[-keep:] if keep else []:
            _keep_with_inputs(manifest.address, by_address, kept)
    return [manifest for manifest in manifests if manifest.address not in kept]


def unfinished(store: Store) -> list[Address]:
    """Folders of artifacts without a readable manifest: being made, cut off (a rerun goes on), or damaged."""
    return [
        Address(kind, fingerprint)
        for kind in store.names(FOLDER)
        for fingerprint in store.names(f"{FOLDER}/{kind}")
        if readable_manifest(store, Address(kind, fingerprint)) is None
    ]


def _keep_with_inputs(address: Address, by_address: dict[Address, Manifest], kept: set[Address]) -> None:
    if address in kept or address not in by_address:
        return
    kept.add(address)
    for name, record in by_address[address].inputs.items():
        _keep_with_inputs(Address(name, record.fingerprint), by_address, kept)
