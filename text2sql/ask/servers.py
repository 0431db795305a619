"""Somebody's own PostgreSQL, reached by a DSN: its schema, and queries that only read.

The sandbox keeps what a model writes away from a server that is ours; this server is the user's, and no role can be
created on it. A query is therefore examined before it runs:

- It is one SELECT, sent by the extended protocol, which takes no second statement.
- The server itself resolves it, without running it: PostgreSQL prints the query's tree (`debug_print_rewritten`) to
  this session. The tree names every function that would be called, also where no call is written: operators, casts,
  `row.function`, the checks of domains, what a view or a policy calls. Each must be PostgreSQL's own (pg_catalog) and
  declared free of side effects (`pg_proc.provolatile` is not `v`), or be trusted by name. That rules out pg_sleep,
  set_config, lo_import, dblink, pg_read_file, nextval, advisory locks, and functions that run SQL given as text.
- It runs in a READ ONLY transaction that is rolled back, with the server's statement_timeout and a deadline kept here.
  Rows are read one by one; their number and their bytes are limited.

Not covered: memory and temporary files that a query takes on the server within its time, a defect in PostgreSQL, and
rows that this role may read but the person asking may not. Give the DSN of a role that can do no more than it should.
The server's log gets the tree of each query (level LOG).
"""

from __future__ import annotations

import array
import dataclasses
import fcntl
import re
import select
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.ask.catalog import Catalog, Relations, hide, read_catalog, relation
from text2sql.ask.dsn import Address, connect_server, parse_dsn
from text2sql.postgres.compare import Result
from text2sql.postgres.sandbox import CODES, READERS
from text2sql.schema import OTHER_SAMPLES, Schema, Table, kind_of, quote
from text2sql.sql import parse

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Remote", "hide"]

#: functions that PostgreSQL declares volatile, but that have no side effects
HARMLESS = ["random", "random_normal", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv7", "uuidv4"]
#: functions that PostgreSQL declares stable, but that run a query given as text
INDIRECT = "^(query|cursor|table|schema|database)_to_xml|^ts_stat$|^ts_rewrite$"
#: rows read for the sample values of a column, and characters kept of a value
SAMPLED_ROWS = 1000
SAMPLE_CHARACTERS = 200
#: seconds that the server may take, beyond its timeout, to report the timeout
GRACE_SECONDS = 1.0
#: largest result, in bytes
MAX_BYTES = 64 * 2**20

_FUNCTIONS = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid|tsmhandler) (\d+)")
_OPERATORS = re.compile(r":(?:opno|eqop|sortop|seqop) (\d+)|:opnos \(o ([\d ]+)\)")
_TYPES = re.compile(r":resulttype (\d+)")
_COMMANDS = re.compile(r":commandType (\d)")
SELECT_COMMAND = "1"

#: the functions behind operators, and those in the checks of domains and of the domains below them
_CHECKS = """
with recursive domains(oid) as (
    select oid from pg_type where oid = any(%(types)s::oid[]) and typtype = 'd'
    union select t.typbasetype from domains d join pg_type t on t.oid = d.oid where t.typbasetype <> 0)
select c.conbin::text from pg_constraint c join domains d on c.contypid = d.oid where c.conbin is not null"""
_REFUSED_FUNCTIONS = """
select n.nspname::text, p.proname::text, n.nspname = 'pg_catalog', coalesce(e.extname, p.proname)::text
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
left join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
left join pg_extension e on e.oid = d.refobjid
where p.oid = any(%(functions)s::oid[] || array(
          select oprcode::oid from pg_operator where oid = any(%(operators)s::oid[])))
  and case when n.nspname = 'pg_catalog'
           then p.provolatile = 'v' and p.proname <> all(%(harmless)s) or p.proname ~ %(indirect)s
           else not coalesce(array[n.nspname, p.proname, n.nspname || '.' || p.proname, e.extname]::text[]
                             && %(trusted)s::text[], false) end
order by 3, 1, 2 limit 1"""
_ROLE = """
select rolsuper, exists (select from pg_class c where c.relowner = r.oid and c.relkind in ('r', 'p'))
from pg_roles r where rolname = current_user"""


