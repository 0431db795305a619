"""Rows for a described domain, made from `values` of each column; docs/MINI.md lists the forms.

Each column draws from a stream of its own, named after seed, database, table and column: a change to one column leaves
all others as they were. Only `random()` and integer arithmetic are used on it, which are the same on every platform.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from typing import Any

from text2sql.data.mini.domain import ColumnSpec, Domain, TableSpec, pools
from text2sql.data.mini.english import one_of
from text2sql.errors import UserError

Row = tuple[Any, ...]
Rows = dict[str, list[Row]]


def make_rows(domain: Domain, seed: object) -> Rows:
    """Rows of every table, in the order of the description, parents first."""
    rows: Rows = {}
    for table in domain.tables:
        rows[table.name] = list(table.data) if table.data else _TableRows(domain, table, rows).draw(seed)
    return rows


class _TableRows:
    """The rows of one table, column by column; `rows` are those of the tables before it."""

    def __init__(self, domain: Domain, table: TableSpec, rows: Rows) -> None:
        self.domain, self.table, self.rows = domain, table, rows
        self.columns: dict[str, list[Any]] = {}

    def draw(self, seed: object) -> list[Row]:
        """Each column on a stream of its own."""
        table = self.table
        for column in table.columns:
            rng = random.Random(f"{seed}/{self.domain.db_id}/{table.name}/{column.name}")
            values = self._values(column, rng)
            # a single draw each, also where no value is blanked: the share of NULLs does not shift the values
            blanked = [None if rng.random() < column.missing else v for v in values] if column.missing else values
            self.columns[column.name] = blanked
        rows = list(zip(*self.columns.values(), strict=True))
        if len(table.key) > 1:  # a bridge: pairs drawn twice are dropped, so `rows` is an upper bound
            positions = [[c.name for c in table.columns].index(k) for k in table.key]
            rows = list({tuple(row[p] for p in positions): row for row in rows}.values())
        return rows

    def _values(self, column: ColumnSpec, rng: random.Random) -> list[Any]:
        if column.ref:
            return self._references(column, rng)
        if isinstance(column.values, str) and column.values.startswith("copy "):
            return self._copies(column)
        if column.unique or (self.table.key == (column.name,)):
            return _distinct(column, self.table.rows, rng)
        draw = _maker(column, self.columns)
        return [draw(rng, i) for i in range(self.table.rows)]

    def _references(self, column: ColumnSpec, rng: random.Random) -> list[Any]:
        """Foreign keys: some parents get many children and a few none, as in life. A self reference points upwards."""
        count, parent = self.table.rows, self.domain.table(column.ref[0])
        if parent is self.table:
            keys = self.columns[column.ref[1]]
            return [None if i == 0 else keys[_skewed(rng, i)] for i in range(count)]
        position = [c.name for c in parent.columns].index(column.ref[1])
        keys = [row[position] for row in self.rows[parent.name]]
        if column.unique:
            return shuffled_list(keys, rng)[:count]
        if column.phrases.get("all"):  # each parent once, then as chance has it
            rest = [keys[_skewed(rng, len(keys))] for _ in range(count - len(keys))]
            return shuffled_list([*keys, *rest], rng)[:count]
        used = len(keys) - max(1, len(keys) // 8) if len(keys) > 3 else len(keys)
        order = shuffled_list(keys, rng)[:used]
        return [order[_skewed(rng, used)] for _ in range(count)]

    def _copies(self, column: ColumnSpec) -> list[Any]:
        """`copy product_id.price`: the price of the product referred to; `copy product_id.price * quantity`: times
        that."""
        source, _, factor = column.values.removeprefix("copy ").partition(" * ")
        through, _, wanted = source.partition(".")
        parent, parent_key = self.table.column(through).ref
        names = [c.name for c in self.domain.table(parent).columns]
        by_key = {row[names.index(parent_key)]: row[names.index(wanted)] for row in self.rows[parent]}
        copied = [by_key[key] for key in self.columns[through]]
        return [round(a * b, 2) for a, b in zip(copied, self.columns[factor], strict=True)] if factor else copied


def _skewed(rng: random.Random, n: int) -> int:
    """An index below `n`, small ones more often (the smaller of two draws, half the time)."""
    first, second, coin = rng.random(), rng.random(), rng.random()
    return int((min(first, second) if coin < 0.5 else first) * n)


def shuffled_list(values: list[Any], rng: random.Random) -> list[Any]:
    """A Fisher-Yates shuffle on `random()` alone, which no Python version changes."""
    out = list(values)
    for i in range(len(out) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        out[i], out[j] = out[j], out[i]
    return out


def _distinct(column: ColumnSpec, count: int, rng: random.Random) -> list[Any]:
    if isinstance(column.values, list):
        if len(column.values) < count:
            raise UserError(f"{column.name}: {len(column.values)} values for {count} unique ones", "add values")
        return shuffled_list(column.values, rng)[:count]
    draw = _maker(column, {})
    seen: dict[Any, None] = {}
    for i in range(100 * count):
        seen.setdefault(draw(rng, i), None)
        if len(seen) == count:
            return list(seen)
    raise UserError(f"{column.name}: {column.values!r} has fewer than {count} distinct values", "widen it")


def _maker(column: ColumnSpec, before: dict[str, list[Any]]) -> Callable[[random.Random, int], Any]:
    """The function (stream, row number) -> value that `values` describes."""
    values = column.values
    if isinstance(values, list):
        return lambda rng, i: values[_skewed(rng, len(values))]
    if isinstance(values, dict):
        return lambda rng, i: " ".join(str(one_of(part, rng)) for part in values["mix"])
    if isinstance(values, int | float):
        return lambda rng, i: values
    word, _, rest = values.partition(" ")
    if word == "id":
        return lambda rng, i: int(rest or 1) + i
    if word == "flag":
        return lambda rng, i: int(rng.random() < float(rest or 0.5))
    if values == "person":
        first, last = pools()["first name"], pools()["last name"]
        return lambda rng, i: f"{one_of(first, rng)} {one_of(last, rng)}"
    if values in pools():
        return lambda rng, i: one_of(pools()[values], rng)
    if " + " in values:
        base, days = values.split(" + ")
        number = _range(days)
        return lambda rng, i: before[base][i] and _later(before[base][i], number(rng, i))
    if ".." in values:
        return _range(values)
    if "#" in values:
        return lambda rng, i: "".join(str(int(rng.random() * 9) + 1) if c == "#" else c for c in values)
    raise UserError(f"{column.name}: values {values!r} are none of the known forms", "see docs/MINI.md")


def _later(day: str, days: int) -> str:
    return (datetime.date.fromisoformat(day) + datetime.timedelta(days=days)).isoformat()


def _range(values: str) -> Callable[[random.Random, int], Any]:
    """`3..90`, `3..90 step 5`, `0.50..9.90` (two decimals), `2019-01-01..2023-12-31`."""
    span, _, step = values.partition(" step ")
    low, high = span.split("..")
    if low.count("-") == 2:
        start = datetime.date.fromisoformat(low)
        days = (datetime.date.fromisoformat(high) - start).days
        return lambda rng, i: (start + datetime.timedelta(days=int(rng.random() * (days + 1)))).isoformat()
    digits = len(low.partition(".")[2])
    scale = 10**digits
    bottom, unit = round(float(low) * scale), round(float(step or 1 / scale) * scale)
    count = (round(float(high) * scale) - bottom) // unit + 1

    def number(rng: random.Random, i: int) -> int | float:
        drawn = bottom + int(rng.random() * count) * unit
        return round(drawn / scale, digits) if digits else drawn

    return number
