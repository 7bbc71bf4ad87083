"""An append-only record of what is done within a part, item by item: what kill -9 leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dcgan_core.storage import Store

_SEGMENT_BYTES = 8 * 2**20
_SEGMENT_RECORDS = 64


@dataclass(frozen=True)
class Entry:
    """One record: what is said of an item, and where its body lies."""

    record: dict[str, Any]
    segment: str
    offset: int
    bytes: int


class Journal:
    """Records by key, each with a body, appended and never changed; the last one of a key counts.

    On local disk a record is one write to one file, so that it is there as soon as ``append`` returns, even
    if this process is killed. On an object store, which cannot append, records go out in segments of up to
    64; ``flush`` sends what waits. A record cut off by a kill is dropped when the journal is opened again.
    Not for two writers at once: a part belongs to one worker.
    """

    def __init__(self, store: Store, path: str, *, sent_by_others: bool = False) -> None:
        """``sent_by_others``: segments are not sent by ``append``; whoever asks takes them by themselves."""
        self._store, self._path, self._sent_by_others = store, path, sent_by_others
        self.entries: dict[str, Entry] = {}
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._segments = 0
        self._file: IO[bytes] | None = None
        self._end = 0
        if store.is_local:
            self._open_local(store.local_path(path))
        else:
            for name in store.names(path):
                self._read(store.read_bytes(f"{path}/{name}"), name)
                self._segments = int(name.partition(".")[0]) + 1

    def append(self, key: str, record: Mapping[str, Any], body: bytes | None = None) -> None:
        """Add a record, durably on local disk; on an object store with its segment."""
        data = body or b""
        head = json.dumps({"key": key, "bytes": len(data), **record}).encode() + b"\n"
        if self._file is not None:
            self.entries[key] = Entry(dict(record), "", self._end + len(head), len(data))
            size = len(head) + len(data) + 1
            written = os.writev(self._file.fileno(), (head, data, b"\n"))
            self._end += written
            if written < size:  # a write to a disk may be short
                self._write_on(memoryview(head + data + b"\n")[written:])
            return
        whole = head + data + b"\n"
        entry = Entry(dict(record), self._segment_name, self._waiting_bytes + len(head), len(data))
        self.entries[key] = entry
        self._waiting.append(whole)
        self._waiting_bytes += len(whole)
        if self.is_full and not self._sent_by_others:
            self.flush()

    def _write_on(self, left: memoryview) -> None:
        assert self._file is not None
        while left:
            written = os.write(self._file.fileno(), left)
            self._end += written
            left = left[written:]

    @property
    def is_full(self) -> bool:
        """Whether a segment waits to be sent to the object store."""
        return self._waiting_bytes >= _SEGMENT_BYTES or len(self._waiting) >= _SEGMENT_RECORDS

    def take_segment(self) -> tuple[str, bytes] | None:
        """Path and content of a segment for the caller to write, or None; later records go elsewhere."""
        if not self._waiting:
            return None
        taken = f"{self._path}/{self._segment_name}", b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._segments += 1
        return taken

    def flush(self) -> None:
        """Send what waits to the object store; nothing to do on local disk."""
        if taken := self.take_segment():
            self._store.write_bytes(*taken)

    def body(self, key: str) -> bytes:
        """Body of a key's record, read from where it lies."""
        entry = self.entries[key]
        if not entry.bytes:
            return b""
        if self._file is not None:
            return os.pread(self._file.fileno(), entry.bytes, entry.offset)
        if entry.segment == self._segment_name:
            self.flush()
        path = f"{self._path}/{entry.segment}"
        return self._store.read_range(path, entry.offset, entry.offset + entry.bytes)

    def close(self) -> None:
        """Leave the journal where it is, to be opened again."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def delete(self) -> None:
        """Remove the journal: its part is committed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._waiting = []
        self._store.delete(self._path)

    @property
    def _segment_name(self) -> str:
        return f"{self._segments:06d}.log"

    def _open_local(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        size = path.stat().st_size
        position = 0
        with path.open("rb") as reader:
            while position < size:
                head = reader.readline()
                record = _head(head)
                end = position + len(head) + (record["bytes"] if record else 0) + 1
                if record is None or end > size:
                    break
                self._enter(record, "", position + len(head))
                reader.seek(end)
                position = end
        if position < size:  # the last record was being written when its writer was killed
            self._file.truncate(position)
        self._end = position

    def _read(self, data: bytes, segment: str) -> None:
        position = 0
        while position < len(data):
            newline = data.find(b"\n", position) + 1
            record = _head(data[position:newline]) if newline else None
            if record is None or newline + record["bytes"] + 1 > len(data):
                return
            position = newline + record["bytes"] + 1
            self._enter(record, segment, newline)

    def _enter(self, record: dict[str, Any], segment: str, offset: int) -> None:
        key, size = record.pop("key"), record.pop("bytes")
        self.entries[key] = Entry(record, segment, offset, size)


def _head(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"key", "bytes"} <= record.keys() else None
