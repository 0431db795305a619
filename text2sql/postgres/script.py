"""Somebody's SQL script, such as a pg_dump or a file of CREATE TABLE statements, statement by statement.

The role decides what a script can do: give one without privileges on a database of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg

#: what may hide a semicolon: commands of psql (\connect, \restrict; one a line), strings, quoted names, dollar quotes,
#: comments; what has no end goes on to the end of the text, which is read once
_TOKEN = re.compile(
    r"""(?m:^\\[a-zA-Z!?].*?$) | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" |
    (?<![\w$])\$((?:[^\W\d]\w*)?)\$.*?(?:\$\1\$|\Z) | --[^\n]* | /\*.*?(?:\*/|\Z) | ;""",
    re.DOTALL | re.VERBOSE,
)
_COPY = re.compile(r"\s*copy\s.*\sfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
_END_OF_DATA = re.compile(r"^\\\.\r?\n?", re.MULTILINE)


def script_statements(text: str) -> Iterator[tuple[str, str]]:
    """The statements of a script without comments, each with the rows that follow it if it is COPY .. FROM stdin."""
    position, parts = 0, []
    while token := _TOKEN.search(text, position):
        parts.append(text[position : token.start()])
        position = token.end()
        if token.group() == ";":
            statement, parts = "".join(parts).strip(), []
            data = ""
            if _COPY.match(statement):
                start = text.find("\n", position) + 1 or len(text)
                end = _END_OF_DATA.search(text, start)
                data, position = text[start : end.start() if end else len(text)], end.end() if end else len(text)
            if statement:
                yield statement, data
        else:
            parts.append(" " if token.group().startswith(("--", "/*", "\\")) else token.group())
    if last := "".join([*parts, text[position:]]).strip():
        yield last, ""


def execute_statement(connection: psycopg.Connection, statement: str, data: str) -> None:
    """Execute a statement of `script_statements`, with its rows if it is COPY."""
    if _COPY.match(statement):
        with connection.cursor().copy(statement.encode()) as copy:
            copy.write(data.encode())
    else:
        connection.execute(statement.encode())
