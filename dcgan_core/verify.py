"""Whether an artifact still is what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator

from dcgan_core.artifacts import Manifest, PartFile, read_part
from dcgan_core.errors import CorruptArtifact
from dcgan_core.storage import Store
from dcgan_core.tables import count_rows


def problems(store: Store, manifest: Manifest) -> Iterator[tuple[PartFile, str | None]]:
    """Every file of an artifact with what is wrong with it: missing, other bytes, other rows, or None."""
    for file in manifest.files:
        try:
            data = read_part(store, manifest.address, file)
        except CorruptArtifact as error:
            yield file, str(error)
            continue
        rows = count_rows(data) if file.rows is not None and file.name.endswith(".parquet") else file.rows
        wrong = None if rows == file.rows else f"{file.name}: {rows} rows instead of {file.rows}"
        yield file, wrong
