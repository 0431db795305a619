"""A CREATE TABLE cut down to what a schema shows: columns with their types, NOT NULL, and keys.

One clause that the reader does not know (a default that calls an extension's function, a storage option, an index
inside the table) must not lose the table. So a refused CREATE TABLE is tried again in this form.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

#: names, strings, dollar quotes, brackets, words, and any other sign
_PIECE = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | \$(\w*)\$.*?\$\1\$ | [\w$.]*(?:"(?:[^"]|"")*"\.?[\w$]*)+
    | `[^`]*` | \[[^\]]*\] | [\w$.]+ | \S""",
    re.DOTALL | re.VERBOSE,
)
_HEAD = re.compile(
    r"""create\s+(?:unlogged\s+|foreign\s+)?table\s+(?:if\s+not\s+exists\s+)?
        ((?:[\w$]+|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])(?:\s*\.\s*(?:[\w$]+|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]))*)\s*\(""",
    re.IGNORECASE | re.VERBOSE,
)
#: words that go on with a type: double precision, character varying(9), timestamp(3) with time zone
_TYPE_WORDS = frozenset(
    """precision varying with without time zone local year month day hour minute second to
    array""".split()  # noqa: SIM905
)
_KEYS = ("primary", "unique", "foreign")
_DROPPED = ("check", "exclude", "fulltext", "spatial")


def bare_table(statement: str) -> str | None:
    """The statement without defaults, CHECKs, generated values, exclusions, collations and storage; None if it is no
    CREATE TABLE with a list of columns.

    >>> bare_table("create table a (id uuid default f() primary key, n numeric(5, 2) check (n > 0) not null) using x")
    'CREATE TABLE a (id uuid PRIMARY KEY, n numeric (5, 2) NOT NULL)'
    """
    head = _HEAD.match(statement)
    if head is None:
        return None
    elements, tail = _elements(statement, head.end())
    if not tail:
        return None  # it has no end
    body = ", ".join(filter(None, map(_bare_element, elements)))
    return f"CREATE TABLE {head[1]} ({body}){_bare_tail(tail)}"


def _pieces(text: str, position: int) -> Iterator[tuple[str, int]]:
    """The pieces of `text` with what is in parentheses as one, each with its end; the closing one of the body alone."""
    while piece := _PIECE.search(text, position):
        start, position = piece.start(), piece.end()
        depth = int(piece.group() == "(")
        while depth and (inner := _PIECE.search(text, position)):
            depth += {"(": 1, ")": -1}.get(inner.group(), 0)
            position = inner.end()
        yield text[start:position], position


def _elements(text: str, position: int) -> tuple[list[list[str]], list[str]]:
    """The pieces of each column and constraint of the body that begins at `position`, and those from its end on."""
    elements: list[list[str]] = [[]]
    for piece, end in _pieces(text, position):
        if piece == ")":
            return elements, [piece, *(p for p, _ in _pieces(text, end))]
        if piece == ",":
            elements.append([])
        else:
            elements[-1].append(piece)
    return elements, []


def _bare_element(pieces: list[str]) -> str:
    """A column or key; nothing for an element that a schema does not show."""
    words = [piece.lower() for piece in pieces]
    if words[:1] == ["constraint"]:
        pieces, words = pieces[2:], words[2:]
    if not words or words[0] in _DROPPED or _is_index(words):
        return ""
    if words[0] == "like":
        return " ".join(pieces)
    if words[0] in _KEYS:
        groups = [piece for piece in pieces if piece.startswith("(")]
        if not groups:
            return ""
        if words[0] == "foreign" and "references" in words:
            return f"FOREIGN KEY {groups[0]} {_reference(pieces, words)}"
        return f"{'PRIMARY KEY' if words[0] == 'primary' else 'UNIQUE'} {groups[0]}"
    return _bare_column(pieces, words)


def _is_index(words: list[str]) -> bool:
    """Whether this is MySQL's `KEY name (column)` and no column of that name."""
    group = words[-1]
    return words[0] in ("key", "index") and 1 < len(words) < 4 and group.startswith("(") and not group[1:2].isdigit()


def _bare_column(pieces: list[str], words: list[str]) -> str:
    end = 2
    while end < len(words) and (words[end] in _TYPE_WORDS or words[end][0] in "(["):
        end += 1
    kept, rest = pieces[:end], words[end:]
    pairs = list(itertools.pairwise(rest))
    kept += ["NOT NULL"] if ("not", "null") in pairs else []
    kept += ["PRIMARY KEY"] if ("primary", "key") in pairs else []
    kept += ["UNIQUE"] if "unique" in rest else []
    kept += [_reference(pieces[end:], rest)] if "references" in rest else []
    return " ".join(kept)


def _reference(pieces: list[str], words: list[str]) -> str:
    at = words.index("references")
    return f"REFERENCES {' '.join(p for p in pieces[at + 1 : at + 3] if p == pieces[at + 1] or p.startswith('('))}"


def _bare_tail(pieces: list[str]) -> str:
    """INHERITS and PARTITION BY, which decide what the table is."""
    words = [piece.lower() for piece in pieces]
    if "inherits" in words:
        at = words.index("inherits")
        return f" INHERITS {pieces[at + 1]}"
    if words[1:3] == ["partition", "by"]:
        return f" PARTITION BY {' '.join(pieces[3:5])}"
    return ""
