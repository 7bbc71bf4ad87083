"""The stage `people`: names to search for, from DBpedia by date of birth or from a plain file."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from dcgan_core.artifacts import Receipt
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError, FetchError, NoUsableData
from dcgan_core.exclusions import normal_name, read_exclusions
from dcgan_core.journal import Journal
from dcgan_core.progress import Progress
from dcgan_core.scrape.fetch import Fetcher
from dcgan_core.scrape.names import best_name, readable_date, tidy_name
from dcgan_core.scrape.sources import item_key, printable
from dcgan_core.scrape.web import manners_of
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store, open_location, read_whole, sha256_hex
from dcgan_core.tables import write_rows

PEOPLE = pa.schema(
    [
        ("key", pa.string()),
        ("person", pa.string()),
        ("name", pa.string()),
        ("birth", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""One row per person; ``person`` is DBpedia's uri, null for a name of a file."""

Row = tuple[str, str, str]  # person's uri, a name, a date of birth as it is written there

_QUERY = """PREFIX dbo: <http://dbpedia.org/ontology/>
PREFIX foaf: <http://xmlns.com/foaf/0.1/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>
SELECT ?person ?name ?birth WHERE {{ {{
SELECT DISTINCT ?person ?name ?birth WHERE {{
  ?person a dbo:Person ; dbo:birthDate ?birth ; rdfs:label|foaf:name ?name .
  FILTER (?birth >= "{start}"^^xsd:date && ?birth < "{stop}"^^xsd:date)
  FILTER (lang(?name) = "en" || lang(?name) = "")
}} ORDER BY ?person ?name ?birth
}} }} LIMIT {limit} OFFSET {offset}"""
# The inner select is sorted, the outer one is cut: Virtuoso refuses to sort more than 10,000 rows otherwise.


