"""The SQL that shapes build, in one style: joins along a path, full table names, aliases in self joins only.

A model of 135M parameters learns one way to say a thing much sooner than three, and a query kept in parts can be
checked: without its WHERE, without its LIMIT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from text2sql.data.mini.graph import Attribute, Entity, Link

_RESERVED = {"order", "group", "table", "index", "user", "check", "references", "primary", "from", "to", "select"}


def quoted(name: str) -> str:
    """An identifier, in double quotes where SQL needs them; one that has them stays as it is."""
    if name.startswith('"'):
        return name
    plain = name.isascii() and name.isidentifier() and name.lower() not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value as SQL."""
    if isinstance(value, bool):
        return str(value).upper()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


@dataclasses.dataclass(frozen=True)
class Scope:
    """The tables of a FROM clause, joined in their order. Columns are qualified where there are several tables."""

    tables: tuple[Entity, ...]
    joins: tuple[str, ...] = ()

    def col(self, table: Entity, column: Attribute | str) -> str:
        """A column as it is written within this scope."""
        name = quoted(column if isinstance(column, str) else column.name)
        return f"{quoted(table.name)}.{name}" if len(self.tables) > 1 else name

    @property
    def text(self) -> str:
        """The FROM clause without its keyword."""
        joined = [f" JOIN {quoted(t.name)} ON {on}" for t, on in zip(self.tables[1:], self.joins, strict=True)]
        return quoted(self.tables[0].name) + "".join(joined)


def join(tables: Sequence[Entity], links: Sequence[Link]) -> Scope:
    """`tables` joined one after the other, each by the link to the one before it."""
    conditions = []
    for left, right in pairwise(tables):
        link = next(link for link in links if {link.child, link.parent} == {left.name, right.name})
        child = f"{quoted(link.child)}.{quoted(link.column)}"
        parent = f"{quoted(link.parent)}.{quoted(link.parent_column)}"
        conditions.append(f"{child} = {parent}" if link.child == left.name else f"{parent} = {child}")
    return Scope(tuple(tables), tuple(conditions))


@dataclasses.dataclass(frozen=True)
class SelectParts:
    """One SELECT. `where` parts are joined by AND."""

    columns: tuple[str, ...]
    source: str
    where: tuple[str, ...] = ()
    group: str = ""
    having: str = ""
    order: str = ""
    descending: bool = False
    limit: int = 0
    distinct: bool = False

    def __str__(self) -> str:
        parts = ["SELECT", "DISTINCT" if self.distinct else "", ", ".join(self.columns), "FROM", self.source]
        if self.where:
            parts += ["WHERE", " AND ".join(self.where)]
        if self.group:
            parts += ["GROUP BY", self.group]
        if self.having:
            parts += ["HAVING", self.having]
        if self.order:
            parts += ["ORDER BY", self.order + (" DESC" if self.descending else "")]
        if self.limit:
            parts += ["LIMIT", str(self.limit)]
        return " ".join(p for p in parts if p)


@dataclasses.dataclass(frozen=True)
class Compound:
    """Two SELECTs under UNION, INTERSECT or EXCEPT."""

    operator: str
    left: SelectParts
    right: SelectParts

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right}"


Query = SelectParts | Compound
