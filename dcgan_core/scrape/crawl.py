"""Crawling many parts at once in one event loop: hosts in turn, outcomes journaled, parts committed."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dcgan_core.artifacts import Address, Receipt, now, write_receipt
from dcgan_core.exclusions import Exclusions
from dcgan_core.journal import Journal
from dcgan_core.progress import Progress
from dcgan_core.scrape.earlier import Earlier, Known, carried_over
from dcgan_core.scrape.fetch import Fetcher, Manners, Validators
from dcgan_core.scrape.photos import (
    FACTS,
    FETCHES,
    PHOTOS,
    count_carried,
    count_outcomes,
    excluded_row,
    fetch_row,
    photo_row,
)
from dcgan_core.scrape.sources import Item, Outcome, host_of
from dcgan_core.stage import Part
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows, write_stream

MOST_OPEN_PARTS = 96
OPEN_PARTS_PER_LANE = 2
"""The next part of a lane begins while the slowest urls of the one before are still under way."""
MOST_WAITING = 4096
"""Urls taken into memory beyond which no further part is opened."""

_FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class Task:
    """What a crawl is about; the same for all its parts."""

    store: Store
    address: Address
    rows_of: Callable[[Part], list[dict[str, Any]]]
    """The candidates of a part."""
    excluded_of: Callable[[Part], Mapping[str, str]]
    """Keys of the part's excluded candidates, and why."""
    max_pixels: int
    exclusions: Exclusions
    as_of: str | None
    earlier: Earlier | None = None


@dataclass
class _OpenPart:
    part: Part
    rows: list[dict[str, Any]]
    excluded: Mapping[str, str]
    journal: Journal
    facts: Mapping[str, Mapping[str, Any]]
    """Rows of what is fetched, by key."""
    missing: int = 0
    sending: set[asyncio.Task[None]] = field(default_factory=set)
    """Segments of the journal on their way to an object store."""


@dataclass
class _Queue:
    """Urls of one host that wait, and how many of them are under way."""

    waiting: deque[tuple[_OpenPart, Item]] = field(default_factory=deque)
    running: int = 0