class Api(Protocol):
    """What asks an API politely (``Fetcher``)."""

    async def get_json(self, url: str, parameters: dict[str, str]) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class People(Stage):
    """Names of people. One part; within it each answered window of dates is kept, so a kill loses one."""

    artifact: ClassVar[str] = "people"
    flow: ClassVar[str] = "scrape"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "years"

    config: ScrapeConfig

    def settings(self) -> dict[str, Json]:
        if self.config.names_from == "file":
            return self.config.identity("names_from")
        return self.config.identity("names_from", "born_from", "born_to", "as_of")

    def source(self) -> dict[str, Json]:
        return {"names_sha256": sha256_hex(self._file)} if self.config.names_from == "file" else {}

    @cached_property
    def _file(self) -> bytes:
        if not self.config.path:
            raise ConfigError(
                "scrape.path is empty: name a text file with one name a line, or take names from DBpedia: "
                "-o scrape.names_from=dbpedia"
            )
        return read_whole(*open_location(self.config.path, "scrape.path"))

    def plan(self, store: Store) -> Sequence[Part]:
        years = self.config.born_to - self.config.born_from + 1
        return [Part(0, self.part_key(self.source()), None, years)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        excluded = read_exclusions(store).names()
        if self.config.names_from == "file":
            rows = list(_of_file(self._file, self.config.path))
        else:
            journal = Journal(store, f"{self.address.path}/journal/{part.key}")
            try:
                found = asyncio.run(self._ask(journal, progress))
                rows = people_rows(found, self.config.born_from, self.config.born_to)
            finally:
                journal.close()
        rows = [
            {**row, "status": "excluded", "reason": "on the exclusion list, by name", "name": None}
            if row["name"] and normal_name(row["name"]) in excluded
            else row
            for row in rows
        ]
        file = write_rows(store, self.address, "people-00000.parquet", rows, PEOPLE)
        store.delete(f"{self.address.path}/journal")
        counts = Counter(row["status"] for row in rows)
        return Receipt(part=part.index, key=part.key, files=(file,), counts=dict(counts))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = dict(receipts[0].counts)
        if not counts.get("ok"):
            raise NoUsableData("people", counts, "Widen scrape.born_from and born_to, or look at the file")
        return Summary(counts={"people": sum(counts.values()), **dict(sorted(counts.items()))})

    async def _ask(self, journal: Journal, progress: Progress) -> list[Row]:
        rows: list[Row] = []
        manners = manners_of(self.config)
        async with Fetcher(manners) as fetcher:
            windows = Windows(fetcher, journal, self.config.dbpedia_url, self.config.row_cap)
            first, last = self.config.born_from, self.config.born_to
            for year in range(first, last + 1):
                rows += await windows.rows(date(year, 1, 1), date(year + 1, 1, 1))
                progress(year - first + 1, last - first + 1, f"born {year}")
        return rows


@dataclass
class Windows:
    """Answers for windows of birth dates, each asked once, halved where an answer may be incomplete."""

    api: Any
    journal: Journal
    url: str
    row_cap: int

    async def rows(self, start: date, stop: date) -> list[Row]:
        """All rows of persons born from ``start`` to before ``stop``. FetchError where they cannot be had."""
        key = f"{start}_{stop}"
        if key not in self.journal.entries:
            rows = await self._whole(start, stop)
            record = {"halved": rows is None}
            self.journal.append(key, record, None if rows is None else json.dumps(rows).encode())
        if self.journal.entries[key].record["halved"]:
            middle = start + (stop - start) / 2
            return await self.rows(start, middle) + await self.rows(middle, stop)
        return [(person, name, birth) for person, name, birth in json.loads(self.journal.body(key))]

    async def _whole(self, start: date, stop: date) -> list[Row] | None:
        """The rows, or None where the window must be halved: a full answer is one that was cut."""
        rows, is_cut = await self._page(start, stop, 0)
        if not is_cut:
            return rows
        if stop - start > timedelta(days=1):
            return None
        while is_cut:  # more on one day than an answer holds: page on
            before = len(rows)
            more, is_cut = await self._page(start, stop, before)
            rows += more
            if is_cut and not more:
                raise FetchError(f"DBpedia gives no complete answer for {start}; run it again later to go on")
        return rows

    async def _page(self, start: date, stop: date, offset: int) -> tuple[list[Row], bool]:
        query = _QUERY.format(start=start, stop=stop, limit=self.row_cap, offset=offset)
        parameters = {
            "default-graph-uri": "http://dbpedia.org",
            "query": query,
            "format": "application/sparql-results+json",
        }
        headers, answer = await self.api.get_json(self.url, parameters)
        try:
            rows = list(_bindings(answer))
        except (KeyError, TypeError):
            raise FetchError(f"{self.url} gives no SPARQL results; check scrape.dbpedia_url") from None
        # Virtuoso says of an answer cut off by its time limit only in a header, with HTTP 200.
        timed_out = "x-sql-state" in headers or "x-sql-message" in headers
        return rows, timed_out or len(rows) >= self.row_cap


def people_rows(found: Iterable[Row], born_from: int, born_to: int) -> list[dict[str, Any]]:
    """One row a person, in order of their uris; whoever cannot be searched for has a status and a reason."""
    names: dict[str, set[str]] = {}
    births: dict[str, set[str]] = {}
    for person, name, birth in found:
        names.setdefault(person, set()).add(name)
        births.setdefault(person, set()).add(birth)
    rows = []
    taken: set[str] = set()
    for person in sorted(names):
        dates = sorted(day for text in births[person] if (day := readable_date(text)))
        within = [day for day in dates if born_from <= int(day[:4]) <= born_to]
        name = best_name(names[person])
        status, reason = "ok", ""
        if name is None:
            status, reason = "no_name", "no label is a name of two words or more"
        elif not within:
            status, reason = "bad_date", "no date of birth exists in the calendar and the range"
        elif normal_name(name) in taken:
            status, reason = "same_name", "another person has this name; one search finds both"
        if status == "ok":
            taken.add(normal_name(name or ""))
        birth = within[0] if within else None
        rows.append(_row(item_key(person), person, name, birth, status, reason))
    return rows


def _of_file(content: bytes, path: str) -> Iterator[dict[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"scrape.path {path} is not UTF-8 text ({error.reason}); convert it") from None
    taken: set[str] = set()
    for line in text.splitlines():
        label = line.strip()
        if not label or label.startswith("#"):
            continue
        name = tidy_name(label) or (label if tidy_name(f"{label} x") else None)  # one word, asked for by name
        status, reason = ("ok", "") if name else ("no_name", "not a name to search for")
        if name and normal_name(name) in taken:
            status, reason = "same_name", "the file has it already"
        taken.add(normal_name(name or ""))
        yield _row(item_key(name or label), None, name, None, status, reason)


def _row(
    key: str, person: str | None, name: str | None, birth: str | None, status: str, reason: str
) -> dict[str, Any]:
    return {"key": key, "person": person, "name": name, "birth": birth, "status": status, "reason": reason}


def _bindings(answer: Any) -> Iterator[Row]:
    """Rows of SPARQL results in JSON; ``typed-literal`` and ``literal`` are the same to us."""
    for binding in answer["results"]["bindings"]:
        if {"person", "name", "birth"} <= binding.keys():
            person, name, birth = (
                printable(str(binding[which]["value"])) for which in ("person", "name", "birth")
            )
            yield person, name, birth
