"""Rows for tables that have none, so that queries have something to work on. Their values mean nothing.

The tables are real ones of a PostgreSQL server, and the server is the judge: a row that it refuses (a unique key, a
CHECK) is drawn again, with values that stand in the constraint itself, and a constraint that no draw meets is dropped
and noted. Foreign keys refer to rows that are there; those of a circle of tables are set when all tables have rows.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from text2sql.data.made.values import FillColumn, ValuesOfTypes, attempt
from text2sql.data.mini.rows import shuffled_list
from text2sql.files import read_beside

#: rows made up for a table
ROWS = 40
#: draws of a row before it is given up, and failed rows one after the other before the table is
TRIES, FAILURES = 60, 2
#: between the numbers of a row's draws, so that their values differ
OFFSET = 1000
#: the statements by name
_SQL = read_beside(__file__)


@dataclasses.dataclass
class FillKey:
    """A foreign key to a table by its oid."""

    name: str
    columns: tuple[str, ...]
    parent: int
    parent_columns: tuple[str, ...]


@dataclasses.dataclass
class FillTable:
    """A table to fill. `unique` are the columns of its unique and exclusion constraints, by the index's name."""

    oid: int
    name: sql.Identifier
    said: str
    columns: list[FillColumn]
    keys: list[FillKey]
    unique: dict[str, set[str]]


def fill_tables(connection: psycopg.Connection, rng: random.Random) -> tuple[int, list[str]]:
    """Fill every empty table of the database; returns how many there were, and notes on what could not be met.

    Args:
        connection: in autocommit mode, of the tables' owner. Foreign keys and triggers of users are dropped.
    """
    tables = read_tables(connection)
    by_oid = {table.oid: table for table in tables}
    loosen(connection, tables)
    notes: list[str] = []
    empty, filled = 0, set[int]()
    late: list[tuple[FillTable, FillKey]] = []  # in a circle of tables, or to the table itself
    for table in parents_first(tables):
        if connection.execute(sql.SQL("select 1 from {} limit 1").format(table.name)).fetchone() is None:
            empty += 1
            notes += Filler(connection, table, rng, {oid: by_oid[oid] for oid in filled}).fill()
            late += [(table, key) for key in table.keys if key.parent not in filled]
        filled.add(table.oid)
    for table, key in late:
        if error := set_key(connection, table, key, by_oid[key.parent]):
            notes.append(
                f"made-up rows of {table.said} refer to no rows of {by_oid[key.parent].said}: {error.sqlstate}"
            )
    return empty, notes


def read_tables(connection: psycopg.Connection) -> list[FillTable]:
    """The tables with columns and keys, as the server's catalog has them."""
    tables = {}
    for oid, schema, name, partitioned in connection.execute(_SQL["tables"]).fetchall():
        tables[oid] = FillTable(oid, sql.Identifier(schema, name), name, [], [], {})
        if partitioned:  # rows that belong to no partition go to one more
            default = sql.Identifier(schema, f"{name[:50]}_default")
            attempt(connection, sql.SQL("create table {} partition of {} default").format(default, tables[oid].name))
    for oid, *column in connection.execute(_SQL["columns"]).fetchall():
        if oid in tables:
            tables[oid].columns.append(FillColumn(*column))
    for oid, name, parent, columns, parent_columns in connection.execute(_SQL["foreign_keys"]).fetchall():
        if oid in tables and parent in tables:
            tables[oid].keys.append(FillKey(name, tuple(columns), parent, tuple(parent_columns)))
    for oid, name, columns in connection.execute(_SQL["unique"]).fetchall():
        if oid in tables:
            tables[oid].unique[name.rpartition(".")[2].strip('"')] = set(columns)
    return list(tables.values())


def loosen(connection: psycopg.Connection, tables: Sequence[FillTable]) -> None:
    """Drop foreign keys, which the drawn rows obey anyway, and triggers, which may refuse or change rows."""
    for table in tables:
        for key in table.keys:
            drop_constraint(connection, table, key.name)
        attempt(connection, sql.SQL("alter table {} disable trigger user").format(table.name))


def drop_constraint(connection: psycopg.Connection, table: FillTable, name: str) -> psycopg.Error | None:
    """Drop a constraint of a table; the error that it met, or None."""
    return attempt(connection, sql.SQL("alter table {} drop constraint {}").format(table.name, sql.Identifier(name)))


def parents_first(tables: Sequence[FillTable]) -> list[FillTable]:
    """Tables in an order in which parents come before children; a circle is entered at any of its tables."""
    order: list[FillTable] = []
    pending = list(tables)
    while pending:
        there = {table.oid for table in order}
        ready = (t for t in pending if {key.parent for key in t.keys} - {t.oid} <= there)
        order.append(next(ready, pending[0]))
        pending.remove(order[-1])
    return order


