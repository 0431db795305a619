"""PostgreSQL names for SQLite's: lower case, quoted only where PostgreSQL must have it."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: names longer than this are cut by PostgreSQL itself, in silence
LONGEST_BYTES = 63
PLAIN = re.compile(r"[a-z_\u0080-\U0010ffff][a-z0-9_$\u0080-\U0010ffff]*\Z")
#: pg_get_keywords() of PostgreSQL 18, categories R and T: as a table's or column's name they need quotes
_RESERVED = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
returning right select session_user similar some symmetric system_user table tablesample then to trailing true union
unique user using variadic verbose when where window with
"""
RESERVED = frozenset(_RESERVED.split())
#: columns that every PostgreSQL table has already
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_TO_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def lower(name: str) -> str:
    """Lower case as both engines fold names: ASCII letters only."""
    return name.translate(_TO_LOWER)


def needs_quotes(name: str) -> bool:
    """Whether PostgreSQL would read `name`, unquoted, as something else.

    >>> [needs_quotes(n) for n in ("singer", "order", "Total", "total points", "2nd")]
    [False, True, True, True, True]
    """
    return not PLAIN.match(name) or name in RESERVED


def quote(name: str) -> str:
    """`name` as PostgreSQL must have it written."""
    return '"' + name.replace('"', '""') + '"' if needs_quotes(name) else name


def assign(sources: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """PostgreSQL names of SQLite names that share a namespace.

    Lower case, without NUL, at most 63 bytes; one that is taken by then gets `_2`, `_3`, ...

    >>> assign(["Name", "ORDER", "a" * 70, "a" * 69])["Name"]
    'name'
    """
    names: dict[str, str] = {}
    used = set(taken)
    for source in sources:
        wanted = lower(source).replace("\0", "_") or "unnamed"
        name, number = _cut(wanted, ""), 1
        while name in used:
            number += 1
            name = _cut(wanted, f"_{number}")
        used.add(name)
        names[source] = name
    return names


def _cut(name: str, suffix: str) -> str:
    """`name` and `suffix` in at most 63 bytes, cut between characters."""
    room = LONGEST_BYTES - len(suffix)
    return name.encode()[:room].decode(errors="ignore") + suffix