class Remote:
    """A connection to the user's server, as a context manager; usable from several threads, one query at a time.

    Args:
        dsn: any of the forms of `text2sql.ask.dsn`; a password may as well come from PGPASSWORD or ~/.pgpass.
        seconds: the limit of one query.
        max_rows: the limit of one result; a longer one is cut and its `error` is `too_many_rows`.
        trusted: functions that are not PostgreSQL's own and may be called: names of functions (`f`, `schema.f`),
            schemas or extensions.
    """

    def __init__(self, dsn: str, *, seconds: float = 10.0, max_rows: int = 1000, trusted: Sequence[str] = ()) -> None:
        self._address: Address = parse_dsn(dsn)
        self._seconds, self._max_rows, self._trusted = seconds, max_rows, list(trusted)
        self._connection: psycopg.Connection | None = None
        self._lock = threading.RLock()
        self._tree: list[str] = []
        self.relations: Relations = {}
        #: tables with no more than `SAMPLED_ROWS` rows, after a catalog with samples
        self.read: frozenset[str] = frozenset()

    def __enter__(self) -> Remote:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> psycopg.Connection:
        self._connection = connect_server(self._address)
        self._connection.add_notice_handler(lambda notice: self._tree.append(notice.message_detail or ""))
        return self._connection

    @property
    def version(self) -> int:
        """The server's version, as 160004 for 16.4."""
        with self.transaction() as connection:
            return connection.info.server_version

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """A read-only transaction that is rolled back in the end; a lost connection is opened again before.

        Settings are those of the transaction: behind a pooler, the next one may be on another session.
        """
        with self._lock:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connect()
            try:
                connection.execute("begin transaction read only")
                connection.execute(f"set local statement_timeout = {int(1000 * self._seconds)}".encode())
                connection.execute("set local idle_in_transaction_session_timeout = 60000")
                yield connection
            finally:
                if not connection.closed:
                    connection.execute("rollback")

    def schema(self, samples: int = 0, hidden: Sequence[str] = ()) -> Schema:
        """Tables and views that the role may read, with their keys; those of all schemas, or those the DSN names.

        Args:
            samples: distinct values kept of each column, of one that is not text at most `OTHER_SAMPLES`; 0 reads no
                row at all.
            hidden: `table.column` or `table`: neither name nor values of these leave the server.

        Raises:
            UserError: there is no such table, or a hidden one does not exist.
        """
        return self.catalog(samples, hidden).schema

    def catalog(self, samples: int = 0, hidden: Sequence[str] = ()) -> Catalog:
        """As `schema`, with the schemas of the tables, and notes on what the role could do beside reading."""
        with self.transaction() as connection:
            schemas = self._address.schemas
            if not schemas and "search_path" in str(self._address.parameters.get("options")):
                path = connection.execute("select unnest(current_schemas(false))::text").fetchall()
                schemas = tuple(row[0] for row in path) or ("",)  # a path of no schema shows no table
            catalog = read_catalog(connection, connection.info.dbname, schemas)
            superuser, owner = connection.execute(_ROLE).fetchone() or (False, False)
        self.relations = catalog.relations
        notes = list(self._address.notes)
        if superuser or owner:
            rank = "is a superuser" if superuser else "owns tables"
            notes.append(f"this role {rank}: a role that may only SELECT is safer (docs/USAGE.md)")
        schema = hide(catalog.schema, hidden)
        schema = dataclasses.replace(schema, notes=(*schema.notes, *notes))
        if samples:
            tables = tuple(self._with_samples(table, samples) for table in schema.tables)
            schema = dataclasses.replace(schema, tables=tables)
        return dataclasses.replace(catalog, schema=schema)

    def _with_samples(self, table: Table, wanted: int) -> Table:
        """`table` with values of its columns, out of its first rows; a view has none, as reading it runs its query."""
        if table.kind == "view":
            return table
        values = ", ".join(f"left({quote(column.name)}::text, {SAMPLE_CHARACTERS})" for column in table.columns)
        query = f"select {values} from {relation(table.name, self.relations)} limit {SAMPLED_ROWS + 1}"
        with self.transaction() as connection:
            rows = connection.execute(query.encode()).fetchall()
        if len(rows) <= SAMPLED_ROWS:
            self.read |= {table.name}
        columns = []
        for i, column in enumerate(table.columns):
            kept = wanted if kind_of(column.type) == "text" else min(wanted, OTHER_SAMPLES)
            distinct = dict.fromkeys(row[i] for row in rows if row[i] is not None)
            columns.append(dataclasses.replace(column, samples=tuple(distinct)[:kept]))
        return dataclasses.replace(table, columns=tuple(columns))

    def execute(self, sql: str) -> Result:
        """The rows of one query that only reads; otherwise `error` says why there are none.

        Numbers arrive as int, float or Decimal, booleans as bool, everything else as PostgreSQL's text.

        Raises:
            UserError: the connection was lost and cannot be opened again.
        """
        import psycopg

        started = time.perf_counter()
        try:
            check_reads_only(sql)
            with self.transaction() as connection:
                self._check_functions(connection, sql)
                deadline = started + self._seconds + GRACE_SECONDS
                result = read_rows(connection.pgconn, sql, self._max_rows, deadline)
        except (QueryRefused, UnicodeEncodeError) as error:
            return Result(error="refused", message=str(error))
        except TimeoutError as error:
            result = Result(error="timeout", message=str(error))
        except psycopg.Error as error:
            message = error.diag.message_primary or str(error).splitlines()[0]
            result = Result(error=error_code(error), message=message, sqlstate=error.sqlstate)
        return dataclasses.replace(result, milliseconds=1000 * (time.perf_counter() - started))

    def _check_functions(self, connection: psycopg.Connection, sql: str) -> None:
        """Have the server resolve the query, and refuse what is not known to only read.

        Raises:
            QueryRefused: it calls such a function, or is no SELECT.
        """
        trees = "".join(self._print_tree(connection, sql))
        if set(_COMMANDS.findall(trees)) != {SELECT_COMMAND}:
            raise QueryRefused("only queries are run")
        trees += "".join(row[0] for row in connection.execute(_CHECKS, {"types": _TYPES.findall(trees)}))
        operators = [oid for one, several in _OPERATORS.findall(trees) for oid in (one, *several.split()) if oid]
        called = {"functions": _FUNCTIONS.findall(trees), "operators": operators}
        parameters = called | {"harmless": HARMLESS, "indirect": INDIRECT, "trusted": self._trusted}
        refused = connection.execute(_REFUSED_FUNCTIONS, parameters).fetchone()
        if refused is not None:
            schema, name, system, trusted_by = refused
            if system:
                raise QueryRefused(f"{name}() may do more than read")
            reason = f"is not one of PostgreSQL's own functions: --trust {trusted_by} if it only reads"
            raise QueryRefused(f"{schema}.{name}() {reason}")

    def _print_tree(self, connection: psycopg.Connection, sql: str) -> list[str]:
        """The query's tree after the rewriting of views, as the server prints it. The query is parsed, not planned:
        planning would call its immutable functions.

        Raises:
            psycopg.Error: it is no valid query.
        """
        from psycopg import pq
        from psycopg.errors import error_from_result

        connection.execute("set local debug_pretty_print = off; set local debug_print_rewritten = on")
        connection.execute("set local client_min_messages = log")
        self._tree.clear()
        done = connection.pgconn.prepare(b"", sql.encode())
        trees = list(self._tree)
        if done.status != pq.ExecStatus.COMMAND_OK:
            raise error_from_result(done)
        connection.execute("set local client_min_messages = warning")
        connection.execute("set local debug_print_rewritten = off")
        return trees


