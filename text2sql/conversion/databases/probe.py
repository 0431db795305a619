"""How a SQLite file is opened, and what it makes SQLite compute, tried in a process of its own.

Views, virtual tables, generated columns and CHECKs of a file of a kilobyte can ask for a computation without end, and a
function that loops in C looks at no interrupt: only the end of its process stops it. This file is both sides:
`try_query` starts it as a script, which imports nothing but the standard library.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

#: of processor time for one query on a file, and for all of them
MOST_SECONDS, MOST_SECONDS_OF_A_FILE = 10.0, 30.0
#: of one query's rows, and of one value
MOST_ROWS, MOST_BYTES, LONGEST_VALUE = 5_000_000, 2**26, 2**22
#: of the process: its memory, and each of SQLite's temporary files
MOST_MEMORY, MOST_FILE = 2**31, 2**30
#: how SQLite says that it lacks an application's collation or function
MISSING = re.compile(r"(?:no such|unknown) (collation sequence|function): ([^()]+)")
CHECK = "PRAGMA quick_check(1)"
#: what a query may ask of SQLite. To read a virtual table, SQLite prepares changes of it, which a connection that only
#: reads does not execute.
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_PREPARED = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_PRAGMAS = {"data_version", "page_size", "quick_check", "table_list", "table_info", "table_xinfo", "index_list"}
_PRAGMAS |= {"index_info", "index_xinfo", "foreign_key_list"}
#: functions of some builds that reach beyond the database
_REFUSED = {"edit", "fts3_tokenizer", "load_extension", "readfile", "writefile"}
_COMPUTES = (
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND sql LIKE '%CHECK%' UNION ALL "
    "SELECT 1 FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS c WHERE m.type = 'table' AND c.hidden = 2"
)


@dataclass(frozen=True)
class Tried:
    """What became of a query: its first value as text, or the error; and the processor time that it took."""

    value: str = ""
    error: str = ""
    seconds: float = 0.0


def try_query(path: Path, query: str, seconds: float) -> Tried:
    """Run `query` on the file at `path` to its last row, with a limit of processor time."""
    command = [sys.executable, "-I", __file__, str(path.resolve()), query, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == -signal.SIGPROF:
        return Tried(error=f"no end in {seconds:g} s", seconds=seconds)
    if done.returncode:
        return Tried(error=(done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1])
    return Tried(**json.loads(done.stdout))


def integrity(path: Path) -> str:
    """What SQLite's quick check says first, `ok` if nothing is wrong. What the check computes and cannot finish within
    the limits (generated columns, CHECKs) is no damage.

    Raises:
        sqlite3.DatabaseError: the file is no database.
    """
    tried = try_query(path, CHECK, MOST_SECONDS)
    if tried.error.startswith("no end"):
        return "ok"
    if tried.error:
        raise sqlite3.DatabaseError(tried.error)
    return tried.value


def reading_connection(path: Path, seconds: float = 5.0) -> sqlite3.Connection:
    """A connection that only reads, and leaves nothing beside the file: where one in WAL mode has no log, SQLite would
    make one.

    Args:
        seconds: how long to wait for another process's lock.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        in_wal_mode = file.read(20)[19:] == b"\2"
    immutable = "&immutable=1" if in_wal_mode and not log_of(path).exists() else ""
    uri = f"{path.resolve().as_uri()}?mode=ro{immutable}"
    connection = sqlite3.connect(uri, uri=True, timeout=seconds, check_same_thread=False)
    connection.set_authorizer(authorize)
    return connection


def log_of(path: Path) -> Path:
    """Where SQLite keeps changes that are not in the file yet, in WAL mode."""
    return path.with_name(f"{path.name}-wal")


def authorize(action: int, first: str | None, second: str | None, database: str | None, _: str | None) -> int:
    """SQLite's authorizer: queries and what they need, nothing that changes a setting or reaches another file."""
    allowed = (
        (action in _READING and not (action == sqlite3.SQLITE_FUNCTION and second in _REFUSED))
        or (action in _PREPARED and database == "main")
        or (action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _check(connection: sqlite3.Connection, seconds: float) -> str:
    """The quick check. An application's collations and functions, which are missing here, are no damage: stand-ins take
    their place. Its time is limited only where it computes something: a large file takes long."""
    if connection.execute(_COMPUTES).fetchone():
        _limit(connection, seconds)
    while True:
        try:
            (answer,) = connection.execute(CHECK).fetchone() or (b"no answer",)
            return answer.decode(errors="replace")
        except sqlite3.DataError:  # a value over the limit
            return "ok"
        except sqlite3.OperationalError as error:
            missing = MISSING.match(str(error))
            if missing is None:
                raise
            if missing[1] == "function":
                connection.create_function(missing[2], -1, lambda *_: None, deterministic=True)
            else:
                connection.create_collation(missing[2], lambda a, b: (a > b) - (a < b))


def _limit(connection: sqlite3.Connection, seconds: float) -> None:
    """From here on the kernel ends the process after `seconds` of its processor time, also amidst a loop in C."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)


def _read(connection: sqlite3.Connection, query: str) -> None:
    """Read the rows of a query, and forget them."""
    rows, size = 0, 0
    for row in connection.execute(query):
        rows, size = rows + 1, size + sum(len(value) if isinstance(value, bytes) else 8 for value in row)
        if rows > MOST_ROWS or size > MOST_BYTES:
            raise sqlite3.OperationalError(f"over {MOST_ROWS:,} rows or {MOST_BYTES:,} bytes")


def main(path: str, query: str, seconds: float) -> None:
    """Run one query and print what became of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE, MOST_FILE))
    tried = Tried()
    try:
        connection = reading_connection(Path(path))
        connection.text_factory = bytes
        if query == CHECK:
            tried = Tried(_check(connection, seconds))
        else:
            _limit(connection, seconds)
            _read(connection, query)
    except (OSError, sqlite3.Error, MemoryError) as error:
        tried = Tried(error=str(error) or "out of memory")
    print(json.dumps(asdict(tried) | {"seconds": time.process_time()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
