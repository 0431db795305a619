"""A database as the shapes see it: tables and links with words for them, and the values that their columns hold.

A graph is made of a described domain (`from_domain`), or of any schema and some of its rows (`from_schema`), where
the words come from the identifiers and the roles from the values.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from text2sql.conversion.databases.infer import text_form
from text2sql.data.mini.domain import Domain
from text2sql.data.mini.english import plural, singular, spoken
from text2sql.schema import Column, Schema, kind_of, quote

Role = Literal["key", "label", "category", "number", "year", "date", "flag", "text", "list", "other"]
#: a text column with more distinct values than this is not a category
MAX_CATEGORIES = 14
LABELS = ("name", "title", "full name", "label", "designation")
#: measures whose sum means nothing
NOT_ADDITIVE = {"age", "rating", "score", "grade", "latitude", "longitude", "percent", "percentage", "rate", "level"}
NOT_ADDITIVE |= {"temperature", "elevation", "altitude", "year", "depth", "floor", "number", "rank", "humidity"}
NOT_ADDITIVE |= {"position", "stars", "difficulty", "degree", "speed", "share", "ratio", "height", "per", "price"}


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A column with its role, the words for it, and its distinct values in the order of first appearance.

    `phrases` are optional ways to speak of it, where {} is a value: `where` (equal), `more`, `less`, `after`, `before`
    are put behind a plural noun, `holds` and `fails` likewise for flags, `none` for NULL; `most` and `least` are
    superlatives in front of a noun.
    """

    name: str
    words: str
    role: Role
    values: tuple[Any, ...]
    nulls: int
    phrases: Mapping[str, Any]
    #: written behind the column in a condition: a timestamp is compared by its day
    cast: str = ""

    @property
    def additive(self) -> bool:
        """Whether a total of it makes sense."""
        words = self.words.split()
        return self.phrases.get("sum", self.role == "number" and not set(words) & NOT_ADDITIVE)


@dataclasses.dataclass(frozen=True)
class Entity:
    """A table. `label` are the columns that name one of its rows to people (its key if none does)."""

    name: str
    noun: str
    nouns: str
    who: str
    columns: tuple[Attribute, ...]
    key: tuple[str, ...]
    label: tuple[Attribute, ...]
    amounts: tuple[tuple[str, Attribute, Attribute], ...]
    rows: int

    def of(self, *roles: Role) -> list[Attribute]:
        """The columns in any of these roles, in order."""
        return [c for c in self.columns if c.role in roles]

    @property
    def named(self) -> bool:
        """Whether its rows have a name, not just a key."""
        return self.label[0].role == "label"


@dataclasses.dataclass(frozen=True)
class Link:
    """A foreign key. A child is spoken of as "books `by` the author", its parent as "authors that `have` books",
    and optionally as "books that the author did `did`" (write) and "authors who `never`" (have never written).

    `role` says what the parent is to the child: "author", or "origin airport" where there are two of them.
    """

    child: str
    column: str
    parent: str
    parent_column: str
    by: str
    have: str
    role: str
    did: str | None
    never: str | None
    nullable: bool


@dataclasses.dataclass(frozen=True)
class Graph:
    """Tables by name, and the links between them. `dialect` is that of the queries to be made."""

    entities: Mapping[str, Entity]
    links: tuple[Link, ...]
    dialect: Literal["sqlite", "postgres"] = "sqlite"

    def plain_links(self) -> list[Link]:
        """Links that are the only one between their two tables, so that "orders of a customer" is unambiguous."""
        pairs = [frozenset((link.child, link.parent)) for link in self.links]
        return [link for link, pair in zip(self.links, pairs, strict=True) if pairs.count(pair) == 1 and len(pair) == 2]

    def parents(self, child: str) -> list[Link]:
        """Unambiguous links from a table to its parents."""
        return [link for link in self.plain_links() if link.child == child]

    def bridges(self) -> Iterator[tuple[Link, Link]]:
        """Pairs of links of one bridge table, each way: (bridge to left, bridge to right)."""
        for name, table in self.entities.items():
            up = self.parents(name)
            if len(up) == 2 and not table.named and {link.column for link in up} <= set(table.key):
                yield up[0], up[1]
                yield up[1], up[0]


def from_domain(domain: Domain, rows: Mapping[str, Sequence[Sequence[Any]]]) -> Graph:
    """The graph of a described domain and its rows."""
    tables, links = {}, []
    for table in domain.tables:
        columns = []
        for position, spec in enumerate(table.columns):
            values = [row[position] for row in rows[table.name]]
            is_key = spec.ref is not None or spec.name in table.key
            role = spec.phrases.get("role") or infer_role(spec.words, values, is_key)
            columns.append(_column(spec.name, spec.words, role, values, spec.phrases))
            if spec.ref:
                parent = domain.table(spec.ref[0])
                role = spec.phrases.get("as") or (parent.noun if parent is not table else f"parent {parent.noun}")
                by, have = spec.phrases.get("by", "of"), spec.phrases.get("have", "have")
                words = (by, have, role, spec.phrases.get("did"), spec.phrases.get("never"))
                links.append(Link(table.name, spec.name, *spec.ref, *words, nullable=None in values))
        who = "who" if table.person else "that"
        tables[table.name] = _table(
            (table.name, table.noun, table.nouns, who), columns, table.key, table.amounts, len(rows[table.name])
        )
    return Graph(tables, tuple(links))


