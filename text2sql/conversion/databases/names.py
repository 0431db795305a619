"""PostgreSQL names for SQLite's: lower case, short, and different from each other."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: names longer than this are cut by PostgreSQL itself, in silence
LONGEST_BYTES = 63
#: columns that every PostgreSQL table has already
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
#: databases that every server has already
SERVER_DATABASES = frozenset({"postgres", "template0", "template1"})
_CONTROL = re.compile(r"[\x00-\x1f]")
_TO_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def lower(name: str) -> str:
    """Lower case as both engines fold names: ASCII letters only."""
    return name.translate(_TO_LOWER)


def assign(sources: Iterable[str], taken: Iterable[str] = (), tables: bool = False) -> dict[str, str]:
    """PostgreSQL names of SQLite names that share a namespace.

    Lower case, without control characters, at most 63 bytes; one that is taken by then gets `_2`, `_3`, ...

    Args:
        tables: `pg_class` becomes `_pg_class`, as it would be read as PostgreSQL's own.

    >>> assign(["Name", "ORDER", "a" * 70, "a" * 69])["Name"]
    'name'
    """
    names: dict[str, str] = {}
    used = set(taken)
    for source in sources:
        wanted = _CONTROL.sub("_", lower(source)) or "unnamed"
        wanted = f"_{wanted}" if tables and wanted.startswith("pg_") else wanted
        name, number = _cut(wanted, ""), 1
        while name in used:
            number += 1
            name = _cut(wanted, f"_{number}")
        used.add(name)
        names[source] = name
    return names


def database_name(source: str) -> str:
    """The name that a database has here, and its dump: as it is, but for the server's own and what no file can have.

    >>> database_name("Sales 100%"), database_name("postgres"), database_name("../a")
    ('Sales 100%', 'postgres_2', '.._a')
    """
    return _cut(re.sub(r"[/\\\x00-\x1f]", "_", source), "_2" if source in SERVER_DATABASES else "")


def _cut(name: str, suffix: str) -> str:
    """`name` and `suffix` in at most 63 bytes, cut between characters."""
    room = LONGEST_BYTES - len(suffix)
    return name.encode()[:room].decode(errors="ignore") + suffix
