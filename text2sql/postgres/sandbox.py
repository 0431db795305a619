"""Untrusted SQL, executed: whatever a model writes goes through here and nowhere else.

What it covers, each wall on its own and several at a time:

- *One query.* The text becomes the query of a cursor (DECLARE ... FOR), by the extended protocol: a second statement,
  and anything but SELECT, VALUES, TABLE and WITH, is refused by PostgreSQL's own grammar. No DO, SET, COPY, CALL.
- *Reading only.* A READ ONLY transaction that is always rolled back, by a role that owns nothing, may connect to this
  one database, and holds SELECT on the tables of schema public; no CREATE, no TEMP, no language.
- *Harmless functions.* PUBLIC loses EXECUTE on every volatile function of pg_catalog (those that sleep, signal, lock,
  notify, change settings or sequences, touch files, large objects, logs and replication) but a few innocent ones, on
  those that run SQL out of a string, and on those of paths and polygons, which no question needs.
- *Time.* PostgreSQL's statement_timeout; after it a deadline kept by this side. Many functions (LIKE, position,
  replace, translate, normalize, to_date) loop over long texts without looking for a cancellation. So what does not end
  when it is cancelled and terminated gets SIGFPE, which PostgreSQL turns into an error at whatever instruction the
  process is, and SIGKILL after that. `execute` returns within two seconds of the timeout, and no process outlives it by
  much.
- *Space.* Rows are counted as they arrive, one at a time, with the memory of their values; work_mem and temp_file_limit
  hold on the server, and the kernel limits the address space of its process (Linux): the query runs out of memory, not
  the machine.
- *Nothing left over.* DISCARD ALL after each query; a session that saw a timeout or exhaustion is closed. Should the
  system kill a process of the server all the same, the others' queries are repeated when it is up again.

What it does not cover: defects of PostgreSQL itself; the load that a query puts on its core until its timeout; memory
beyond work_mem where there is no prlimit (macOS); what is there to be seen: the catalog of this database, the server's
version and settings; random() and now(), which differ from run to run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg import OperationalError, pq, sql
from psycopg.pq.abc import PGconn, PGresult

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.postgres.compare import Result
from text2sql.postgres.server import Server

_LISTS = read_beside(__file__)
#: Volatile functions that change nothing and tell nothing.
ALLOWED: list[str] = _LISTS["allowed"]
#: How long to wait for the server after its own timeout, and after each stronger measure.
GRACE_SECONDS = 0.4
#: How long a process that even SIGFPE did not end may live: SIGKILL makes the server restart, under all its sessions.
LAST_SECONDS = 5.0
#: How long to try for a session: a server that lost a process to the system (out of memory) restarts in the meantime.
RECOVERY_SECONDS = 10.0
#: How often a query is repeated whose session was lost.
LOST_SESSIONS = 2
#: What a value takes besides its object: its place in the row.
CELL_BYTES = 8
#: Sessions kept for the next query; beyond them the one that was used longest ago is closed.
MAX_IDLE = 24

#: PostgreSQL's text of these types (by oid) becomes a number or bool; that of all others stays text, so no value that
#: Python cannot hold (a date in the year 20000) turns a result into an error.
READERS: dict[int, Callable[[bytes], Any]] = {
    16: lambda text: text == b"t",
    **dict.fromkeys((20, 21, 23, 26), int),
    **dict.fromkeys((700, 701), float),
    1700: lambda text: Decimal(text.decode()),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one query may use. More rows or bytes than allowed make the error `too_many_rows`."""

    timeout_seconds: float = 10.0
    max_rows: int = 100_000
    #: memory of a result's values, as Python objects
    max_bytes: int = 128 * 2**20
    #: memory of one sort or hash, before it goes to a file
    work_mem_bytes: int = 16 * 2**20
    #: temporary files of one query
    temp_bytes: int = 512 * 2**20
    #: address space of the server's process, 100 MB of which it needs itself
    memory_bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value > 0, f"{name} must be positive")