def set_key(connection: psycopg.Connection, table: FillTable, key: FillKey, parent: FillTable) -> psycopg.Error | None:
    """Let each row of `table` refer to another row of `parent`; of a table that may refer to itself, make a tree."""
    names, nullable = set(key.columns), {column.name for column in table.columns if not column.not_null}
    tree = table is parent and names <= nullable and not any(unique <= names for unique in table.unique.values())
    statement = sql.SQL(_SQL["set_key"]).format(
        table=table.name,
        parent=parent.name,
        names=sql.SQL(", ").join(map(sql.Identifier, key.columns)),
        referred=sql.SQL(", ").join(map(sql.Identifier, key.parent_columns)),
        wanted=sql.SQL("(c.n - 1) / 2 and c.n > 0" if tree else "(c.n + 1) % p.rows"),
    )
    return attempt(connection, statement)


class Filler:
    """Draws and inserts the rows of one table; `parents` are the tables that have rows."""

    def __init__(
        self, connection: psycopg.Connection, table: FillTable, rng: random.Random, parents: Mapping[int, FillTable]
    ) -> None:
        self.connection, self.table, self.rng = connection, table, rng
        self.notes: list[str] = []
        self.misfits: set[str] = set()  # columns of whose type no value is known: they stay NULL
        self.values = ValuesOfTypes(connection, rng)
        self.in_keys = {name for key in table.unique.values() for name in key}
        self.referring = {name for key in table.keys for name in key.columns}
        keys = sorted((k for k in table.keys if k.parent in parents), key=lambda k: -len(k.columns))
        self.keys = [(key, self._parent_rows(key, parents[key.parent])) for key in keys]

    def fill(self) -> list[str]:
        """Insert up to `ROWS` rows; returns notes."""
        inserted = failures = 0
        for number in range(1, ROWS + 1):
            error = self._insert(number)
            while error is not None and not inserted and self._give_way(error):
                error = self._insert(number)
            inserted += error is None
            failures = 0 if error is None else failures + 1
            if failures == FAILURES:
                break
        if not inserted:
            self.notes.append(f"no rows could be made up for {self.table.said}")
        return self.notes

    def _insert(self, number: int) -> psycopg.Error | None:
        """Insert one row; columns that a constraint refuses are drawn again. The last error, or None."""
        row, error = self._draw(number), None
        for tries in range(1, TRIES):
            names = sql.SQL(", ").join(map(sql.Identifier, row))
            values = sql.SQL(", ").join(map(sql.Literal, row.values()))  # no parameters: `%` may stand in a name
            statement = sql.SQL(_SQL["insert"] if row else "insert into {} default values")
            error = attempt(self.connection, statement.format(self.table.name, names, values))
            if error is None:
                return None
            refused, again = self._refused(error, row), self._draw(number + OFFSET * tries)
            row = {name: again[name] if name in refused else value for name, value in row.items()}
        return error

    def _refused(self, error: psycopg.Error, row: Mapping[str, str | None]) -> set[str]:
        """The columns that an error is about; all where it does not say."""
        name, columns = error.diag.constraint_name, self.table.columns
        if error.sqlstate in ("23505", "23P01") and name in self.table.unique:
            refused = self.table.unique[name]
        elif error.sqlstate == "23514" and name:
            refused = {column.name for column in columns if name in column.checks}
        else:  # a value that is none of its type, or anything else
            misfits = {c.name for c in columns if (value := row[c.name]) and not self.values.fits(value, c.type)}
            self.misfits |= {c.name for c in columns if c.name in misfits and not c.not_null}
            refused = misfits
        shared = [set(key.columns) for key, _ in self.keys if refused & set(key.columns)]
        return refused.union(*shared) or set(row)

    def _draw(self, number: int) -> dict[str, str | None]:
        row: dict[str, str | None] = {}
        for key, rows in self.keys:
            fitting = [r for r in rows if all(row.get(c, v) == v for c, v in zip(key.columns, r, strict=True))]
            if fitting:
                # a 1:1 table takes one parent after the other
                one_to_one = any(unique <= set(key.columns) for unique in self.table.unique.values())
                i = number % OFFSET + number // OFFSET if one_to_one else int(self.rng.random() * len(fitting))
                row |= zip(key.columns, fitting[i % len(fitting)], strict=True)
        for column in self.table.columns:
            if column.name in row:
                continue
            if column.name in self.misfits or (column.name in self.referring and not column.not_null):
                row[column.name] = None
            else:
                row[column.name] = self.values.draw(column, number, column.name in self.in_keys)
        return row

    def _parent_rows(self, key: FillKey, parent: FillTable) -> list[tuple[str, ...]]:
        names = [sql.Identifier(name) for name in key.parent_columns]
        query = sql.SQL("select {} from {} where {} order by ctid").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in names),
            parent.name,
            sql.SQL(" and ").join(sql.SQL("{} is not null").format(name) for name in names),
        )
        return shuffled_list(self.connection.execute(query).fetchall(), self.rng)

    def _give_way(self, error: psycopg.Error) -> bool:
        """Drop the table's CHECK that no row could be made up for; whether there was one."""
        name = error.diag.constraint_name
        if error.sqlstate != "23514" or not error.diag.table_name or not name:
            return False
        self.notes.append(f"made-up rows do not obey CHECK {name} of {self.table.said}")
        return drop_constraint(self.connection, self.table, name) is None