def from_schema(schema: Schema, values: Mapping[tuple[str, str], Sequence[Any]]) -> Graph:
    """The graph of any PostgreSQL schema; words come from identifiers, roles from values.

    Args:
        schema: its single-column foreign keys become links.
        values: by (table, column), what some rows hold, in row order, NULLs as None: text, or values of SQLite.
    """
    tables, links = {}, []
    for table in schema.tables:
        linked = {key.columns[0]: key for key in table.foreign_keys if len(key.columns) == 1}
        columns = []
        for column in table.columns:
            attribute = attribute_of(
                column, values[table.name, column.name], column.name in {*linked, *table.primary_key}
            )
            columns.append(attribute)
            if key := linked.get(column.name):
                role_words = spoken(column.name).removesuffix(" id") or noun_of(key.referred_table)[0]
                ends = (quote(key.referred_table), quote(key.referred_columns[0]))
                words = ("of", "have", role_words, None, None)
                links.append(Link(quote(table.name), quote(column.name), *ends, *words, nullable=attribute.nulls > 0))
        key, count = tuple(quote(c) for c in table.primary_key), len(columns[0].values) + columns[0].nulls
        rows = table.rows or count
        tables[quote(table.name)] = _table((quote(table.name), *noun_of(table.name), "that"), columns, key, {}, rows)
    return Graph(tables, tuple(links), "postgres")


def attribute_of(column: Column, values: Sequence[Any], is_key: bool) -> Attribute:
    """A column of any schema with its values, as Python values of SQLite or as PostgreSQL's text."""
    words, name = spoken(column.name), quote(column.name)
    if column.type.endswith("[]"):
        elements = [element for value in values if value for element in json.loads(value)]
        plain = all(isinstance(element, str) for element in elements)
        return _column(name, words, "list" if plain else "other", elements if plain else [], {})
    kind = "flag" if column.type == "boolean" else kind_of(column.type)
    if kind == "other" or column.type.startswith("time "):
        return _column(name, words, "key" if is_key else "other", [], {})
    plain_values = [_plain(value, kind, column.type) for value in values]
    role = infer_role(words, plain_values, is_key)
    if role == "date" and words.endswith((" on", " at")):
        words = f"{words[:-3]} date"  # created_at: "created date"
    attribute = _column(name, words, role, plain_values, {})
    return dataclasses.replace(attribute, cast="::date") if column.type.startswith("timestamp") else attribute


def _plain(value: Any, kind: str, type_: str) -> Any:
    """A value as SQLite would hold it: dates as text, numbers as such; None for what Python has no value for."""
    if not isinstance(value, str) or kind == "text":
        return value
    if kind == "flag":
        return value == "true"
    if kind == "moment":
        return value[:10] if re.match(r"\d{4}-\d\d-\d\d( |$)", value) and not value.endswith("BC") else None
    number = float(value)
    whole = type_ in ("smallint", "integer", "bigint")
    return int(value) if whole else number if math.isfinite(number) else None


def _column(name: str, words: str, role: Role, values: Sequence[Any], phrases: Mapping[str, Any]) -> Attribute:
    said = (v for v in values if v is not None and not (isinstance(v, str) and not v.strip()))
    distinct = tuple(dict.fromkeys(said))
    return Attribute(name, words, role, distinct, sum(v is None for v in values), phrases)


def _table(
    words: tuple[str, str, str, str],
    columns: Iterable[Attribute],
    key: tuple[str, ...],
    amounts: Mapping[str, tuple[str, str]],
    rows: int,
) -> Entity:
    by_name = {c.name: c for c in columns}
    pairs = tuple((text, by_name[a], by_name[b]) for text, (a, b) in amounts.items())
    columns, label = _label(list(by_name.values()), key)
    return Entity(*words, tuple(columns), key, label, pairs, rows)


def _label(columns: list[Attribute], key: tuple[str, ...]) -> tuple[list[Attribute], tuple[Attribute, ...]]:
    """Which columns name a row: a first and last name, a column called name or title, else the key."""
    named = [c for c in columns if c.words in ("first name", "last name")]
    if len(named) < 2:
        named = [c for c in columns if c.role == "label"]
        named = named or [c for c in columns if c.role == "text" and c.words.split()[-1] in LABELS]
    if not named:
        return columns, tuple(c for c in columns if c.name in key) or (columns[0],)
    chosen = [dataclasses.replace(c, role="label") for c in (named if len(named) == 2 else named[:1])]
    by_name = {c.name: c for c in chosen}
    others = [dataclasses.replace(c, role="text") if c.role == "label" else c for c in columns]
    return [by_name.get(c.name, c) for c in others], tuple(chosen)


def infer_role(words: str, values: Sequence[Any], is_key: bool) -> Role:
    """A column's role, told from its words and values."""
    known = [v for v in values if v is not None]
    if is_key or not known or words == "id" or words.endswith(" id"):
        return "key"
    if all(isinstance(v, int | float) for v in known):
        if set(known) <= {0, 1}:
            return "flag"
        return "year" if "year" in words and all(1000 < v < 2200 for v in known) else "number"
    if all(isinstance(v, str) and text_form(v) == "date" for v in known):
        return "date"
    distinct = len(set(known))
    repeated = distinct <= MAX_CATEGORIES and distinct < 0.7 * len(known)
    if repeated and words not in LABELS and words not in ("first name", "last name"):
        return "category"
    return "text"


def noun_of(table: str) -> tuple[str, str]:
    """Singular and plural of a table's name: `order_items` to 'order item', 'order items'."""
    words = spoken(table)
    single = singular(words)
    return single, plural(single)