class Sandbox:
    """Executes untrusted SQL on the databases of a server; from several threads at a time, if need be.

    Each database is closed down when it is first used, for the length of the server's life: other roles than the
    superuser cannot connect to it any more.
    """

    def __init__(self, server: Server, limits: Limits | None = None) -> None:
        self.server = server
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._roles: dict[str, str] = {}
        self._idle: OrderedDict[int, tuple[str, _Session]] = OrderedDict()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            while self._idle:
                self._idle.popitem()[1][1].close()

    def execute(self, database: str, sql: str) -> Result:
        """The rows of `sql`, or the error that it ends in; never raises because of `sql`.

        Numbers arrive as int, float or Decimal, booleans as bool, everything else as PostgreSQL's text.

        Raises:
            UserError: there is no such database.
        """
        for _ in range(1 + LOST_SESSIONS):
            session = self._take(database)
            result = session.execute(sql, self.limits)
            if session.is_clean():
                self._give_back(database, session)
            else:
                session.close()
            if result.error != "lost":  # it ended with the server's crash: another query's doing, or the system's
                break
            time.sleep(0.1)
        return result

    def _take(self, database: str) -> _Session:
        with self._lock:
            key = next((key for key, (name, _) in reversed(self._idle.items()) if name == database), None)
            if key is not None:
                return self._idle.pop(key)[1]
            if database not in self._roles:
                self._roles[database] = _close_down(self.server, database, self.limits)
        return _Session(self.server, database, self._roles[database], self.limits)

    def drop(self, database: str) -> None:
        """Drop a database with its sessions and its role; nothing waits for it meanwhile.

        Raises:
            UserError: a session on it did not end in time; the database is still there.
        """
        with self._lock:
            for key in [key for key, (name, _) in self._idle.items() if name == database]:
                self._idle.pop(key)[1].close()
            role = self._roles.pop(database, None)
        self.server.drop_database(database)
        if role:
            with self.server.connect() as connection:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))

    def _give_back(self, database: str, session: _Session) -> None:
        with self._lock:
            self._idle[session.pid] = (database, session)
            while len(self._idle) > MAX_IDLE:
                self._idle.popitem(last=False)[1][1].close()


