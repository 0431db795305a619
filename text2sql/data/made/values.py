"""Values of any type of PostgreSQL, as text that the server casts."""

from __future__ import annotations

import dataclasses
import datetime
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg import sql

from text2sql.data.mini.domain import pools
from text2sql.data.mini.english import one_of, spoken
from text2sql.files import read_beside

#: distinct words of a text column that is in no unique key, so that its values repeat
WORDS = 8
_FILE = read_beside(__file__)
#: a value of a type of which nothing is known is one of these
_PROBES = ("1", "a", "", "{}", "()", "[]", "1 2", "2024-01-01")


@dataclasses.dataclass
class FillColumn:
    """A column to fill: its declared type and the one below its domains, and the constraints that speak of it."""

    name: str
    not_null: bool
    declared: str
    type_oid: int
    type: str
    #: CHECKs of the column and of its domain: name and definition
    checks: dict[str, str]


def attempt(connection: psycopg.Connection, statement: sql.Composed) -> psycopg.Error | None:
    """Execute a statement; the error that it met, or None."""
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        if connection.closed:
            raise
        return error
    return None


class ValuesOfTypes:
    """Values of any type as text, which the server casts."""

    def __init__(self, connection: psycopg.Connection, rng: random.Random) -> None:
        self.connection, self.rng = connection, rng
        self._kinds: dict[int, tuple[Any, ...]] = {}
        self._makers: dict[str, list[Callable[[int, bool], str | None]]] = {}

    def draw(self, column: FillColumn, number: int, unique: bool) -> str | None:
        """A value for a column; `number` makes it one of its own where it must be `unique`."""
        if column.name not in self._makers:
            makers = list(self._candidates(column))
            fitting = [m for m in makers if self._obeys(column, m(number, unique))] if column.checks else makers
            self._makers[column.name] = fitting or makers
        makers = self._makers[column.name]
        return (makers[0] if not column.checks else one_of(makers, self.rng))(number, unique)

    def _candidates(self, column: FillColumn) -> Iterator[Callable[[int, bool], str | None]]:
        """Ways to make a value: by the type, and of a column with CHECKs as it stands in one, or in a usual form."""
        yield lambda number, unique: self.of_type(column.type_oid, column.type, spoken(column.name), number, unique)
        texts = [*hinted(" ".join(column.checks.values()))]
        if column.type.startswith(("text", "character", "name")):
            texts += [*_FILE["forms"], *_FILE["codes"]]
        for text in texts if column.checks else ():
            yield lambda number, unique, text=text: text.replace("{n}", f"{number:05}")

    def _obeys(self, column: FillColumn, value: str | None) -> bool:
        """Whether a value obeys the CHECKs of its domain, and those of the table that need no other column."""
        if value is not None and not self.fits(value, column.declared):
            return False
        query = sql.SQL("select from (select {}::{} as {}) t where {} is false")
        row = (sql.Literal(value), sql.SQL(column.declared), sql.Identifier(column.name))
        for check in column.checks.values():
            condition = sql.SQL(check.removeprefix("CHECK ").removesuffix(" NOT VALID"))
            try:
                if self.connection.execute(query.format(*row, condition)).fetchone() is not None:
                    return False
            except psycopg.errors.UndefinedColumn:
                continue  # it needs other columns, or is the domain's, which speaks of VALUE
            except psycopg.Error:
                return False
        return True

    def fits(self, value: str, type_: str) -> bool:
        """Whether the server takes a value for a type."""
        statement = sql.SQL("select {}::{}").format(sql.Literal(value), sql.SQL(type_))
        return attempt(self.connection, statement) is None

    def of_type(self, oid: int, name: str, words: str, number: int, unique: bool) -> str | None:
        """A value of a type: `number` makes it one of its own where it must be `unique`."""
        kind, category, element, labels, members = self._kind(oid)
        if kind == "e":
            return None if not labels else labels[number % len(labels)] if unique else one_of(labels, self.rng)
        if category == "A" and element:
            count = 1 + int(self.rng.random() * 3)
            values = [self.of_type(element, "", words, number + i, unique) for i in range(count)]
            return "{" + ",".join("NULL" if v is None else quoted_element(v) for v in values) + "}"
        if kind == "c":
            values = [self.of_type(o, t, spoken(n), number, unique) for n, o, t in members]
            return "(" + ",".join("" if v is None else quoted_element(v) for v in values) + ")"
        if kind == "d":
            return self.of_type(element, "", words, number, unique)
        base = name.partition("(")[0] if name else self._name(oid)
        if base in NUMBERS:
            return number_value(base, name, words, number, unique, self.rng)
        if base in _FILE["types"]:
            return value_of(base, number if unique else int(self.rng.random() * 900))
        if base in ("bit", "bit varying"):
            length = int(re.sub(r"\D", "", name) or 1)
            return f"{number % 256:b}".zfill(length)[-length:]
        if category == "S":
            return self._text(base, name, words, number, unique)
        return next((value for value in _PROBES if self.fits(value, self._name(oid))), None)

    def _text(self, base: str, name: str, words: str, number: int, unique: bool) -> str | None:
        length = re.search(r"\((\d+)\)", name)
        limit = int(length.group(1)) if length else 1 if base in ("character", "bpchar", '"char"') else 200
        pool = pools().get(words)
        if unique:
            text = f"{words} {number}" if limit > len(str(number)) + 3 else base36(number)
        elif pool:
            text = one_of(pool, self.rng)
        else:
            text = f"{words} {1 + int(self.rng.random() * WORDS)}"
        return text if len(text) <= limit else text[-limit:].strip() or text[:limit]

    def _kind(self, oid: int) -> tuple[Any, ...]:
        """typtype, category, element or base type, labels of an enum, (name, type) of a composite's members."""
        if oid not in self._kinds:
            *kind, relation = self.connection.execute(_FILE["sort"], [oid]).fetchone()
            members = self.connection.execute(_FILE["members"], [relation]).fetchall() if relation else []
            self._kinds[oid] = (*kind, members)
        return self._kinds[oid]

    def _name(self, oid: int) -> str:
        return self.connection.execute("select format_type(%s, null)", [oid]).fetchone()[0]


