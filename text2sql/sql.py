"""Parsing SQL with sqlglot: quietly (it logs a warning about each statement that it takes for an opaque command), and
with one kind of error for whatever cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import sqlglot
from sqlglot import exp


def parse(sql: str, dialect: str = "postgres") -> list[exp.Expression]:
    """The statements of `sql`, empty ones left out.

    Raises:
        sqlglot.errors.SqlglotError: it cannot be parsed.
    """
    with quiet(), shallow():
        return [tree for tree in sqlglot.parse(sql, read=dialect) if tree is not None]


def parse_one(sql: str, dialect: str = "postgres") -> exp.Expression:
    """The one statement of `sql`.

    Raises:
        sqlglot.errors.SqlglotError: it cannot be parsed, or is not one statement.
    """
    with quiet(), shallow():
        return sqlglot.parse_one(sql, read=dialect)


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


@contextmanager
def quiet() -> Iterator[None]:
    """sqlglot logs errors only, within the block."""
    logger = logging.getLogger("sqlglot")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
