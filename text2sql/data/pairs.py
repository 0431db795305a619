"""Pairs of a question and a PostgreSQL query that people wrote, read from a file and made fit for training.

A query is taken as it is written, but for what no prompt can show: comments, the closing semicolon, the names of
schemas (`app.users`, where the prompt shows `users`) and casts to types of the user's own (`'paid'::order_status`,
where the prompt shows the column as text).
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from text2sql.data.spider.examples import is_text
from text2sql.errors import UserError
from text2sql.sql import parse, without_warnings, written_name


@dataclasses.dataclass(frozen=True)
class Pair:
    """A line of the user's file: `problem` says why it is no pair of question and SQL."""

    line: int
    question: str = ""
    sql: str = ""
    problem: str | None = None


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a .jsonl file (objects with `question` and `sql`) or a .csv file (with these columns).

    Raises:
        UserError: the file is missing, of another kind, not UTF-8, or a CSV without these columns.
    """
    readers = {".jsonl": jsonl_pairs, ".csv": csv_pairs}
    if path.suffix not in readers:
        raise UserError(f"{path} is neither .jsonl nor .csv", "see docs/USAGE.md for both forms")
    if not path.is_file():
        raise UserError(f"{path} is missing", "set data.source.pairs, or to null for made-up questions")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file: {error}", "write a row for each pair, with quotes") from None


def jsonl_pairs(path: Path) -> Iterator[Pair]:
    """One object a line; a line that is none is a problem of that line only."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                said = getattr(error, "msg", "nested too deeply, or a number of thousands of digits")
                yield Pair(number, problem=f"not JSON: {said}")
                continue
            yield pair_of(number, value if isinstance(value, dict) else {})


def csv_pairs(path: Path) -> Iterator[Pair]:
    """Rows with the columns question and sql; `line` is where a row ends, as quoted fields may span lines."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)  # without, a quote that is not closed hides all rows after it
        if missing := {"question", "sql"} - set(reader.fieldnames or ()):
            raise UserError(f"{path} has no column {sorted(missing)[0]}", "its first line must name question and sql")
        for row in reader:
            if None in row:
                problem = "more fields than columns: a query with commas needs quotes around it"
                yield Pair(reader.line_num, problem=problem)
            else:
                yield pair_of(reader.line_num, row)


def pair_of(line: int, value: dict[str, Any]) -> Pair:
    """A pair out of a JSON object or CSV row."""
    for name in ("question", "sql"):
        text = value.get(name)
        if not isinstance(text, str) or not text.strip():
            return Pair(line, problem=f"no {name}")
        if not is_text(text):
            return Pair(line, problem=f"the {name} is no valid text: it has a NUL or half a character")
    return Pair(line, " ".join(value["question"].split()), plain_query(value["sql"]))


def plain_query(sql: str) -> str:
    """A query without comments and the closing semicolon, otherwise as it is written.

    >>> plain_query("SELECT count(*) -- all\\nFROM t; -- done")
    'SELECT count(*)\\nFROM t'
    """
    try:
        with without_warnings():
            tokens = sqlglot.tokenize(sql, read="postgres")
    except SqlglotError:
        return sql.strip().rstrip(";").rstrip()
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    parts, end = [], 0
    for token in tokens:
        gap = sql[end : token.start]
        if gap.strip():  # what is neither blank nor token is a comment
            gap = "\n" if "\n" in gap else " "
        parts += [gap, sql[token.start : token.end + 1]]
        end = token.end + 1
    return "".join(parts).strip() or sql.strip()


def without_own_names(sql: str, tables: Collection[str], types: Collection[str]) -> str:
    """A query without the schemas of these tables, and without casts to types that are not among `types`.

    Args:
        tables: names that are unique without their schema.
        types: lower-case names of the types that the server has by itself.
    """
    try:
        (tree,) = parse(sql)
    except (SqlglotError, ValueError):
        return sql
    before = tree.copy()
    drop_schemas(tree, tables)
    for cast in [*tree.find_all(exp.Cast)]:
        unknown = [t for t in cast.to.find_all(exp.DataType) if t.this == exp.DataType.Type.USERDEFINED]
        if any(t.sql("postgres").lower() not in types for t in unknown):
            cast.replace(exp.paren(cast.this) if isinstance(cast.this, exp.Binary | exp.Unary) else cast.this)
    return sql if tree == before else tree.sql("postgres")


def drop_schemas(tree: exp.Expression, tables: Collection[str]) -> None:
    """Leave out the schemas of these tables, where a table or a column names them."""
    for node in tree.find_all(exp.Table, exp.Column):
        name = node.this if isinstance(node, exp.Table) else node.args.get("table")
        if isinstance(name, exp.Identifier) and written_name(name) in tables:
            node.set("db", None)
            node.set("catalog", None)


def same_spelling(sql: str) -> str:
    """One spelling for queries that differ in blanks, case of keywords and comments only."""
    try:
        return "; ".join(tree.sql("postgres", comments=False) for tree in parse(sql))
    except SqlglotError:
        return " ".join(sql.split()).lower()
