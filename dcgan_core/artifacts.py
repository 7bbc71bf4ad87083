"""What a stage leaves behind: parts, receipts and, written last, a manifest, at a fingerprint's address."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dcgan_core.errors import ConfigError, CorruptArtifact
from dcgan_core.storage import Store, sha256_hex

if TYPE_CHECKING:
    from dcgan_core.config import Json

SCHEMA = 1
FOLDER = "artifacts"
LATEST_REPORT = "report/index.html"
"""The report of the latest run also lies here, under the root, where it can be bookmarked."""
FLAG = "forgotten_photos_seen"
"""Metric of a model's manifest: how many photos that are gone now it was trained on."""


@dataclass(frozen=True, order=True)
class Address:
    """The name of an artifact: what it is and the fingerprint of everything it follows from."""

    artifact: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.artifact}/{self.fingerprint}"

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.artifact}/{self.fingerprint}"

    def part_path(self, name: str) -> str:
        return f"{self.path}/parts/{name}"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartFile(_Record):
    """One committed file; ``data=False`` marks what may differ from run to run (times, addresses)."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None
    data: bool = True


class Receipt(_Record):
    """Proof that a part is done: a restart does only the parts without one."""

    part: int
    key: str
    files: tuple[PartFile, ...]
    counts: dict[str, int] = {}
    metrics: dict[str, Any] = {}


class InputRecord(_Record):
    """An artifact that was read, and the hash of the bytes it had."""

    fingerprint: str
    content: str


class Manifest(_Record):
    """The only truth about what exists; no manifest, no artifact."""

    schema_version: int
    artifact: str
    fingerprint: str
    version: int
    config: dict[str, Any]
    source: dict[str, Any]
    seed: int
    exclusions: str = ""
    """Digest of the exclusion list it was made under; empty where there was none."""
    inputs: dict[str, InputRecord]
    predecessor: str | None
    parts: tuple[Receipt, ...]
    counts: dict[str, int]
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def address(self) -> Address:
        return Address(self.artifact, self.fingerprint)

    @property
    def files(self) -> list[PartFile]:
        return [file for receipt in self.parts for file in receipt.files]

    @property
    def content(self) -> str:
        """Hash of all data files: equal content means equal bytes, whatever made them."""
        return fingerprint_of([[file.name, file.sha256] for file in self.files if file.data], length=64)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def finished(self) -> datetime:
        return datetime.fromisoformat(self.provenance["finished"])

    def named(self, prefix: str) -> list[PartFile]:
        """Files whose names start with ``prefix``, in order of their names, numbers in these as numbers."""
        return sorted(
            (file for file in self.files if file.name.startswith(prefix)),
            key=lambda file: _natural(file.name),
        )


def _natural(name: str) -> list[str | int]:
    """What names are sorted by: parts from 100,000 on have a digit more."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def fingerprint_of(value: Json | list[Any] | dict[str, Any], length: int = 16) -> str:
    """First hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_hex(text.encode())[:length]


def as_json(value: Any) -> Any:
    """The value as it is read back from a JSON file, for comparisons with one: tuples become lists."""
    return json.loads(json.dumps(value))


def read_manifest(store: Store, address: Address) -> Manifest | None:
    """The manifest at an address, or None where the artifact does not exist."""
    path = f"{address.path}/manifest.json"
    try:
        text = store.read_bytes(path)
    except FileNotFoundError:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CorruptArtifact(store.uri(path), f"not a manifest ({error.error_count()} errors)") from None


def readable_manifest(store: Store, address: Address) -> Manifest | None:
    """The manifest at an address, or None where there is none that can be read."""
    try:
        return read_manifest(store, address)
    except CorruptArtifact:
        return None


def write_manifest(store: Store, manifest: Manifest) -> None:
    text = manifest.model_dump_json(indent=1)
    store.write_bytes(f"{manifest.address.path}/manifest.json", text.encode())


def read_receipts(store: Store, address: Address) -> dict[int, Receipt]:
    """Receipts by part; a receipt that cannot be read counts as none."""
    receipts = {}
    for name in store.names(f"{address.path}/receipts"):
        try:
            receipt = Receipt.model_validate_json(store.read_bytes(f"{address.path}/receipts/{name}"))
        except (ValidationError, FileNotFoundError):
            continue
        receipts[receipt.part] = receipt
    return receipts


def read_receipt(store: Store, address: Address, part: int) -> Receipt:
    """The receipt of a part that is done; CorruptArtifact where it is missing or damaged."""
    path = f"{address.path}/receipts/{part:05d}.json"
    try:
        return Receipt.model_validate_json(store.read_bytes(path))
    except FileNotFoundError:
        raise CorruptArtifact(store.uri(path), "the file is missing") from None
    except ValidationError:
        raise CorruptArtifact(store.uri(path), "it is no receipt") from None


def write_receipt(store: Store, address: Address, receipt: Receipt) -> None:
    path = f"{address.path}/receipts/{receipt.part:05d}.json"
    store.write_bytes(path, receipt.model_dump_json().encode())


def write_part(
    store: Store, address: Address, name: str, data: bytes, *, rows: int | None = None, is_data: bool = True
) -> PartFile:
    """Write one file of a part and return its record."""
    store.write_bytes(address.part_path(name), data)
    return PartFile(name=name, bytes=len(data), sha256=sha256_hex(data), rows=rows, data=is_data)


def read_part(store: Store, address: Address, file: PartFile) -> bytes:
    """Content of a committed file, checked against its record; CorruptArtifact where it differs."""
    path = address.part_path(file.name)
    wrong = ""
    for _ in range(1 if store.is_local else 2):  # bytes that came over a network are asked for once more
        try:
            data = store.read_bytes(path)
        except FileNotFoundError:
            raise CorruptArtifact(store.uri(path), "the file is missing") from None
        wrong = _difference(data, file)
        if not wrong:
            return data
    raise CorruptArtifact(store.uri(path), wrong)


def _difference(data: bytes, file: PartFile) -> str:
    if len(data) != file.bytes:
        return f"{len(data)} bytes instead of {file.bytes}"
    return "" if sha256_hex(data) == file.sha256 else "its sha256 differs from the manifest's"


def all_manifests(store: Store, artifact: str | None = None) -> list[Manifest]:
    """All finished artifacts (of one kind), oldest first; one whose manifest is damaged is left out."""
    kinds = [artifact] if artifact else store.names(FOLDER)
    found = [
        manifest
        for kind in kinds
        for fingerprint in store.names(f"{FOLDER}/{kind}")
        if (manifest := readable_manifest(store, Address(kind, fingerprint)))
    ]
    return sorted(found, key=lambda manifest: (manifest.finished, manifest.artifact, manifest.fingerprint))


def find(store: Store, text: str) -> Manifest:
    """The artifact a user names: ``kind/fingerprint``, a beginning of it, or ``kind`` for the latest one."""
    kind, _, beginning = text.strip("/").partition("/")
    found = [m for m in all_manifests(store, kind) if m.fingerprint.startswith(beginning)] if kind else []
    if not found:
        kinds = ", ".join(store.names(FOLDER)) or "none yet"
        raise ConfigError(
            f"there is no artifact {text!r} under {store.root}; kinds: {kinds}; see: dcgan list artifacts"
        )
    return found[-1]


def remove(store: Store, address: Address) -> None:
    """Delete an artifact: the manifest first, so that it is never half there."""
    store.delete(f"{address.path}/manifest.json")
    store.delete(f"{address.path}/receipts")
    store.delete(address.path)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
