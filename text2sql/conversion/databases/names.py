"""PostgreSQL names for SQLite's: lower case, short, and different from each other."""

from __future__ import annotations

from collections.abc import Iterable

#: names longer than this are cut by PostgreSQL itself, in silence
LONGEST_BYTES = 63
#: columns that every PostgreSQL table has already
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_TO_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def lower(name: str) -> str:
    """Lower case as both engines fold names: ASCII letters only."""
    return name.translate(_TO_LOWER)


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