class _Session:
    """A connection of the unprivileged role to one database."""

    def __init__(self, server: Server, database: str, role: str, limits: Limits) -> None:
        patience = time.perf_counter() + RECOVERY_SECONDS
        while True:
            self.connection: PGconn = pq.PGconn.connect(server.dsn(database, role).encode())
            if self.connection.status == pq.ConnStatus.OK:
                self.pid = self.connection.backend_pid
                if _limit_memory(self.pid, limits.memory_bytes, server):
                    break
            if time.perf_counter() > patience:
                said = _text(self.connection.error_message).strip()
                raise UserError(f"no session on database {database}: {said}", "PostgreSQL was ended? run it again")
            self.connection.finish()
            time.sleep(0.05)
        self._broken = False

    def close(self) -> None:
        self.connection.finish()

    def is_clean(self) -> bool:
        """Roll back, forget everything; False if the session must not be used again."""
        if self._broken:
            return False
        done = [self.connection.exec_(command).status for command in (b"ROLLBACK", b"DISCARD ALL")]
        return done == [pq.ExecStatus.COMMAND_OK] * 2

    def execute(self, sql: str, limits: Limits) -> Result:
        """Run one query; `is_clean` must be asked before the next."""
        started = time.perf_counter()
        deadline = started + limits.timeout_seconds + GRACE_SECONDS
        try:
            result = self._query(sql.encode(), limits, deadline)
        except UnicodeEncodeError as error:
            result = Result(error="syntax", message=str(error))
        except TimeoutError as error:
            result = Result(error="timeout", message=str(error))
        except OperationalError as error:
            result = Result(error="lost", message=str(error).strip())
        self._broken |= result.error in ("timeout", "resources", "too_many_rows", "lost")
        return dataclasses.replace(result, milliseconds=(time.perf_counter() - started) * 1000)

    def _query(self, sql: bytes, limits: Limits, deadline: float) -> Result:
        if b"\0" in sql:
            return Result(error="syntax", message="a NUL character in the query")
        self.connection.exec_(b"BEGIN READ ONLY")
        self.connection.send_query_params(b"DECLARE prediction NO SCROLL CURSOR FOR " + sql, None)
        for answer in self._answers(deadline):
            if failure := _failure(answer):
                return failure
        self.connection.send_query_params(b"FETCH ALL FROM prediction", None)
        self.connection.set_single_row_mode()
        return self._rows(limits, deadline)

    def _rows(self, limits: Limits, deadline: float) -> Result:
        columns: tuple[str, ...] | None = None
        readers: list[Callable[[bytes], Any]] = []
        rows: list[tuple[Any, ...]] = []
        size = 0
        for answer in self._answers(deadline):
            if failure := _failure(answer):
                return failure
            if columns is None:
                columns = tuple(_text(answer.fname(i) or b"") for i in range(answer.nfields))
                readers = [READERS.get(answer.ftype(i), _text) for i in range(answer.nfields)]
            for number in range(answer.ntuples):  # one, or none at the end
                texts = [answer.get_value(number, i) for i in range(len(columns))]
                row = tuple([None if t is None else read(t) for read, t in zip(readers, texts, strict=True)])
                size += sys.getsizeof(row) + CELL_BYTES * len(row) + sum(map(sys.getsizeof, row))
                rows.append(row)
            if len(rows) > limits.max_rows or size > limits.max_bytes:
                self._stop()
                what = f"{limits.max_rows} rows" if len(rows) > limits.max_rows else f"{limits.max_bytes} bytes"
                return Result(columns, error="too_many_rows", message=f"more than {what}")
        return Result(columns or (), rows)

    def _answers(self, deadline: float) -> Iterator[PGresult]:
        """The server's answers to what was sent, one by one.

        Raises:
            TimeoutError: the deadline passed; the query is stopped, as far as it lets itself be stopped.
        """
        while True:
            while self.connection.is_busy():
                if not self._wait(deadline):
                    self._stop()
                    raise TimeoutError("the query did not end after the server's own timeout")
                self.connection.consume_input()
            if (answer := self.connection.get_result()) is None:
                return
            yield answer

    def _wait(self, deadline: float) -> bool:
        """Whether the server said something before the deadline."""
        poll = select.poll()
        poll.register(self.connection.socket, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.perf_counter()) * 1000))

    def _stop(self) -> None:
        """End what is running, by stronger and stronger measures."""
        self._broken = True
        self.connection.get_cancel().cancel()
        # SIGTERM waits for the next check for interrupts. A loop without one ends at SIGFPE, which raises an error then
        # and there; the pending SIGTERM then ends the session.
        for number in (None, signal.SIGTERM, signal.SIGFPE):
            if number is not None:
                _signal(self.pid, number)
            if self._is_over(time.perf_counter() + GRACE_SECONDS):
                return
        threading.Thread(target=_kill_late, args=(self.pid,), daemon=True).start()

    def _is_over(self, deadline: float) -> bool:
        """Read and drop what comes until the query has ended or the deadline."""
        try:
            while time.perf_counter() < deadline:
                if not self.connection.is_busy():
                    if self.connection.get_result() is None:
                        return True
                elif self._wait(deadline):
                    self.connection.consume_input()
        except OperationalError:
            return True  # terminated
        return False


