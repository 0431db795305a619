"""Somebody's own PostgreSQL, reached by a DSN: its schema, and queries that only read.

The sandbox keeps what a model writes away from a server that is ours; this server is the user's, and no role can be
made on it. So the query is held back before it gets there: it must be one SELECT, and may call only functions that the
server itself declares free of side effects (`pg_proc.provolatile` is not `v`: that rules out pg_sleep, set_config,
lo_import, dblink, pg_read_file, nextval, advisory locks). What runs is the query written anew from its parsed form, so
that nothing the parser overlooked gets through; in a READ ONLY transaction, with time and row limits, rolled back.

Not covered: what the user's own rules, operators or views do, memory that a query takes within its time, and rows
that this role may read but the person asking may not. Give the DSN of a role that can do no more than it should.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.errors import UserError
from text2sql.postgres.compare import Result
from text2sql.postgres.sandbox import CODES
from text2sql.schema import OTHER_SAMPLES, Column, ForeignKey, Schema, Table, kind_of, quote
from text2sql.sql import parse

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 5
#: declared volatile, but without side effects
HARMLESS = {"random", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv7", "uuidv4", "statement_timestamp"}
#: declared stable, but run a query that they get as text
INDIRECT = ("query_to_xml", "cursor_to_xml", "table_to_xml", "schema_to_xml", "database_to_xml", "ts_stat")
#: rows looked at for the sample values of a column
SAMPLED_ROWS = 1000

COLUMNS = """
select c.oid, c.relname, a.attname, a.attnotnull, t.typcategory in ('S', 'E'),
       format_type(case t.typtype when 'd' then t.typbasetype else t.oid end, null)
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition and pg_table_is_visible(c.oid)
  and c.relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema')
  and has_column_privilege(c.oid, a.attnum, 'select')
order by c.relkind in ('v', 'm'), c.oid, a.attnum"""
KEYS = """
select k.conrelid, k.contype, k.confrelid,
       array(select attname::text from unnest(k.conkey) with ordinality n(num, i)
             join pg_attribute a on a.attrelid = k.conrelid and a.attnum = n.num order by i),
       array(select attname::text from unnest(k.confkey) with ordinality n(num, i)
             join pg_attribute a on a.attrelid = k.confrelid and a.attnum = n.num order by i)
