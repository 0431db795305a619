"""Rows for a database that has none, made so that its queries find something.

Two empty results are equal whatever a conversion does. For such a database every query contributes a few rows to each
table that it reads: the literals that it compares a column with, and one value for columns that it joins. Some rows fit
the query, others miss it by a value or hold NULL. Types, keys and what the schema says of values are kept to.
"""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from sqlglot import exp

from text2sql.conversion.databases.describe import is_too_long
from text2sql.conversion.databases.encode import encoder
from text2sql.conversion.databases.infer import NUMERIC_TYPES, STORAGE, text_form
from text2sql.conversion.databases.probe import authorize
from text2sql.conversion.databases.sqlite import COLLATIONS, SourceTable, SqliteDatabase, Value, sqlite_name
from text2sql.conversion.dialect import Rejected, parse_query
from text2sql.conversion.dialect.comparisons import COMPARISONS
from text2sql.conversion.dialect.scope import Origin, bind
from text2sql.conversion.dialect.tree import literal_number
from text2sql.schema import Column, Schema, Table

#: sets of rows for each query: the first two fit its literals, the others do in part
SETS = 4
#: of a value that an index of the file may compute of a generated one: its functions may loop over each character
LONGEST_VALUE = 10_000
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
    """A database in memory with the tables of `source` and rows generated for `queries`, which obey all keys there;
    its notes name tables that got none."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    # a CHECK may compute without end, or call what is missing
    connection.execute("PRAGMA ignore_check_constraints = ON")
    filled = SqliteDatabase(Path(":memory:"), connection, known=source.tables())
    closed = {table.name for table in source.tables() if not _create(filled, source, table)}
    usual = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    chance = random.Random(schema.db_id)  # a text seeds it the same way on every machine
    taken: set[tuple[str | None, ...]] = set()
    got: dict[str, bool] = {}
    for number, query in enumerate(queries):
        for table, values in _rows(query, schema, number, chance):
            if table.source in closed:
                continue
            keys = _keys(table, values)
            inserted = keys is not None and not keys & taken and _insert(connection, table, values)
            taken |= keys if keys and inserted else set()
            got[table.source] = inserted or got.get(table.source, False)
    for name in (name for name, some in got.items() if not some):
        filled.note(f"table {name}: no generated rows, none obeys its keys")
    connection.commit()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)
    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(authorize)
    return filled


def _create(filled: SqliteDatabase, source: SqliteDatabase, table: SourceTable) -> bool:
    """Create a table with its unique indexes; False with a note if one of those cannot be made here."""
    filled.connection.execute(_definition(source, table))
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql LIKE 'CREATE UNIQUE%'"
    for name, definition in source.connection.execute(query, (table.name,)).fetchall():
        try:
            filled.connection.execute(definition)
        except sqlite3.Error as error:
            filled.note(f"table {table.name}: no generated rows, its index {name} cannot be made here: {error}")
            return False
    return True


def _insert(connection: sqlite3.Connection, table: Table, values: list[Value]) -> bool:
    """Whether SQLite takes a row."""
    names = ", ".join(sqlite_name(column.source) for column in table.columns)
    insert = f"INSERT OR IGNORE INTO {sqlite_name(table.source)} ({names}) VALUES ({', '.join('?' * len(values))})"
    try:
        return connection.execute(insert, values).rowcount > 0
    except sqlite3.Error:  # a key that this row would break, or what an index computes of it
        return False


def _keys(table: Table, values: list[Value]) -> set[tuple[str | None, ...]] | None:
    """The keys of a row as PostgreSQL will have them, or None if it cannot: a value is missing, or too long."""
    held = {c.name: None if v is None else encoder(c.type)(v) for c, v in zip(table.columns, values, strict=True)}
    if any(column.not_null and held[column.name] is None for column in table.columns):
        return None
    names = {table.primary_key, *table.unique, *((column.name,) for column in table.columns if column.unique)} - {()}
    keys = {(table.name, *key, *(held[name] for name in key)) for key in names}
    keys = {key for key in keys if None not in key}
    return None if any(map(is_too_long, keys)) else keys


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
    rows = _RowSet(wishes, chance)
    for place in range(SETS):
        shared = rows.shared if place % 2 else {}
        rows = _RowSet(wishes, chance, 1000 + number * SETS + place, place < SETS // 2, shared)
        for key, origin in wishes.origins.items():
            if origin.table is not None:
                yield origin.table, [rows.value(key, origin.table, column) for column in origin.table.columns]


@dataclass
class _RowSet:
    """A row for each table of a query. `ordinal` makes values of their own; in a `fitting` set each literal that the
    query asks for is there; `shared` are the values of joined columns, for this set and the next."""

    wishes: _Wishes
    chance: random.Random
    ordinal: int = 0
    fitting: bool = True
    shared: dict[Cell, Value] = field(default_factory=dict)

    def value(self, key: int, table: Table, column: Column) -> Value:
        """The value of a column in the row of the item of FROM with this id."""
        cell = self.wishes.leader((key, column.name))
        wanted = self.wishes.values.get(cell, self.wishes.values.get((key, column.name)))
        joined = cell in self.wishes.leaders.values()
        if wanted is None and not joined and (column.unique or table.primary_key == (column.name,)):
            return self._distinct(column)
        known = _fit(column, self.shared[cell]) if joined and cell in self.shared else None
        if known is not None:
            return known
        value = _fit(column, wanted)
        if value is None or not (self.fitting or self.chance.random() < 0.5):
            if joined:
                value = self._distinct(column)
            elif column.has_nulls and not column.not_null and self.chance.random() < 0.12:
                return None
            else:
                value = _any(column, self.chance, unique=self.ordinal)
        if joined:
            self.shared[cell] = value
        return value

    def _distinct(self, column: Column) -> Value:
        return _fit(column, self.ordinal) or _any(column, self.chance)


def _fit(column: Column, value: Value) -> Value:
    """`value` as one of the column's, or None if it cannot be."""
    if value is None:
        return None
    type_ = column.type
    if type_ in (*NUMERIC_TYPES, "boolean"):
        return _fit_number(column, value)
    text = str(value)
    if type_ in ("date", "timestamp", "time"):
        return text if text_form(text) == type_ else None
    if type_ == "bytea":
        return text.encode()
    if column.storage and column.form in ("integer", "number") and text_form(text) != column.form:
        return None
    return text if text or column.has_blanks else None


