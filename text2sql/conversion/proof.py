"""Whether a conversion is right: both queries executed, their results compared, differences explained or not.

A query may leave its result open: rows that tie under ORDER BY, which of them LIMIT keeps, from which row of a group a
bare column comes. Where the results differ, PostgreSQL is asked for all that the query leaves open
(postgres/alternatives.py), and SQLite's result has to be one of the possible ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlglot import exp

from text2sql.conversion.dialect import Conversion
from text2sql.conversion.dialect.tree import cast, literal_number
from text2sql.conversion.dialect.writer import postgres_text
from text2sql.conversion.engines import as_stored, gave_up
from text2sql.postgres.alternatives import Execute, explanation
from text2sql.postgres.compare import Result, Rows, row_keys, same_row, same_rows


@dataclass(frozen=True)
class Outcome:
    """What became of a query; `status`, `reason` (what differs, or what the query leaves open) and `open` as in
    examples.jsonl.

    `empty`: `table` if a table that it reads has no rows, `result` if only the results have none, else nothing.
    `generated`: what came out on generated rows, if that was tried.
    """

    status: str
    reason: str = ""
    postgres: str | None = None
    open: bool = False
    empty: str = ""
    generated: str = ""

    def with_generated(self, other: Outcome) -> Outcome:
        """This outcome, with what the same query came to on generated rows: two results without rows are proven equal
        if those of generated rows are, and have some."""
        equal = other.status.startswith("verified")
        generated = ("equal" if equal else other.reason) + (", no rows" if other.empty else "")
        proven = self.empty == "result" and equal and not other.empty
        if not proven:
            return replace(self, generated=generated)
        # The query is the one that was proven: with LIMIT 1 where a subquery has several of the generated rows.
        return replace(self, generated=generated, status=other.status, postgres=other.postgres)


def prove(conversion: Conversion, sqlite: Result, execute: Execute) -> Outcome:
    """Compare SQLite's result with PostgreSQL's, which `execute` gives.

    Returns:
        verified, verified_ties, unverifiable (a limit was reached), or rejected (it fails, or differs).
    """
    if gave_up(sqlite):
        return Outcome("unverifiable", sqlite.message)
    postgres = execute(conversion.sql)
    if postgres.error:
        return Outcome("unverifiable" if gave_up(postgres) else "rejected", postgres.message)
    if len(sqlite.columns) != len(postgres.columns):
        return Outcome("rejected", f"{len(sqlite.columns)} columns in SQLite, {len(postgres.columns)} in PostgreSQL")
    rows = as_stored(sqlite.rows, postgres.rows)
    ordered = bool(conversion.tree.args.get("order"))
    if same_rows(rows, postgres.rows, ordered):
        return Outcome("verified")
    if _distinct_order_fits(conversion.tree, rows, execute):
        return Outcome("verified_ties", "DISTINCT rows sorted by what is not selected")
    if what := explanation(conversion.sql, sqlite.rows, execute, as_stored):
        # The same rows, sorted as the query sorts them: that ties stand in another order is no difference.
        limited = conversion.tree.args.get("limit") or conversion.tree.args.get("offset")
        same = not limited and same_rows(rows, postgres.rows, ordered=False)
        return Outcome("verified") if same else Outcome("verified_ties", what)
    if _fits_in_floating_point(conversion.tree, sqlite, execute):
        return Outcome("verified_ties", "sums that are equal but for SQLite's floating point")
    return Outcome("rejected", f"different result: {_difference(rows, postgres.rows)}")


def _fits_in_floating_point(tree: exp.Expression, sqlite: Result, execute: Execute) -> bool:
    """Whether the results agree once PostgreSQL sums decimals as SQLite does, in floating point."""
    tree = tree.copy()
    sums = [node for node in tree.find_all(exp.Sum, exp.Avg) if not isinstance(node.this, exp.Distinct | exp.Star)]
    for node in sums:
        node.set("this", cast(node.this, "double precision"))
    if not sums or (floating := execute(postgres_text(tree))).error:
        return False
    return same_rows(as_stored(sqlite.rows, floating.rows), floating.rows, ordered=bool(tree.args.get("order")))


def _difference(sqlite: Rows, postgres: Rows) -> str:
    if len(sqlite) != len(postgres):
        return f"{len(sqlite)} rows in SQLite, {len(postgres)} in PostgreSQL"
    pairs = ((a, b) for a, b in zip(sqlite, postgres, strict=True) if not same_row(a, b))
    a, b = next(pairs, ((), ()))
    return f"{str(tuple(a))[:80]} in SQLite, {str(tuple(b))[:80]} in PostgreSQL"


def _distinct_order_fits(tree: exp.Expression, wanted: Rows, execute: Execute) -> bool:
    """Whether distinct rows may stand in SQLite's order, each sorted by any of the values that it had before DISTINCT.

    False as well if the query is none of this form, with one such sort key (rule distinct_order).
    """
    order = tree.args.get("order")
    items = order.expressions if order else []
    if len(items) != 1 or "choices" not in items[0].meta or tree.args.get("offset"):
        return False
    opened = tree.copy()
    opened.set("order", None)
    opened.set("limit", None)
    opened.set("expressions", [*opened.expressions, items[0].meta["choices"].copy()])
    answer = execute(postgres_text(opened))
    if answer.error:
        return False
    keys, known = row_keys(wanted, [row[:-1] for row in answer.rows])
    choices = dict(zip(known, (sorted(map(_sortable, row[-1] or [None])) for row in answer.rows), strict=True))
    limit = tree.args.get("limit")
    length = len(choices) if limit is None else min(int(literal_number(limit.expression) or 0), len(choices))
    if len(keys) != length or not set(keys) <= set(choices):
        return False
    kept = set(keys)
    cut = [values for key, values in choices.items() if key not in kept]
    return _sortable_in_this_order([choices[key] for key in keys], cut, bool(items[0].args.get("desc")))


def _sortable_in_this_order(rows: list[list[Any]], cut: list[list[Any]], descending: bool) -> bool:
    """Whether rows can each take one of their (sorted) values so that they stand in order, and before all `cut`."""
    last = None
    for values in rows:  # each takes the first value that is not before that of the row above it
        in_order: Iterator[Any] = reversed(values) if descending else iter(values)
        last = next((v for v in in_order if last is None or (v <= last if descending else v >= last)), None)
        if last is None:
            return False
    return last is None or all(values[0] <= last if descending else values[-1] >= last for values in cut)


def _sortable(value: Any) -> tuple[int, Any]:
    """NULLs first, as SQLite has them."""
    return (0, 0) if value is None else (1, value)
