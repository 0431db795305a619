"""A script of SQLite queries as people keep them: in any encoding, over lines, with comments."""

from __future__ import annotations

import codecs
import sqlite3

import sqlglot
from sqlglot.errors import SqlglotError

from text2sql.errors import UserError
from text2sql.sql import parse


def decoded(content: bytes) -> str:
    """The text of a file: by its byte-order mark, or else as UTF-8, or else as Windows-1252, which reads anything.

    Raises:
        UserError: it has NUL characters, as no text does.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    if "\0" in text:
        raise UserError("the script of queries is no text: it has NUL characters", "give an SQL script in UTF-8")
    return text


def statements_of(text: str) -> list[str]:
    """The statements of an SQL script, as they are written there; what holds comments only is none.

    A script without a semicolon is one query, or if it cannot be read as one, a query on each line.

    >>> statements_of("SELECT ';'; SELECT 2; -- the end")
    ["SELECT ';'", 'SELECT 2']
    >>> statements_of("SELECT 1,\\n  2"), statements_of("SELECT 1\\nSELECT 2")
    (['SELECT 1,\\n  2'], ['SELECT 1', 'SELECT 2'])
    """
    statements, start = [], 0
    for place, character in enumerate(text):
        if character == ";" and sqlite3.complete_statement(text[start : place + 1]):
            statements.append(text[start:place].strip())
            start = place + 1
    statements.append(text[start:].strip())
    if len(statements) == 1 and not _is_one(text):
        statements = [line.strip() for line in text.split("\n")]
    return [statement for statement in statements if _says_something(statement)]


def _is_one(text: str) -> bool:
    try:
        return len(parse(text, "sqlite")) <= 1
    except SqlglotError:
        return False


def _says_something(statement: str) -> bool:
    try:
        return bool(sqlglot.tokenize(statement, read="sqlite"))
    except SqlglotError:
        return True  # an error in it is reported with the statement
