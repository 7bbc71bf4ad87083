"""DBpedia's SPARQL endpoint: answers cut without a word, two spellings of literals, dirty data."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from aiohttp import web

from tests.web.server import Double, Faults

HOST = "dbpedia.org"


@dataclass(frozen=True, order=True)
class Person:
    """A person with all labels and dates of birth that the endpoint has."""

    uri: str
    names: tuple[str, ...]
    births: tuple[str, ...]


class DBpedia(Double):
    """``/sparql`` over a list of people; honours the window of dates, LIMIT and OFFSET of the query."""

    def __init__(
        self,
        people: Sequence[Person],
        *,
        row_cap: int = 10_000,
        times_out_above: int | None = None,
        faults: Faults | None = None,
    ) -> None:
        """``times_out_above``: windows of more rows give a part of them and a header that says so."""
        super().__init__(faults)
        self.people, self.row_cap, self.times_out_above = people, row_cap, times_out_above

    async def answer(self, request: web.Request, host: str) -> web.StreamResponse:
        query = request.rel_url.query.get("query", "")
        window = re.findall(r'"(\d{4}-\d{2}-\d{2})"\^\^xsd:date', query)
        if request.rel_url.path != "/sparql" or len(window) != 2 or not request.headers.get("User-Agent"):
            return web.Response(status=400, text="Virtuoso 37000 Error SP030: syntax error")
        limit = int((re.search(r"LIMIT (\d+)", query) or ["", "1000000"])[1])
        offset = int((re.search(r"OFFSET (\d+)", query) or ["", "0"])[1])
        rows = sorted(
            (person.uri, name, birth)
            for person in self.people
            for name in person.names
            for birth in person.births
            if window[0] <= birth[:10].ljust(10, "0") < window[1]
        )
        headers = {}
        if self.times_out_above is not None and len(rows) > self.times_out_above:
            rows = rows[: self.times_out_above // 2]
            headers = {
                "X-SQL-State": "S1TAT",
                "X-SQL-Message": "RC...: Returning incomplete results, query interrupted by result timeout",
            }
        rows = rows[offset : offset + min(limit, self.row_cap)]
        await asyncio.sleep(0)
        return web.json_response(
            {
                "head": {"link": [], "vars": ["person", "name", "birth"]},
                "results": {
                    "distinct": False,
                    "ordered": True,
                    "bindings": [_binding(number, *row) for number, row in enumerate(rows)],
                },
            },
            headers=headers,
            content_type="application/sparql-results+json",
        )


def _binding(number: int, uri: str, name: str, birth: str) -> dict[str, dict[str, str]]:
    kind = "gYear" if len(birth) == 4 else "date"
    return {
        "person": {"type": "uri", "value": uri},
        "name": {"type": "literal", "xml:lang": "en", "value": name},
        "birth": {
            "type": "typed-literal" if number % 2 else "literal",
            "datatype": f"http://www.w3.org/2001/XMLSchema#{kind}",
            "value": birth,
        },
    }


FIRST = ("Jane", "Omar", "Li", "Ana", "Piotr", "Zoë", "Ngozi", "Björn", "Mei", "Rafael", "Ida", "Sam")
LAST = ("Example", "Müller", "O'Neil", "Nakamura", "Silva", "Kowalski", "Okafor", "Berg", "Rossi", "Haddad")


def sample_people(count: int, seed: int = 0, first_year: int = 1970, years: int = 3) -> list[Person]:
    """People with every kind of dirt of the real data, the same for a seed."""
    rng = np.random.default_rng(seed)
    people = []
    for number in range(count):
        name = f"{FIRST[number % len(FIRST)]} {LAST[number // len(FIRST) % len(LAST)]}"
        if number >= len(FIRST) * len(LAST):
            name += f" {chr(65 + number // (len(FIRST) * len(LAST)))}."
        year = first_year + int(rng.integers(years))
        birth = f"{year}-{int(rng.integers(1, 13)):02d}-{int(rng.integers(1, 29)):02d}"
        if number % 4 == 0:
            birth = f"{first_year}-01-01"  # the day of all whose day nobody knows
        first, _, last = name.partition(" ")
        names = [name, f"{last}, {first}", f"{name} (actor)", f"  {first}   {last} "]
        uri = f"http://dbpedia.org/resource/{first}_{last}_{number}".replace(" ", "_")
        people.append(Person(uri, tuple(names[: 1 + number % 4]), (birth,)))
    base = "http://dbpedia.org/resource/"
    return [
        *people,
        Person(f"{base}Impossible_1", ("Never Born",), (f"{first_year}-02-31",)),
        Person(f"{base}Impossible_2", ("Nor Born",), (f"{first_year}-13-01",)),
        Person(f"{base}Twice", ("Born Twice",), (f"{first_year}-05-05", f"{first_year + 1}-05-05")),
        Person(f"{base}Mononym", ("Cher",), (f"{first_year}-05-20",)),
        Person(f"{base}Hostile", ("<script>alert(1)</script>",), (f"{first_year}-06-06",)),
        Person(f"{base}Kanji", ("山田太郎",), (f"{first_year}-06-07",)),
        Person(f"{base}Quoted", ('William "Bill" Quoted',), (f"{first_year}-06-08",)),
        Person(f"{base}Namesake", (f"{FIRST[0]} {LAST[0]}",), (f"{first_year}-06-09",)),
    ]