class QueryRefused(Exception):
    """The query is not one that only reads; the text says why."""


def check_reads_only(sql: str) -> None:
    """Refuse what is not one query, or writes or locks, by its text; the server's own reading is examined after it.

    Raises:
        QueryRefused: it is something else.
    """
    try:
        trees = parse(sql)
    except SqlglotError as error:
        raise QueryRefused(f"this cannot be read as SQL: {str(error).splitlines()[0]}") from None
    if len(trees) != 1:
        raise QueryRefused(f"exactly one statement is run, not {len(trees)}")
    if not isinstance(trees[0], exp.Query):
        raise QueryRefused(f"only queries are run, not {trees[0].key.upper()}")
    writing = (exp.DML, exp.DDL, exp.Into, exp.Lock, exp.Command)
    for node in trees[0].walk():
        if isinstance(node, writing) and not isinstance(node, exp.Query):
            raise QueryRefused(f"only queries are run, not {node.key.upper()}")


def read_rows(connection: PGconn, sql: str, max_rows: int, deadline: float) -> Result:
    """The rows of a query as they come, up to a number of rows, of bytes, and a deadline (`time.perf_counter`).

    Raises:
        TimeoutError: the deadline passed; the query is cancelled.
        psycopg.Error: the query failed.
    """
    from psycopg import pq
    from psycopg.errors import error_from_result

    connection.send_query_params(sql.encode(), None)
    connection.set_single_row_mode()
    columns: tuple[str, ...] = ()
    readers: list[Callable[[bytes], Any]] = []
    rows: list[tuple[Any, ...]] = []
    failure: psycopg.Error | None = None
    for answer in _answers(connection, deadline):
        if answer is None:
            _stop(connection)
            return Result(columns, [], "too_many_rows", f"the result is larger than {MAX_BYTES // 2**20} MB")
        if answer.status not in (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_OK):
            failure = error_from_result(answer)
            continue  # to the end of the answers: the connection is then free for the rollback
        if not columns:
            columns = tuple(_text_value(answer.fname(i) or b"") for i in range(answer.nfields))
            readers = [READERS.get(answer.ftype(i), _text_value) for i in range(answer.nfields)]
        for number in range(answer.ntuples):  # one, or none at the end
            values = (answer.get_value(number, i) for i in range(len(readers)))
            rows.append(tuple(None if v is None else read(v) for v, read in zip(values, readers, strict=True)))
        if len(rows) > max_rows:
            _stop(connection)
            return Result(columns, rows[:max_rows], "too_many_rows", f"only the first {max_rows:,} rows are shown")
    if failure is not None:
        raise failure
    return Result(columns, rows)


def _answers(connection: PGconn, deadline: float) -> Iterator[PGresult | None]:
    """The server's answers one by one; None as the last one when `MAX_BYTES` have come, even within one row."""
    poll, waiting, received = select.poll(), array.array("i", [0]), 0
    poll.register(connection.socket, select.POLLIN)
    while True:
        while connection.is_busy():
            if not poll.poll(1000 * max(0.0, deadline - time.perf_counter())):
                _stop(connection)
                raise TimeoutError("the query did not end within its time")
            fcntl.ioctl(connection.socket, termios.FIONREAD, waiting)
            received += waiting[0]
            if received > MAX_BYTES:
                yield None
                return
            connection.consume_input()
        if (answer := connection.get_result()) is None:
            return
        yield answer


def _stop(connection: PGconn) -> None:
    """Cancel the query and close the connection: what is still under way is not read."""
    connection.get_cancel().cancel()
    connection.finish()


def _text_value(value: bytes) -> str:
    return value.decode(errors="replace")


def error_code(error: psycopg.Error) -> str:
    """The sandbox's code for an error that a query met."""
    state = error.sqlstate or ""
    return next((CODES[state[:n]] for n in (5, 3, 2) if state[:n] in CODES), "other" if state else "lost")