class Crawl:
    """Parts in, receipts out, as parts end. ``async with`` it, then ask ``next_receipt`` until None.

    A url's outcome goes to its part's journal as soon as it is known, body and all; when a part's last
    outcome is there, its rows are written from the journal, and the journal goes. What is held in memory
    are the urls of the open parts and the bodies on their way.
    """

    def __init__(self, task: Task, manners: Manners, parts: Sequence[Part], progress: Progress) -> None:
        self._task, self._progress = task, progress
        self._fetcher = Fetcher(manners)
        self._per_host = manners.per_host
        self._total = sum(part.items for part in parts)
        self._seen = 0
        self._lanes: dict[str, deque[Part]] = {}
        for part in parts:
            self._lanes.setdefault(part.lane, deque()).append(part)
        self._turns = deque(self._lanes)
        self._open_in_lane: Counter[str] = Counter()
        self._open: set[int] = set()
        self._parts: dict[int, _OpenPart] = {}
        self._hosts: dict[str, _Queue] = {}
        self._waiting = 0
        self._ended: asyncio.Queue[Receipt | BaseException] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_writer = asyncio.Semaphore(1)

    async def __aenter__(self) -> Crawl:
        await self._fetcher.__aenter__()
        if not self._task.store.is_local:
            self._start(self._flush_now_and_then())
        self._open_more()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for opened in self._parts.values():
            opened.journal.close()
        await self._fetcher.__aexit__(None, None, None)

    async def next_receipt(self) -> Receipt | None:
        """The receipt of the next part to end; None after the last."""
        if not self._open and not any(self._lanes.values()) and self._ended.empty():
            return None
        ended = await self._ended.get()
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def _open_more(self) -> None:
        """Open parts, lane by lane, as far as memory and open files allow."""
        idle = 0
        while self._turns and idle < len(self._turns):
            if len(self._open) >= MOST_OPEN_PARTS or self._waiting >= MOST_WAITING:
                return
            lane = self._turns[0]
            self._turns.rotate(-1)
            if not self._lanes[lane]:
                self._turns.remove(lane)
            elif self._open_in_lane[lane] >= OPEN_PARTS_PER_LANE:
                idle += 1
            else:
                idle = 0
                self._open_part(self._lanes[lane].popleft())

    def _open_part(self, part: Part) -> None:
        task = self._task
        path = f"{task.address.path}/journal/{part.payload.base}"
        journal = Journal(task.store, path, sent_by_others=True)
        rows = task.rows_of(part)
        facts = {row["key"]: row for row in rows if row["status"] == "ok"}
        opened = _OpenPart(part, rows, task.excluded_of(part), journal, facts)
        self._parts[part.index] = opened
        self._open.add(part.index)
        self._open_in_lane[part.lane] += 1
        missing = []
        for row in opened.rows:
            done = row["key"] in journal.entries and not _is_kept(journal, row["key"])
            if row["status"] != "ok" or row["key"] in opened.excluded or done:
                self._seen += 1
            else:
                missing.append(Item(row["key"], row["url"], url=row["url"]))
        opened.missing = len(missing)
        self._waiting += len(missing)
        hosts = set()
        for item in missing:
            host = host_of(item.locator)
            hosts.add(host)
            self._hosts.setdefault(host, _Queue()).waiting.append((opened, item))
        for host in sorted(hosts):
            self._run(host)
        if not missing:
            self._start(self._commit(opened))

    def _run(self, host: str) -> None:
        """Start as many urls of a host as could be under way at once; its turnstile decides which are."""
        queue = self._hosts[host]
        for _ in range(min(len(queue.waiting), self._per_host - queue.running)):
            queue.running += 1
            self._start(self._serve(host, queue))

    async def _serve(self, host: str, queue: _Queue) -> None:
        """One of up to ``per_host`` that work off a host's urls."""
        while queue.waiting:
            await self._one(*queue.waiting.popleft())
        queue.running -= 1
        if not queue.running and not queue.waiting and self._hosts.get(host) is queue:
            del self._hosts[host]

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._ended.put_nowait(error)

    async def _one(self, opened: _OpenPart, item: Item) -> None:
        known = self._known(opened, item.key)
        outcome = None
        if known and known.as_of == self._task.as_of and not known.was_carried:
            outcome = self._taken_over(item, known)  # the same day: there is nothing to ask
        if outcome is None:
            outcome = await self._fetcher.fetch(item, known.validators if known else None)
            if outcome.status == "unchanged":
                outcome = self._taken_over(item, known, outcome) or await self._fetcher.fetch(item)
            facts, max_bytes = opened.facts[item.key], self._fetcher.manners.max_bytes
            outcome = carried_over(outcome, known, facts, max_bytes)
        _write(opened.journal, outcome)
        if opened.journal.is_full:
            self._send(opened)
        self._waiting -= 1
        self._seen += 1
        self._progress(self._seen, self._total, "")
        opened.missing -= 1
        if not opened.missing:
            self._start(self._commit(opened))

    def _known(self, opened: _OpenPart, key: str) -> Known | None:
        """The photo of a key as this edition has carried it over, or as an earlier one has it."""
        if key in opened.journal.entries:
            return _kept(opened.journal, key, opened.facts[key]["licence"])
        return self._task.earlier.find(key) if self._task.earlier else None

    def _taken_over(self, item: Item, known: Known | None, answer: Outcome | None = None) -> Outcome | None:
        body = known.body() if known else None
        if known is None or body is None:
            return None
        return Outcome(
            item,
            "ok",
            data=body,
            http_status=answer.http_status if answer else None,
            etag=(answer.etag if answer else None) or known.validators.etag,
            last_modified=(answer.last_modified if answer else None) or known.validators.last_modified,
            final_url=known.final_url,
            attempts=answer.attempts if answer else 0,
            seconds=answer.seconds if answer else 0.0,
        )

    def _send(self, opened: _OpenPart) -> None:
        """Send a segment of a part's journal to the object store, beside everything else."""
        if taken := opened.journal.take_segment():
            task = asyncio.ensure_future(asyncio.to_thread(self._task.store.write_bytes, *taken))
            opened.sending.add(task)

    async def _commit(self, opened: _OpenPart) -> None:
        self._send(opened)
        await asyncio.gather(*opened.sending)
        async with self._one_writer:  # one part's rows in memory at a time
            receipt = await asyncio.to_thread(self._write_part, opened)
        part = opened.part
        del self._parts[part.index]
        self._open.discard(part.index)
        self._open_in_lane[part.lane] -= 1
        self._ended.put_nowait(receipt)
        self._open_more()

    def _write_part(self, opened: _OpenPart) -> Receipt:
        task, part, journal = self._task, opened.part, opened.journal
        counts = Counter[tuple[str, str]]()
        fetches: list[dict[str, Any]] = []

        def rows() -> Iterator[dict[str, Any]]:
            for candidate in opened.rows:
                row, fetched = self._row(candidate, opened)
                counts[row["status"], row["reason"]] += 1
                fetches.append(fetched)
                yield row

        files = (
            write_stream(task.store, task.address, f"photos-{part.index:05d}.parquet", rows(), PHOTOS),
            write_rows(
                task.store,
                task.address,
                f"fetches-{part.index:05d}.parquet",
                fetches,
                FETCHES,
                is_data=False,
            ),
        )
        statuses, reasons = count_outcomes(counts)
        metrics = {"base": part.payload.base, "excluded": sorted(opened.excluded), "reasons": reasons}
        if carried := count_carried(fetches):
            metrics["carried_over"] = carried
        receipt = Receipt(part=part.index, key=part.key, files=files, counts=statuses, metrics=metrics)
        # The receipt comes before the journal goes: at no moment is there neither.
        write_receipt(task.store, task.address, receipt)
        journal.delete()
        return receipt

    def _row(self, candidate: dict[str, Any], opened: _OpenPart) -> tuple[dict[str, Any], dict[str, Any]]:
        key = candidate["key"]
        item = Item(key, candidate["url"], url=candidate["url"], caption=candidate["caption"])
        if key in opened.excluded:
            return excluded_row(key, opened.excluded[key]), fetch_row(Outcome(item, "excluded", attempts=0))
        if candidate["status"] != "ok":
            outcome = Outcome(item, candidate["status"], candidate["reason"] or "", attempts=0)
            at = None
        else:
            outcome, at = _read(opened.journal, item)
        row = photo_row(outcome, self._task.max_pixels, _facts(candidate), self._task.exclusions)
        if row["status"] == "excluded":
            outcome = Outcome(item, "excluded")
        elif row["status"] != "ok":
            outcome = replace(outcome, carried_over=None, carried_over_reason=None)
        return row, fetch_row(outcome, at)

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            for opened in list(self._parts.values()):
                self._send(opened)


