"""Somebody's own PostgreSQL, reached by a DSN: its schema, and queries that only read.

The sandbox keeps what a model writes away from a server that is ours; this server is the user's, and no role can be
created on it. A query is therefore examined before it runs:

- It is sent by the extended protocol, which takes no second statement.
- The server itself resolves it, without running it: PostgreSQL prints the query's tree (`debug_print_rewritten`) to
  this session. The tree says whether it is a SELECT that locks no row, and names every function that would be called,
  also where no call is written: operators, casts, `row.function`, the checks of domains, what a view or a policy calls.
  Each must be PostgreSQL's own (pg_catalog) and declared free of side effects (`pg_proc.provolatile` is not `v`), or be
  trusted by name. That rules out pg_sleep, set_config, lo_import, dblink, pg_read_file, nextval, advisory locks, and
  functions that run SQL given as text.
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
import itertools
import os
import re
import socket
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult

from text2sql.ask.catalog import NO_TEXT, Catalog, Relations, hide, read_catalog, relation
from text2sql.ask.dsn import CONNECT_SECONDS, connect_server, parse_dsn
from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.postgres.compare import Result
from text2sql.postgres.sandbox import ALLOWED, Limits, _failure, _Session
from text2sql.schema import OTHER_SAMPLES, Table, kind_of, quote

#: functions that PostgreSQL declares stable, but that run a query given as text
INDIRECT = "^(query|cursor|table|schema|database)_to_xml|^ts_stat$|^ts_rewrite$"
#: rows read for the sample values of a column, and characters kept of a value
SAMPLED_ROWS = 1000
SAMPLE_CHARACTERS = 200
#: seconds for the values of all tables: a foreign table may wait for its server
SAMPLING_SECONDS = 60
#: seconds that the network may take, beyond those that the sandbox gives its own server
NETWORK_SECONDS = 0.6
#: seconds to tell the server that a query is to end
CANCEL_SECONDS = 2.0
#: tables without values that a note names
SHOWN_TABLES = 5
#: largest result, in bytes
MAX_BYTES = 64 * 2**20

_FUNCTIONS = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid|tsmhandler) (\d+)")
_OPERATORS = re.compile(r":(?:opno|eqop|sortop|seqop) (\d+)|:opnos \(o ([\d ]+)\)")
_TYPES = re.compile(r":resulttype (\d+)")
_COMMANDS = re.compile(r":commandType (\d)")
SELECT_COMMAND = "1"
LOCKS_ROWS = ":hasForUpdate true"

#: the queries by name
_SQL = read_beside(__file__)


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
        self._address = parse_dsn(dsn)
        self._seconds, self._max_rows, self._trusted = seconds, max_rows, list(trusted)
        self._connection: psycopg.Connection | None = None
        self._lock = threading.RLock()
        self._trees: list[str] = []

    def __enter__(self) -> Remote:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None and self._lock.acquire(blocking=False):  # else another thread reads from it
            self._connection.close()
            self._lock.release()

    def _connect(self) -> psycopg.Connection:
        self._connection = connect_server(self._address)
        self._connection.add_notice_handler(lambda notice: self._trees.append(notice.message_detail or ""))
        self._connection.adapters.register_loader("text", AnyText)
        return self._connection

    @contextmanager
    def transaction(self, statements: int = 60) -> Iterator[psycopg.Connection]:
        """A read-only transaction that is rolled back in the end; a lost connection is opened again before.

        Args:
            statements: the connection is ended when the time for so many is over, whatever server and network do.

        Raises:
            UserError: the connection was lost and cannot be opened again.
            psycopg.OperationalError: it is lost.
        """
        with self._lock:
            connection = self._begin()
            with ended_after(statements * self._seconds + CONNECT_SECONDS, connection):
                try:
                    yield connection
                finally:
                    if not connection.closed:
                        connection.pgconn.exec_(b"rollback")  # also drops what a refused query has left to read

    def _begin(self) -> psycopg.Connection:
        """Begin a transaction, on a new connection where server, pooler or firewall have ended the one that idled."""
        if self._connection is not None:
            with suppress(psycopg.OperationalError):
                return self._begun(self._connection)
            self._connection.close()
        return self._begun(self._connect())

    def _begun(self, connection: psycopg.Connection) -> psycopg.Connection:
        """Settings are those of the transaction: behind a pooler, the next one may be on another session."""
        begin = f"""begin transaction read only; set local statement_timeout = {int(1000 * self._seconds)};
                    set local idle_in_transaction_session_timeout = 60000;
                    set local datestyle = iso; set local intervalstyle = postgres;"""
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            begin += "set local client_encoding = sql_ascii"  # else what is no UTF-8 is an error
        with ended_after(CONNECT_SECONDS, connection):
            connection.execute(begin.encode())
        return connection

    def catalog(self, samples: int = 0, hidden: Sequence[str] = ()) -> Catalog:
        """Tables and views that the role may read, with their keys; those of all schemas, or those the DSN names.

        Notes say what the role could do beside reading.

        Args:
            samples: distinct values kept of each column, of one that is not text at most `OTHER_SAMPLES`; 0 reads no
                row at all.
            hidden: `table.column` or `table`: neither name nor values of these leave the server.

        Raises:
            UserError: there is no such table, a hidden one does not exist, or the catalog cannot be read.
        """
        try:
            with self.transaction() as connection:
                schemas = self._address.schemas
                if not schemas and "search_path" in connection.info.options:
                    path = connection.execute("select unnest(current_schemas(false))::text").fetchall()
                    schemas = tuple(row[0] for row in path) or ("",)  # a path of no schema shows no table
                catalog = read_catalog(connection, connection.info.dbname, schemas)
                superuser, owner = connection.execute(_SQL["role"]).fetchone() or (False, False)
        except psycopg.Error as error:
            what = f"the catalog of {self._address.place} cannot be read: {server_message(error)}"
            raise UserError(what, "check that it is PostgreSQL, and try again") from None
        notes = list(self._address.notes)
        if superuser or owner:
            rank = "is a superuser" if superuser else "owns tables"
            notes.append(f"this role {rank}: a role that may only SELECT is safer (docs/USAGE.md)")
        schema = hide(catalog.schema, hidden)
        catalog = Catalog(dataclasses.replace(schema, notes=(*schema.notes, *notes)), catalog.target)
        return self._with_samples(catalog, samples) if samples else catalog

    def _with_samples(self, catalog: Catalog, wanted: int) -> Catalog:
        """`catalog` with values of its tables; a note names those that cannot be read."""
        schema, target = catalog.schema, catalog.target
        until = time.monotonic() + SAMPLING_SECONDS
        tables, whole, unread = [], set(), []
        for table in schema.tables:
            try:
                if time.monotonic() > until:
                    raise psycopg.OperationalError("no time left")
                sampled, is_whole = self._sampled(table, wanted, target.relations)
            except psycopg.Error as error:
                unread.append(f"{table.name} ({server_message(error)})")
                sampled, is_whole = table, False
            tables.append(sampled)
            whole |= {table.name} if is_whole else set()
        more = f" and {len(unread) - SHOWN_TABLES} more" if len(unread) > SHOWN_TABLES else ""
        notes = [f"no values were read of {'; '.join(unread[:SHOWN_TABLES])}{more}"] if unread else []
        schema = dataclasses.replace(schema, tables=tuple(tables), notes=(*schema.notes, *notes))
        return Catalog(schema, dataclasses.replace(target, read=frozenset(whole)))

    def _sampled(self, table: Table, wanted: int, relations: Relations) -> tuple[Table, bool]:
        """`table` with values of its columns out of its first rows, and whether it has no others. A view has none:
        reading it runs its query.

        Raises:
            psycopg.Error: it cannot be read.
        """
        if table.kind == "view":
            return table, False
        values = ", ".join(f"left({quote(column.name)}::text, {SAMPLE_CHARACTERS})" for column in table.columns)
        query = f"select {values} from {relation(table.name, relations)} limit {SAMPLED_ROWS + 1}"
        with self.transaction(statements=1) as connection:
            rows = connection.execute(query.encode()).fetchall()
        is_whole = len(rows) <= SAMPLED_ROWS and not any(NO_TEXT in str(row) for row in rows)
        columns = []
        for i, column in enumerate(table.columns):
            kept = wanted if kind_of(column.type) == "text" else min(wanted, OTHER_SAMPLES)
            distinct = dict.fromkeys(row[i] for row in rows if row[i] is not None and NO_TEXT not in row[i])
            columns.append(dataclasses.replace(column, samples=tuple(distinct)[:kept]))
        return dataclasses.replace(table, columns=tuple(columns)), is_whole

    def execute(self, sql: str) -> Result:
        """The rows of one query that only reads; otherwise `error` says why there are none.

        Numbers arrive as int, float or Decimal, booleans as bool, everything else as PostgreSQL's text.
        """
        started = time.perf_counter()
        limits = Limits(self._seconds + NETWORK_SECONDS, self._max_rows, MAX_BYTES)
        try:
            with self.transaction(statements=1) as connection:
                reason = self._reason_to_refuse(connection, sql)
                refused = Result(error="refused", message=reason) if reason else None
                result = refused or RemoteSession(connection).execute(sql, limits)
        except UnicodeEncodeError as error:
            result = Result(error="refused", message=str(error))
        except UserError as error:
            result = Result(error="lost", message=str(error))
        except psycopg.Error as error:
            lost = Result(error="lost", message=server_message(error))
            result = (error.pgresult and _failure(error.pgresult)) or lost
        return dataclasses.replace(result, milliseconds=1000 * (time.perf_counter() - started))

    def _reason_to_refuse(self, connection: psycopg.Connection, sql: str) -> str | None:
        """What in the query is not known to only read, by the server's own reading of it; None if nothing is.

        Raises:
            psycopg.Error: it is no valid query.
        """
        if "\0" in sql:  # libpq would send what stands before it
            return "a NUL character in the query"
        trees = self._print_trees(connection, sql)
        if set(_COMMANDS.findall(trees)) != {SELECT_COMMAND} or LOCKS_ROWS in trees:
            return "only queries are run"
        trees += "".join(
            row[0] for row in connection.execute(_SQL["checks_of_domains"], {"types": _TYPES.findall(trees)})
        )
        operators = [oid for one, several in _OPERATORS.findall(trees) for oid in (one, *several.split()) if oid]
        called = {"functions": _FUNCTIONS.findall(trees), "operators": operators}
        parameters = called | {"harmless": ALLOWED, "indirect": INDIRECT, "trusted": self._trusted}
        refused = connection.execute(_SQL["refused_function"], parameters).fetchone()
        if refused is None:
            return None
        schema, name, is_system, trusted_by = refused
        if is_system:
            return f"{name}() may do more than read"
        return f"{schema}.{name}() is not one of PostgreSQL's own functions: --trust {trusted_by} if it only reads"

    def _print_trees(self, connection: psycopg.Connection, sql: str) -> str:
        """The query's trees after the rewriting of views, as the server prints them. The query is parsed, not planned:
        planning would call its immutable functions.

        Raises:
            psycopg.Error: it is no valid query.
        """
        connection.execute("set local debug_pretty_print = off; set local debug_print_rewritten = on")
        connection.execute("set local client_min_messages = log")
        self._trees.clear()
        done = connection.pgconn.prepare(b"", sql.encode())
        trees = " ".join(self._trees).replace("\n", " ")  # lines are broken at any space, before a number too
        if done.status != pq.ExecStatus.COMMAND_OK:
            raise error_from_result(done)
        connection.execute("set local client_min_messages = warning; set local debug_print_rewritten = off")
        return trees


class RemoteSession(_Session):
    """The sandbox's way of reading rows, within a transaction on a server whose processes get no signals of ours."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection, self._broken, self._cancel = connection.pgconn, False, connection.cancel_safe
        self._most, self._received, self._waiting = 0, 0, array.array("i", [0])

    def _query(self, sql: bytes, limits: Limits, deadline: float) -> Result:
        """As many rows as may be shown, and a note if there are more: these here are looked at, not compared.

        The query is sent as it is: under a cursor, PostgreSQL would not use parallel workers.
        """
        self._most = limits.max_rows + 1
        self.connection.send_query_params(sql, None)
        self.connection.set_single_row_mode()
        try:
            result = self._rows(dataclasses.replace(limits, max_rows=self._most), deadline)
        except OverflowError:
            result = Result(error="too_many_rows")
        if result.error == "too_many_rows":
            return dataclasses.replace(result, message=f"the result is larger than {MAX_BYTES // 2**20} MB")
        if len(result.rows) < self._most:
            return result
        self._stop()
        message = f"only the first {limits.max_rows:,} rows are shown"
        return Result(result.columns, result.rows[: limits.max_rows], "too_many_rows", message)

    def _answers(self, deadline: float) -> Iterator[PGresult]:
        """The server's answers, each of which has one row, up to the first row too many."""
        return itertools.islice(super()._answers(deadline), self._most)

    def _wait(self, deadline: float) -> bool:
        """Whether the server said something before the deadline, and not too much, even within one row."""
        has_answer = super()._wait(deadline)
        fcntl.ioctl(self.connection.socket, termios.FIONREAD, self._waiting)
        self._received += self._waiting[0]
        if self._received > MAX_BYTES:
            self._stop()
            raise OverflowError
        return has_answer

    def _stop(self) -> None:
        """Cancel the query and close the connection: what is still under way is not read."""
        with suppress(psycopg.Error):
            self._cancel(timeout=CANCEL_SECONDS)
        self.connection.finish()


class AnyText(Loader):
    """Text of whatever bytes: a database whose encoding is SQL_ASCII looks at none."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="replace")


@contextmanager
def ended_after(seconds: float, connection: psycopg.Connection) -> Iterator[None]:
    """Shut the connection down if the block takes longer: all that waits for the server then fails.

    The server's own limits do not help where the network is silent: there, libpq waits for ever.

    Raises:
        psycopg.OperationalError: the time is over.
    """
    if connection.closed:
        raise psycopg.OperationalError("the connection is closed")
    over, held = threading.Event(), socket.socket(fileno=os.dup(connection.fileno()))

    def end() -> None:
        over.set()
        with suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error:
        if over.is_set():
            raise psycopg.OperationalError(f"no answer from the server within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        held.close()


def server_message(error: psycopg.Error) -> str:
    """What the server said, without the place in the query."""
    return str(error).strip().partition("\n")[0]
