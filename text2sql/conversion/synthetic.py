"""Rows for a database that has none, made so that its queries find something.

Two empty results are equal whatever a conversion does. For such a database every query contributes a few rows to each
table that it reads: the literals that it compares a column with, and one value for columns that it joins. Some rows fit
the query, others miss it by a value or hold NULL. Types, keys and what the schema says of values are kept to.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from sqlglot import exp

from text2sql.conversion.databases.infer import text_form
from text2sql.conversion.databases.sqlite import COLLATIONS, SourceTable, SqliteDatabase, Value, sqlite_name
from text2sql.conversion.dialect import Rejected, parse_query
from text2sql.conversion.dialect.comparisons import COMPARISONS
from text2sql.conversion.dialect.scope import Origin, bind
from text2sql.conversion.dialect.tree import literal_number
from text2sql.schema import Column, Schema, Table

#: sets of rows for each query: the first two fit its literals, the others do in part
SETS = 4
WORDS = ("amber", "Birch", "cedar", "Dune", "ember", "Fjord", "grove", "Haze")
Cell = tuple[int, str]  # a column of an item of FROM: (id of the origin, name)


@dataclass
class _Wishes:
    """What one query asks of the rows: its items of FROM, wanted values, and columns that are to be equal."""

    origins: dict[int, Origin] = field(default_factory=dict)
    values: dict[Cell, Value] = field(default_factory=dict)
    leaders: dict[Cell, Cell] = field(default_factory=dict)

    def leader(self, cell: Cell) -> Cell:
        """The cell that stands for all cells equal to `cell`."""
        while self.leaders.get(cell, cell) != cell:
            cell = self.leaders[cell]
        return cell

    def join(self, left: Cell, right: Cell) -> None:
        """Make two cells equal."""
        a, b = self.leader(left), self.leader(right)
        if a != b:
            self.leaders[a] = b
            if a in self.values:
                self.values.setdefault(b, self.values[a])


def fill(source: SqliteDatabase, schema: Schema, queries: Iterable[str]) -> SqliteDatabase:
    """A database in memory with the tables of `source` and rows generated for `queries`."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute(
        "PRAGMA ignore_check_constraints = ON"
    )  # a CHECK may compute without end, or call what is missing
    filled = SqliteDatabase(Path(":memory:"), connection, known=source.tables())
    for table in source.tables():
        connection.execute(_definition(source, table))
    chance = random.Random(schema.db_id)  # a text seeds it the same way on every machine
    for number, query in enumerate(queries):
        for table, values in _rows(query, schema, number, chance):
            names = ", ".join(sqlite_name(column.source) for column in table.columns)
            marks = ", ".join("?" * len(values))
            insert = f"INSERT OR IGNORE INTO {sqlite_name(table.source)} ({names}) VALUES ({marks})"
            with suppress(sqlite3.IntegrityError):  # a key that this row would break
                connection.execute(insert, values)
    connection.commit()
    return filled


def _definition(source: SqliteDatabase, table: SourceTable) -> str:
    """The CREATE TABLE of a table. One that computes values, or that needs an order which is missing here, becomes a
    plain table with the same columns, which rows can be put into."""
    if table.computed or any(column.collation not in COLLATIONS for column in table.columns):
        parts = [
            f"{sqlite_name(c.name)} {c.declared}{f' COLLATE {c.collation}' if c.collation in COLLATIONS[1:] else ''}"
            for c in table.columns
        ]
        return f"CREATE TABLE {sqlite_name(table.name)} ({', '.join(parts)})"
    query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
    return source.connection.execute(query, (table.name,)).fetchone()[0]


def without_constraints(schema: Schema) -> Schema:
    """`schema` without foreign keys: generated rows refer to each other only as the queries do."""
    return replace(schema, tables=tuple(replace(table, foreign_keys=()) for table in schema.tables))


def _rows(query: str, schema: Schema, number: int, chance: random.Random) -> Iterator[tuple[Table, list[Value]]]:
    try:
        tree = parse_query(query)
        bind(tree, schema)
    except Rejected:
        return  # it will be reported as such; it asks for nothing
    wishes = _wishes(tree)
    shared: dict[Cell, Value] = {}
    for place in range(SETS):
        if place % 2 == 0:
            shared = {}
        for key, origin in wishes.origins.items():
            if origin.table is None:
                continue
            values: list[Value] = []
            for column in origin.table.columns:
                cell = wishes.leader((key, column.name))
                wanted = wishes.values.get(cell, wishes.values.get((key, column.name)))
                joined = cell in wishes.leaders.values()
                alone = column.unique or origin.table.primary_key == (column.name,)
                if alone and not joined and wanted is None:
                    values.append(_fit(column, 1000 + number * SETS + place) or _any(column, chance))
                    continue
                values.append(_value(column, wanted, joined, cell, shared, place, number, chance))
            yield origin.table, values