def _fit_number(column: Column, value: Value) -> Value:
    try:
        number = math.nan if isinstance(value, bytes) else float(value)
    except ValueError:
        return None
    if math.isnan(number) or abs(number) >= 2**31:
        return None
    if column.type == "boolean":
        return int(number != 0)
    if column.type in ("integer", "bigint", "smallint") and not number.is_integer():
        return None
    fitted: Value = int(number) if number.is_integer() and column.affinity != "real" else number
    if column.storage and not any(isinstance(fitted, STORAGE[name]) for name in column.storage):
        return str(fitted) if column.storage == ("text",) and column.form == "integer" else None
    return fitted if fitted or column.has_zeros else None


def _any(column: Column, chance: random.Random, unique: int = 0) -> Value:
    """Some value of the column's type; small ranges, so that values meet."""
    if column.type in ("date", "timestamp"):
        day = date(2000, 1, 1) + timedelta(days=chance.randrange(6000))
        return day.isoformat() if column.type == "date" else f"{day.isoformat()} {chance.randrange(10, 24)}:30:00"
    if column.type == "time":
        return f"{chance.randrange(10, 24)}:15:00"
    if column.type == "boolean":
        return chance.randrange(2)
    if column.type == "text" and not (column.storage and column.form in ("integer", "number")):
        return _fit(column, chance.choice([*WORDS, f"{WORDS[unique % len(WORDS)]} {unique}"]))
    is_real = column.type in ("numeric", "double precision") and (not column.storage or "real" in column.storage)
    half = 0.5 if is_real and chance.random() < 0.5 else 0
    return _fit(column, chance.choice([1, 2, 3, 4, 5, 7, 10, unique]) + half)


# --- what a query asks for -------------------------------------------------------------------------------------------


def _wishes(tree: exp.Expression) -> _Wishes:
    wishes = _Wishes()
    for select in tree.find_all(exp.Select):
        wishes.origins |= {id(origin): origin for origin in select.meta["scope"].origins}
    for node in tree.walk():
        if isinstance(node, exp.In):  # a column takes the first item of a list, and what a query selects
            query = node.args.get("query")
            inner = query.unnest() if query is not None else None
            if isinstance(inner, exp.Select) and len(inner.expressions) == 1:
                _wish(node.this, inner.expressions[0].unalias(), exp.EQ, wishes)
            elif node.expressions:
                _wish(node.this, node.expressions[0], exp.EQ, wishes)
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


def _near(literal: Value, operator: type[exp.Expression]) -> Value:
    """A value for which the comparison with `literal` holds."""
    if operator is exp.Like:
        return str(literal).replace("%", "").replace("_", "a")
    step = {exp.GT: 1, exp.LT: -1, exp.NEQ: 1}.get(operator, 0)
    return literal + step if isinstance(literal, int | float) else literal