_KEPT = "kept"
"""Status in a journal of a photo that was carried over, and is asked for again; no row ever has it."""


def journal_row(journal: Journal, row: Mapping[str, Any], fetched: Mapping[str, Any]) -> None:
    """Put a photo of a committed part back into a journal, so that its url is not asked for again.

    One that was carried over is asked for again: it is kept for the case that it fails again.
    """
    names = ("attempts", "seconds", "http_status", "etag", "last_modified", "final_url")
    record = {name: fetched[name] for name in names}
    record |= {"status": row["status"], "reason": row["reason"], "at": fetched["fetched_at"]}
    if fetched.get("carried_over"):
        record |= {"status": _KEPT, "carried_over": fetched["carried_over"]}
    journal.append(row["key"], record, row["image"])


def _is_kept(journal: Journal, key: str) -> bool:
    return journal.entries[key].record["status"] == _KEPT


def _kept(journal: Journal, key: str, licence: str | None) -> Known:
    record = journal.entries[key].record
    return Known(
        body=lambda: journal.body(key),
        validators=Validators(record["etag"], record["last_modified"]),
        final_url=record["final_url"],
        licence=licence,
        as_of=None,
        since=record["carried_over"],
        was_carried=True,
    )


def _write(journal: Journal, outcome: Outcome) -> None:
    record = {
        "status": outcome.status,
        "reason": outcome.reason,
        "http_status": outcome.http_status,
        "etag": outcome.etag,
        "last_modified": outcome.last_modified,
        "declared": outcome.declared,
        "final_url": outcome.final_url,
        "attempts": outcome.attempts,
        "seconds": outcome.seconds,
        "carried_over": outcome.carried_over,
        "carried_over_reason": outcome.carried_over_reason,
        "at": now(),
    }
    said = {name: value for name, value in record.items() if value is not None}
    journal.append(outcome.item.key, said, outcome.data)


def _read(journal: Journal, item: Item) -> tuple[Outcome, str]:
    record = dict(journal.entries[item.key].record)
    at = record.pop("at")
    body = journal.body(item.key)
    return Outcome(item, **record, data=body or None), at


def _facts(candidate: Mapping[str, Any]) -> dict[str, Any]:
    return {name: candidate[name] for name in (*FACTS, "sha1")}