def _signal(pid: int, number: int) -> bool:
    """Send a signal to a process of the server; False if it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _kill_late(pid: int) -> None:
    """Kill a process of the server that does not end by itself; the server restarts, and queries are repeated."""
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:
        if not _signal(pid, 0):
            return
        time.sleep(0.1)
    _signal(pid, signal.SIGKILL)


def _limit_memory(pid: int, size: int, server: Server) -> bool:
    """Limit the address space of a server process, where the kernel has a call for it; False if the process is gone.

    Raises:
        UserError: that is not possible here.
    """
    if not hasattr(resource, "prlimit"):
        return True
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
    except ProcessLookupError:
        return False
    except PermissionError:  # root in a container may not; the server's own user may
        owner = server.root.stat()
        identity: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        command = ["prlimit", f"--as={size}:{size}", f"--pid={pid}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, **identity)
        except FileNotFoundError:
            remedy = "install util-linux (prlimit), or run as another user than root"
            raise UserError("root cannot limit the memory of PostgreSQL here", remedy) from None
        if done.returncode and Path(f"/proc/{pid}").exists():
            raise UserError(f"the memory of PostgreSQL cannot be limited: {done.stderr.strip()}") from None
        return done.returncode == 0
    return True


def _close_down(server: Server, database: str, limits: Limits) -> str:
    """Make the role that may read the tables, and close the database to others; returns the role's name."""
    mark = hashlib.sha256(repr((database, limits)).encode()).hexdigest()[:12]
    role = f"sandbox_{mark}"
    names = {
        "role": sql.Identifier(role),
        "database": sql.Identifier(database),
        "hidden": sql.SQL(", ").join(sql.Identifier("pg_catalog", name) for name in _LISTS["hidden"].split()),
        "allowed": sql.Literal(ALLOWED),
        "refused": sql.Literal(_LISTS["refused"]),
    }
    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"{round(limits.timeout_seconds * 1000)}ms",
        "transaction_timeout": f"{round((limits.timeout_seconds * 2 + 10) * 1000)}ms",
        "idle_in_transaction_session_timeout": "60s",
        "lock_timeout": "1s",
        "work_mem": f"{max(64, limits.work_mem_bytes // 1024)}kB",
        "temp_file_limit": f"{limits.temp_bytes // 1024}kB",
        "cursor_tuple_fraction": "1.0",  # all rows are wanted: plan as for a plain query
        "client_encoding": "UTF8",
        "search_path": "public",
        "log_min_messages": "fatal",  # a model's mistakes are no news to the server's log
        "log_min_error_statement": "panic",
    }
    with server.connect() as gate, server.connect(database) as connection, connection.transaction():
        # Another process may be at it too, on another database, but roles and databases are in tables of the server.
        gate.execute("SELECT pg_advisory_lock(1)")
        # Should a process of the server be killed, what is written asynchronously is lost: this, and what was loaded.
        connection.execute("SET LOCAL synchronous_commit = on")
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).rowcount == 0:
            connection.execute(sql.SQL("CREATE ROLE {role} LOGIN NOINHERIT").format(**names))
        for name, value in settings.items():
            setting = {"name": sql.Identifier(name), "value": sql.Literal(value)}
            connection.execute(sql.SQL("ALTER ROLE {role} SET {name} = {value}").format(**names, **setting))
        connection.execute(sql.SQL(_LISTS["close_down"]).format(**names))
    return role


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _failure(answer: PGresult) -> Result | None:
    """The error of an answer, or None."""
    if answer.status not in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
        return None
    state = _text(answer.error_field(pq.DiagnosticField.SQLSTATE) or b"")
    message = _text(answer.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or answer.error_message).strip()
    codes = _LISTS["codes"]
    code = next((codes[state[:n]] for n in (5, 3, 2) if state[:n] in codes), "other" if state else "lost")
    if state == "42601" and message.startswith("memory exhausted"):
        code = "resources"  # the grammar's word for nesting without end
    if state == "42883" and message.startswith("operator"):
        code = "type"  # there is such an operator, but not for these types
    return Result(error=code, message=message, sqlstate=state or None)