def _value(
    column: Column,
    wanted: Value,
    joined: bool,
    cell: Cell,
    shared: dict[Cell, Value],
    place: int,
    number: int,
    chance: random.Random,
) -> Value:
    """The value of one column of one row."""
    if joined and cell in shared:
        value = _fit(column, shared[cell])
        if value is not None:
            return value
    fitting = _fit(column, wanted) if wanted is not None else None
    if fitting is not None and (place < 2 or chance.random() < 0.5):
        value = fitting
    elif joined:
        value = _fit(column, 1000 + number * SETS + place) or _any(column, chance)
    elif column.has_nulls and not column.not_null and chance.random() < 0.12:
        return None
    else:
        value = _any(column, chance, unique=1000 + number * SETS + place)
    if joined:
        shared[cell] = value
    return value


def _fit(column: Column, value: Value) -> Value:
    """`value` as one of the column's, or None if it cannot be."""
    if value is None:
        return None
    type_ = column.type
    if type_ in ("integer", "bigint", "smallint", "numeric", "double precision", "boolean"):
        try:
            number = float(value) if not isinstance(value, bytes) else None
        except ValueError:
            return None
        if number is None or number != number or abs(number) >= 2**31:
            return None
        if type_ == "boolean":
            return int(number != 0)
        whole = number.is_integer()
        if type_ in ("integer", "bigint", "smallint") and not whole:
            return None
        fitted: Value = int(number) if whole and column.affinity != "real" else number
        if column.storage and (
            type(fitted).__name__.replace("int", "integer").replace("float", "real") not in column.storage
        ):
            return str(fitted) if column.storage == ("text",) and column.form == "integer" else None
        return fitted if fitted or column.has_zeros else None
    text = str(value)
    if type_ in ("date", "timestamp", "time"):
        return text if text_form(text) == type_ else None
    if type_ == "bytea":
        return text.encode()
    if column.storage and column.form in ("integer", "number") and text_form(text) != column.form:
        return None
    return text if text or column.has_blanks else None


def _any(column: Column, chance: random.Random, unique: int = 0) -> Value:
    """Some value of the column's type; small ranges, so that values meet."""
    numbers = [1, 2, 3, 4, 5, 7, 10, unique]
    if column.type in ("date", "timestamp"):
        day = date(2000, 1, 1) + timedelta(days=chance.randrange(6000))
        return day.isoformat() if column.type == "date" else f"{day.isoformat()} {chance.randrange(10, 24)}:30:00"
    if column.type == "time":
        return f"{chance.randrange(10, 24)}:15:00"
    if column.type == "boolean":
        return chance.randrange(2)
    if column.type in ("numeric", "double precision") and (not column.storage or "real" in column.storage):
        return (
            _fit(column, chance.choice(numbers) + 0.5)
            if chance.random() < 0.5
            else _fit(column, chance.choice(numbers))
        )
    if column.type == "text" and not (column.storage and column.form in ("integer", "number")):
        return _fit(column, chance.choice([*WORDS, f"{WORDS[unique % len(WORDS)]} {unique}"]))
    return _fit(column, chance.choice(numbers))


# --- what a query asks for -------------------------------------------------------------------------------------------


def _wishes(tree: exp.Expression) -> _Wishes:
    wishes = _Wishes()
    for select in tree.find_all(exp.Select):
        for origin in select.meta["scope"].origins:
            wishes.origins[id(origin)] = origin
    for node in tree.walk():
        if isinstance(node, exp.In):
            _wish_in(node, wishes)
        elif isinstance(node, exp.Between):
            _wish(node.this, node.args["low"], exp.EQ, wishes)
        elif isinstance(node, (*COMPARISONS, exp.Like)):
            _wish(node.this, node.expression, type(node), wishes)
            _wish(node.expression, node.this, type(node), wishes)
    return wishes


def _cell(node: exp.Expression) -> Cell | None:
    bound = node.meta.get("bound") if isinstance(node, exp.Column) else None
    return (id(bound.origin), bound.name) if bound is not None and bound.origin.table is not None else None


def _literal(node: exp.Expression) -> Value:
    if isinstance(node, exp.Column):
        return node.meta.get("text")
    return node.this if isinstance(node, exp.Literal) and node.is_string else literal_number(node)


def _wish(one: exp.Expression, other: exp.Expression, operator: type[exp.Expression], wishes: _Wishes) -> None:
    cell, literal, partner = _cell(one), _literal(other), _cell(other)
    if cell is None:
        return
    if partner is not None and operator is exp.EQ:
        wishes.leaders.setdefault(partner, partner)
        wishes.join(cell, partner)
    elif literal is not None:
        wishes.values.setdefault(wishes.leader(cell), _near(literal, operator))


def _wish_in(node: exp.In, wishes: _Wishes) -> None:
    """A column in a list takes its first item, in a query the value of what that selects."""
    query = node.args.get("query")
    inner = query.unnest() if query is not None else None
    if isinstance(inner, exp.Select) and len(inner.expressions) == 1:
        _wish(node.this, inner.expressions[0].unalias(), exp.EQ, wishes)
    elif node.expressions:
        _wish(node.this, node.expressions[0], exp.EQ, wishes)


def _near(literal: Value, operator: type[exp.Expression]) -> Value:
    """A value for which the comparison with `literal` holds."""
    if operator is exp.Like:
        return str(literal).replace("%", "").replace("_", "a")
    step = {exp.GT: 1, exp.LT: -1, exp.NEQ: 1}.get(operator, 0)
    if isinstance(literal, int | float):
        return literal + step
    return literal