from pg_constraint k where k.contype in ('p', 'f', 'u') and k.conparentid = 0 order by k.conrelid, k.conname"""

OTHERS = """
select distinct schemaname from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1"""


class Remote:
    """A connection to the user's server, as a context manager. The DSN's password is in no message.

    Args:
        dsn: `postgresql://user@host:port/database` or libpq's `key=value` form; a password may as well come from
            PGPASSWORD or ~/.pgpass.
        seconds: the limit of one query.
        max_rows: the limit of one result; a longer one is cut and its `error` is `too_many_rows`.
    """

    def __init__(self, dsn: str, *, seconds: float = 10.0, max_rows: int = 1000) -> None:
        self._dsn, self._seconds, self._max_rows = dsn, seconds, max_rows
        self._connection: psycopg.Connection | None = None

    def __enter__(self) -> Remote:
        self._connection = connect(self._dsn, self._seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def connection(self) -> psycopg.Connection:
        """The open connection."""
        if self._connection is None:
            raise RuntimeError("Remote is used outside its with block")
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """A read-only transaction that is rolled back in the end."""
        try:
            self.connection.execute("begin transaction read only")
            yield self.connection
        finally:
            if not self.connection.closed:
                self.connection.execute("rollback")

    def schema(self, samples: int = 0, hidden: Sequence[str] = ()) -> Schema:
        """Tables and views that the role may read and that need no schema's name, with keys.

        Args:
            samples: distinct values kept of each column, of one that is not text at most `OTHER_SAMPLES`; 0 reads no
                row at all.
            hidden: `table.column` or `table`: neither name nor values of these leave the server.

        Raises:
            UserError: there is no such table, or a hidden one does not exist.
        """
        with self.transaction() as connection:
            columns = connection.execute(COLUMNS).fetchall()
            keys = connection.execute(KEYS).fetchall()
            others = connection.execute(OTHERS).fetchall()
        if not columns:
            named = f"there are tables in: {', '.join(r[0] for r in others)}; " if others else ""
            remedy = f"{named}add ?options=-csearch_path%3D<schema> to the DSN, or use a role that may read"
            raise UserError("the database shows no table to this role", remedy)
        schema = hide(build(self.connection.info.dbname, columns, keys), hidden)
        if not samples:
            return schema
        tables = tuple(self._with_samples(table, samples) for table in schema.tables)
        return Schema(schema.db_id, tables, schema.notes)

    def _with_samples(self, table: Table, wanted: int) -> Table:
        import dataclasses

        made = []
        for column in table.columns:
            count = wanted if kind_of(column.type) == "text" else min(wanted, OTHER_SAMPLES)
            rows = f"select {quote(column.name)}::text v from {quote(table.name)} limit {SAMPLED_ROWS}"
            query = f"select v from (select v, row_number() over () n from ({rows})) where v is not null"
            with self.transaction() as connection:
                found = connection.execute(f"{query} group by v order by min(n) limit {count}").fetchall()  # type: ignore[call-overload]
            made.append(dataclasses.replace(column, samples=tuple(row[0] for row in found)))
        return dataclasses.replace(table, columns=tuple(made))

    def execute(self, sql: str) -> Result:
        """The rows of one query that only reads; otherwise `error` says why there are none."""
        import psycopg

        started = time.perf_counter()
        try:
            tree = read_only(sql)
            self._check_functions(tree)
            with self.transaction() as connection:
                cursor = connection.cursor(name="text2sql")
                # Written anew from the tree: what was checked is what runs. No parameters: `%` stands for itself.
                cursor.execute(tree.sql("postgres").encode())
                rows = cursor.fetchmany(self._max_rows + 1)
                names = tuple(column.name for column in cursor.description or ())
                cursor.close()
        except Refused as error:
            return Result(error="refused", message=str(error))
        except psycopg.Error as error:
            message = error.diag.message_primary or str(error).splitlines()[0]
            return Result(error=code(error), message=message, milliseconds=since(started), sqlstate=error.sqlstate)
        too_many = len(rows) > self._max_rows
        return Result(
            names,
            rows[: self._max_rows],
            "too_many_rows" if too_many else None,
            f"only the first {self._max_rows:,} rows are shown" if too_many else "",
            since(started),
        )

    def _check_functions(self, tree: exp.Expression) -> None:
        """Refuse functions that the server declares volatile.

        Raises:
            Refused: one is called.
        """
        names = {function_name(f) for f in tree.find_all(exp.Func)} - {""}
        query = "select distinct proname::text from pg_proc where proname = any(%s) and provolatile = 'v'"
        with self.transaction() as connection:
            volatile = {row[0] for row in connection.execute(query, [sorted(names)])}
        indirect = {name for name in names if name.startswith(INDIRECT)}
        if bad := sorted((volatile - HARMLESS) | indirect):
            raise Refused(f"{bad[0]}() may do more than read")


class Refused(Exception):
    """The query is not one that only reads; the text says why."""


def read_only(sql: str) -> exp.Query:
    """`sql` as a tree if it is one query without anything that writes or locks.

    Raises:
        Refused: it is something else.
    """
    try:
        trees = parse(sql)
    except SqlglotError as error:
        raise Refused(f"this cannot be read as SQL: {str(error).splitlines()[0]}") from None
    if len(trees) != 1:
        raise Refused(f"exactly one statement is run, not {len(trees)}")
    tree = trees[0]
    if not isinstance(tree, exp.Query):
        raise Refused(f"only queries are run, not {tree.key.upper()}")
    writing = (exp.DML, exp.DDL, exp.Into, exp.Lock, exp.Command)
    for node in tree.walk():
        if isinstance(node, writing) and not isinstance(node, exp.Query):
            raise Refused(f"only queries are run, not {node.key.upper()}")
    return tree


def function_name(function: exp.Func) -> str:
    """The name that the server will look up for a call, in lower case; empty for what is no call of a function."""
    if isinstance(function, exp.Anonymous | exp.AnonymousAggFunc):
        return function.name.lower()
    # What sqlglot knows by a class of its own may be written under another name: take the one that is sent.
    head = function.sql("postgres").partition("(")
    return head[0].strip().lower().rpartition(".")[2] if head[1] else ""


def connect(dsn: str, seconds: float) -> psycopg.Connection:
    """An autocommitting, read-only connection.

    Raises:
        UserError: the DSN cannot be read, the server not reached, or the role not logged in; never with the password.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    form = "write it as postgresql://user@host:5432/database, special characters in the password as %40 for @"
    try:
        parts: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, **conninfo_to_dict(dsn)}
    except psycopg.ProgrammingError:
        # libpq's own message quotes the DSN, password included
        raise UserError("the DSN cannot be read", form) from None
    options = f"{parts.get('options') or ''} -c statement_timeout={int(1000 * seconds)}"
    parts["options"] = f"{options} -c default_transaction_read_only=on -c idle_in_transaction_session_timeout=60000"
    place = f"{parts.get('host') or 'the local server'}:{parts.get('port') or 5432}"
    try:
        return psycopg.connect(**parts, autocommit=True, application_name="text2sql")
    except psycopg.OperationalError as error:
        said = str(error).strip()
        if secret := parts.get("password"):
            said = said.replace(secret, "***")
        if "password" in said or "authentication" in said or "no pg_hba.conf" in said:
            role = parts.get("user") or "this user"
            raise UserError(
                f"{place} does not let {role} in", "mend the password or role: PGPASSWORD or ~/.pgpass hold it too"
            ) from None
        if "does not exist" in said:
            raise UserError(f"{place}: {said.rpartition('FATAL:')[2].strip()}", "mend the DSN") from None
        reason = said.splitlines()[-1].strip()
        raise UserError(f"{place} cannot be reached: {reason}", "check host, port and that the server runs") from None