def hinted(checks: str) -> Iterator[str]:
    """Values that stand in CHECKs, and numbers and dates beside them."""
    for text in re.findall(r"'((?:[^']|'')*)'", checks):
        yield text.replace("''", "'")
    for number in re.findall(r"(?<![\w'.])-?\d+(?:\.\d+)?(?![\w'])", checks):
        for step in (0, 1, -1, 10):
            yield str(float(number) + step) if "." in number else str(int(number) + step)


def quoted_element(value: str) -> str:
    """A value within an array or a row."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def base36(number: int) -> str:
    """A short text of its own for each number."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text or "0"


NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision", "money", "oid"}


def number_value(base: str, declared: str, words: str, number: int, unique: bool, rng: random.Random) -> str:
    """A number that fits precision and scale; of a year, one of our time."""
    if unique:
        return str(number % 32_000 if base == "smallint" else number)
    if "year" in words.split():
        return str(1990 + int(rng.random() * 35))
    if base in ("smallint", "integer", "bigint", "oid"):
        return str(1 + int(rng.random() * 100))
    precision = [int(n) for n in re.findall(r"\d+", declared.partition("(")[2])]
    scale = [*precision, 0][1] if precision else 2
    largest = 10 ** min(precision[0] - scale, 3) - 10**-scale if precision else 900
    return f"{rng.random() * largest:.{max(scale, 0)}f}"


def value_of(type_: str, n: int) -> str:
    """A value of a type of values.yaml for a number."""
    day = f"{2021 + n % 4}-{1 + n // 4 % 12:02}-{1 + n // 48 % 28:02}"
    first = datetime.date(2021, 1, 1) + datetime.timedelta(days=3 * (n % 100_000))
    parts = {f"of{m}": n % m for m in (8, 20, 30, 50, 180)} | {f"by{m}": n // m for m in (30, 180)}
    parts |= {f"byte{i}": n >> 8 * i & 255 for i in range(3)}
    return _FILE["types"][type_].format(
        n=n,
        next=n + 1,
        low=10 * n,
        high=10 * n + 5,
        letter="ft"[n % 2],
        hour=n % 24,
        minute=n // 24 % 60,
        mixed=n * 0x9E3779B97F4A7C15 % 2**64,
        day=day,
        moment=f"{day} {n % 24:02}:{n * 7 % 60:02}:{n // 1440 % 60:02}",
        span=f"[{first},{first + datetime.timedelta(days=2)})",
        **parts,
    )
