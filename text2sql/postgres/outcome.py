"""Whether the result of a query makes it doubtful: it finds nothing where there are rows."""

from __future__ import annotations

from sqlglot import exp

from text2sql.postgres.alternatives import Execute
from text2sql.postgres.compare import Result
from text2sql.sql import tree_of


def finds_nothing(result: Result, sql: str, execute: Execute) -> bool:
    """Whether a query has no rows, or only NULLs and zeros, as counts and sums of nothing are, from tables with rows.

    Args:
        result: of `sql`.
        execute: runs a query; asked only whether the tables have rows.
    """
    cells = (cell for row in result.rows for cell in row)
    if result.error or not all(cell is None or (cell == 0 and not isinstance(cell, bool)) for cell in cells):
        return False
    if (tree := tree_of(sql)) is None:
        return False
    named = {table.alias for table in tree.find_all(exp.CTE)}
    read = {
        exp.Table(this=table.this, db=table.args.get("db")).sql("postgres")
        for table in tree.find_all(exp.Table)
        if isinstance(table.this, exp.Identifier) and (table.db or table.name not in named)
    }
    filled = " AND ".join(f"EXISTS (SELECT 1 FROM {table})" for table in sorted(read))
    return not read or list(execute(f"SELECT {filled}").rows) == [(True,)]