def build(db_id: str, columns: list[Any], keys: list[Any]) -> Schema:
    """A schema out of the rows of `COLUMNS` and `KEYS`."""
    from text2sql.ask.schema_file import type_of

    names: dict[int, str] = {row[0]: row[1] for row in columns}
    found: dict[int, list[Column]] = {oid: [] for oid in names}
    unique = {(oid, cols[0]) for oid, kind, _, cols, _ in keys if kind == "u" and len(cols) == 1}
    for oid, _, name, not_null, textual, declared in columns:
        kind = "text" if textual else type_of(exp.DataType.build(declared, dialect="postgres", udt=True))
        found[oid].append(Column(name, name, kind, not_null, (oid, name) in unique))
    tables = []
    for oid, name in names.items():
        own = {c.name for c in found[oid]}
        mine = [key for key in keys if key[0] == oid and set(key[3]) <= own]
        primary = next((tuple(key[3]) for key in mine if key[1] == "p"), ())
        foreign = tuple(
            ForeignKey(tuple(k[3]), names[k[2]], tuple(k[4])) for k in mine if k[1] == "f" and k[2] in names
        )
        tables.append(Table(name, name, tuple(found[oid]), primary, foreign))
    return Schema(db_id, tuple(tables))


def hide(schema: Schema, hidden: Sequence[str]) -> Schema:
    """`schema` without the tables and columns (`table` or `table.column`) in `hidden`, nor the keys on them.

    Raises:
        UserError: one of them does not exist: a slip of the pen must not let it out.
    """
    import dataclasses

    known = {t.name for t in schema.tables} | {f"{t.name}.{c.name}" for t in schema.tables for c in t.columns}
    if unknown := sorted(set(hidden) - known):
        raise UserError(f"{unknown[0]} is to be hidden, but is not in the schema", "write table.column or table")
    gone = set(hidden)

    def stays(table: str, columns: Sequence[str]) -> bool:
        return table not in gone and not any(f"{table}.{c}" in gone for c in columns)

    tables = [
        dataclasses.replace(
            table,
            columns=tuple(c for c in table.columns if stays(table.name, [c.name])),
            primary_key=table.primary_key if stays(table.name, table.primary_key) else (),
            foreign_keys=tuple(
                k
                for k in table.foreign_keys
                if stays(table.name, k.columns) and stays(k.referred_table, k.referred_columns)
            ),
        )
        for table in schema.tables
        if table.name not in gone
    ]
    return dataclasses.replace(schema, tables=tuple(t for t in tables if t.columns))


def code(error: psycopg.Error) -> str:
    """The sandbox's code for an error that a query met."""
    state = error.sqlstate or ""
    return next((CODES[state[:n]] for n in (5, 2) if state[:n] in CODES), "other" if state else "lost")


def since(started: float) -> float:
    """Milliseconds since `started` of the performance counter."""
    return 1000 * (time.perf_counter() - started)
