"""Parsing SQL with sqlglot: quietly (it logs a warning about each statement that it takes for an opaque command), with
one type of error for whatever cannot be read, and written again without a change to names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.sqlite import SQLite


class _LimitByExpression:
    """`LIMIT 2 - n % 2`: sqlglot takes the `%` for a percentage, which neither engine has there."""

    def _parse_term(self, parse_mod: bool = True) -> exp.Expression | None:
        return super()._parse_term(parse_mod=True)


#: functions that sqlglot has classes for, some with the arguments of other engines: rules look at the names
AS_WRITTEN = ("DATE", "FORMAT", "STRFTIME", "TYPEOF")


class Sqlite(SQLite):
    """SQLite's SQL."""

    class Parser(_LimitByExpression, SQLite.Parser):
        """Its parser."""

        FUNCTIONS: ClassVar = {name: build for name, build in SQLite.Parser.FUNCTIONS.items() if name not in AS_WRITTEN}


class PostgreSql(Postgres):
    """PostgreSQL's SQL."""

    class Parser(_LimitByExpression, Postgres.Parser):
        """Its parser."""


DIALECTS = {"sqlite": Sqlite, "postgres": PostgreSql}
#: sqlglot takes seconds and gigabytes for a text of a megabyte; people's longest queries have some ten thousand
#: characters
MOST_CHARACTERS = 200_000


def parse(sql: str, dialect: str = "postgres") -> list[exp.Expression]:
    """The statements of `sql`, empty ones left out.

    Raises:
        sqlglot.errors.SqlglotError: it cannot be parsed, or is too long.
    """
    with without_warnings(), shallow():
        return [tree for tree in sqlglot.parse(_short(sql), read=DIALECTS.get(dialect, dialect)) if tree is not None]


def parse_one(sql: str, dialect: str = "postgres") -> exp.Expression:
    """The one statement of `sql`.

    Raises:
        sqlglot.errors.SqlglotError: it cannot be parsed, is too long, or is not one statement.
    """
    with without_warnings(), shallow():
        return sqlglot.parse_one(_short(sql), read=DIALECTS.get(dialect, dialect))


def tree_of(sql: str, dialect: str = "postgres") -> exp.Expression | None:
    """The one statement of `sql`; None where `parse_one` cannot read it."""
    try:
        return parse_one(sql, dialect)
    except sqlglot.errors.SqlglotError:
        return None


def write(tree: exp.Expression, pretty: bool = False) -> str:
    """The PostgreSQL text of `tree`, without comments; names of functions keep their case, which counts in quotes."""
    return tree.sql("postgres", comments=False, normalize_functions=False, pretty=pretty)


def written_name(identifier: exp.Expression) -> str:
    """The name that PostgreSQL reads: lower-case unless quoted."""
    return identifier.name if identifier.args.get("quoted") else identifier.name.lower()


def table_names(tree: exp.Expression) -> set[str]:
    """The names that stand where tables do in `tree`, those of common table expressions among them."""
    tables = [table.this for table in tree.find_all(exp.Table)]
    return {written_name(name) for name in tables if isinstance(name, exp.Identifier)}


def _short(sql: str) -> str:
    if len(sql) > MOST_CHARACTERS:
        raise sqlglot.errors.ParseError(f"{len(sql):,} characters, of which {MOST_CHARACTERS:,} are read at most")
    return sql


@contextmanager
def shallow() -> Iterator[None]:
    """sqlglot is recursive; a text that is nested too deeply for it (a model may write 100 parentheses) is an error.

    Raises:
        sqlglot.errors.ParseError: instead of RecursionError.
    """
    try:
        yield
    except RecursionError:
        raise sqlglot.errors.ParseError("nested too deeply") from None


_LOCK = Lock()
#: levels of sqlglot's logger before each of the blocks below that are open, in any thread
_LEVELS: list[int] = []


@contextmanager
def without_warnings() -> Iterator[None]:
    """sqlglot logs errors only, within the block, or until the last of several threads has left its block."""
    logger = logging.getLogger("sqlglot")
    with _LOCK:
        _LEVELS.append(_LEVELS[0] if _LEVELS else logger.level)
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _LOCK:
            level = _LEVELS.pop()
            if not _LEVELS:
                logger.setLevel(level)
