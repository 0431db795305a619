"""The verdict on a conversion: both queries executed, their results compared, differences explained or not.

A query may leave its result open: rows that tie under ORDER BY, which of them LIMIT keeps, from which row of a group a
bare column comes. Where the results differ, PostgreSQL is asked for all that the query leaves open (no LIMIT, the sort
keys beside each row, every candidate of a bare column), and SQLite's result has to be one of the possible ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from sqlglot import exp

from text2sql.conversion.dialect import Conversion
from text2sql.conversion.dialect.text import write
from text2sql.conversion.dialect.tree import literal_number, number
from text2sql.conversion.engines import Answer
from text2sql.conversion.equivalence import Row, key, same_bag, same_order, same_row, same_value

Execute = Callable[[str], Answer]
#: candidates tried for a subquery that ends in LIMIT, and possible rows compared in all
MOST_CANDIDATES = 40
MOST_COMPARISONS = 200_000


@dataclass(frozen=True)
class Verdict:
    """`status` as in examples.jsonl; `reason` says what differs, or what the query leaves open."""

    status: str
    reason: str = ""


def judge(conversion: Conversion, sqlite: Answer, execute: Execute) -> Verdict:
    """Compare SQLite's answer with PostgreSQL's, which `execute` gives.

    Returns:
        verified, verified_ties, unverifiable (a limit was reached), or rejected (it fails, or differs).
    """
    if sqlite.gave_up:
        return Verdict("unverifiable", sqlite.error)
    postgres = execute(conversion.sql)
    if postgres.error:
        return Verdict("unverifiable" if postgres.gave_up else "rejected", postgres.error)
    if isinstance(conversion.tree, exp.Query) and conversion.tree.args.get("order"):
        if same_order(sqlite.rows, postgres.rows):
            return Verdict("verified")
    elif same_bag(sqlite.rows, postgres.rows):
        return Verdict("verified")
    for what, possible in _explanations(conversion, sqlite, execute):
        if possible:
            # The same rows, sorted as the query sorts them: that ties stand in another order is no difference.
            limited = conversion.tree.args.get("limit") or conversion.tree.args.get("offset")
            same = not limited and same_bag(sqlite.rows, postgres.rows)
            return Verdict("verified") if same else Verdict("verified_ties", what)
    return Verdict("rejected", f"different result: {_difference(sqlite.rows, postgres.rows)}")


def _difference(sqlite: list[Row], postgres: list[Row]) -> str:
    if len(sqlite) != len(postgres):
        return f"{len(sqlite)} rows in SQLite, {len(postgres)} in PostgreSQL"
    pairs = ((a, b) for a, b in zip(sqlite, postgres, strict=True) if not same_row(a, b))
    a, b = next(pairs, ((), ()))
    return f"{str(tuple(a))[:80]} in SQLite, {str(tuple(b))[:80]} in PostgreSQL"


def _explanations(conversion: Conversion, sqlite: Answer, execute: Execute) -> Iterator[tuple[str, bool]]:
    """What the query leaves open, each with whether that explains SQLite's result."""
    if (fits := _distinct_order_fits(conversion.tree, sqlite, execute)) is not None:
        yield "DISTINCT rows sorted by what is not selected", fits
    opened = _open(conversion.tree)
    if opened is not None:
        yield opened.what, opened.allows(sqlite.rows, execute)
    for tree in islice(_other_choices(conversion.tree, execute), MOST_CANDIDATES):
        answer = execute(write(tree))
        ordered = bool(tree.args.get("order"))
        if not answer.error and (same_order if ordered else same_bag)(sqlite.rows, answer.rows):
            yield "ties in a subquery with LIMIT", True
            return
        reopened = _open(tree)
        if reopened is not None and reopened.allows(sqlite.rows, execute):
            yield "ties in a subquery with LIMIT", True
            return


# --- the whole query -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """A query without LIMIT that shows its sort keys (as the last columns) and all candidates of bare columns."""

    what: str
    tree: exp.Expression
    width: int
    keys: list[int]
    #: columns that hold an array of candidates; with the column of an array of what they were sorted by, if any
    candidates: dict[int, int | None]
    #: columns that hold a list of values in no certain order, with its separator
    lists: dict[int, str]
    offset: int
    limit: int | None

    def allows(self, rows: list[Row], execute: Execute) -> bool:
        """Whether `rows`, in their order, are one of the possible results."""
        answer = execute(write(self.tree))
        if answer.error:
            return False
        total = max(0, len(answer.rows) - self.offset)
        if len(rows) != (total if self.limit is None else min(self.limit, total)):
            return False
        return self._fits(rows, answer.rows)

    def _fits(self, rows: list[Row], full: list[Row]) -> bool:
        """Tied rows of `full` may stand in any order, and of those at the edges of LIMIT any may be kept."""
        first, place, budget = 0, self.offset, [MOST_COMPARISONS]
        for _, group in groupby(full, lambda row: key([row[k] for k in self.keys])):
            tied = list(group)
            end = first + len(tied)
            wanted = min(end, self.offset + len(rows)) - place
            if place < end and wanted > 0:
                start = place - self.offset
                if not self._subset(list(rows[start : start + wanted]), tied, budget):
                    return False
                place += wanted
            first = end
        return place == self.offset + len(rows)

    def _subset(self, rows: list[Row], tied: list[Row], budget: list[int]) -> bool:
        """Whether each of `rows` is another one of `tied`."""
        left = list(tied)
        if not self.candidates and not self.lists:
            by_key: dict[Any, list[Row]] = {}
            for row in tied:
                by_key.setdefault(key(row[: self.width]), []).append(row)
            unfound = []
            for row in rows:
                same = by_key.get(key(row))
                if same:
                    left.remove(same.pop())
                else:
                    unfound.append(row)
            rows = unfound
        for row in rows:
            budget[0] -= len(left)
            if budget[0] < 0:
                return False
            found = next((i for i, other in enumerate(left) if self._possible(row, other)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _possible(self, row: Row, other: Row) -> bool:
        for column in range(self.width):
            if column in self.lists:
                if not _same_list(row[column], other[column], self.lists[column]):
                    return False
            elif column not in self.candidates and not same_value(row[column], other[column]):
                return False
        if not self.candidates:
            return True
        columns = [self._allowed(other, column) for column in self.candidates]
        wanted = [row[column] for column in self.candidates]
        # All of them come from the same row.
        return any(all(map(same_value, wanted, choice)) for choice in zip(*columns, strict=False))

    def _allowed(self, row: Row, column: int) -> list[Any]:
        """The candidates of a bare column: all of the group, or those that share the extreme value."""
        values, sorted_by = list(row[column] or []), self.candidates[column]
        if sorted_by is None:
            return values
        extremes = list(row[sorted_by] or [])
        return [v for v, e in zip(values, extremes, strict=True) if e is None or same_value(e, extremes[0])]


def _open(tree: exp.Expression) -> _Opened | None:
    """The query that shows what `tree` leaves open, or None if it leaves nothing open that can be shown."""
    tree = tree.copy()
    order = tree.args.get("order")
    limit, offset = (_integer(tree.args.get(name)) for name in ("limit", "offset"))
    if (tree.args.get("limit") and limit is None) or (tree.args.get("offset") and offset is None):
        return None
    tree.set("limit", None)
    tree.set("offset", None)
    if isinstance(tree, exp.SetOperation) or (isinstance(tree, exp.Select) and tree.args.get("distinct")):
        keys = _selected_keys(tree, order)
        width = len(tree.selects)
        if keys is None or any(p.is_star for p in tree.selects):
            return None
        return _Opened("rows that tie in ORDER BY", tree, width, keys, {}, {}, offset or 0, limit) if order else None
    if not isinstance(tree, exp.Select):
        return None
    return _open_select(tree, order, limit, offset or 0)


def _open_select(tree: exp.Select, order: exp.Expression | None, limit: int | None, offset: int) -> _Opened | None:
    sort: list[exp.Expression] = []
    for item in order.expressions if order else ():
        value = item.this
        place = literal_number(value)
        if place is not None:
            value = tree.expressions[int(place) - 1].unalias()
        elif isinstance(value, exp.Column) and value.meta.get("alias") is not None:
            named = next((p for p in tree.expressions if p.alias == value.name), None)
            value = named.unalias() if named is not None else value
        sort.append(value.copy())
    stars = any(p.is_star for p in tree.expressions)
    if stars and (not sort or not tree.meta.get("width")):
        return None
    width = tree.meta["width"] if stars else len(tree.expressions)
    candidates: dict[int, int | None] = {}
    extra: list[exp.Expression] = list(sort)
    lists: dict[int, str] = {}
    for place, projection in enumerate(tree.expressions):
        inner = projection.unalias()
        if "separator" in inner.meta:
            lists[place] = inner.meta["separator"]
        if "any_of" not in inner.meta:
            continue
        shown, sorted_by = inner.meta["any_of"]
        inner.replace(shown.copy())
        candidates[place] = None
        if sorted_by is not None:
            candidates[place] = width + len(extra)
            extra.append(sorted_by.copy())
    if not sort and not candidates and not lists and limit is None:
        return None
    what = "bare columns of a group" if candidates else "the order in a list" if lists else "LIMIT without ORDER BY"
    what = "rows that tie in ORDER BY" if sort and not candidates else what
    tree.set("expressions", [*tree.expressions, *extra])
    keys = list(range(width, width + len(sort)))
    return _Opened(what, tree, width, keys, candidates, lists, offset, limit)


def _same_list(left: Any, right: Any, separator: str) -> bool:
    if not isinstance(left, str) or not isinstance(right, str) or not separator:
        return same_value(left, right)
    return sorted(left.split(separator)) == sorted(right.split(separator))


def _integer(clause: exp.Expression | None) -> int | None:
    value = literal_number(clause.expression) if clause is not None else None
    return int(value) if value is not None else None


def _selected_keys(tree: exp.Expression, order: exp.Expression | None) -> list[int] | None:
    """The places in the result of what it is sorted by."""
    selects = tree.selects
    keys = []
    for item in order.expressions if order else ():
        value = literal_number(item.this)
        if value is not None:
            keys.append(int(value) - 1)
            continue
        found = [
            i for i, p in enumerate(selects) if p.unalias() == item.this or p.alias_or_name == item.this.alias_or_name
        ]
        if not found:
            return None
        keys.append(found[0])
    return keys


def _distinct_order_fits(tree: exp.Expression, sqlite: Answer, execute: Execute) -> bool | None:
    """Whether distinct rows may stand in SQLite's order, each sorted by any of the values that it had before DISTINCT.

    None: the query is none of this kind, with this one sort key.
    """
    order = tree.args.get("order")
    items = order.expressions if order else []
    if len(items) != 1 or "choices" not in items[0].meta or tree.args.get("offset"):
        return None
    opened = tree.copy()
    opened.set("order", None)
    opened.set("limit", None)
    opened.set("expressions", [*opened.expressions, items[0].meta["choices"].copy()])
    answer = execute(write(opened))
    if answer.error:
        return False
    choices = {key(row[:-1]): sorted(map(_sortable, row[-1] or [None])) for row in answer.rows}
    wanted = [key(row) for row in sqlite.rows]
    limit = _integer(tree.args.get("limit"))
    if len(wanted) != (len(choices) if limit is None else min(limit, len(choices))) or not set(wanted) <= set(choices):
        return False
    descending = bool(items[0].args.get("desc"))
    last = None
    for row in wanted:  # each takes the first value that is not before that of the row above it
        values = reversed(choices[row]) if descending else choices[row]
        last = next((v for v in values if last is None or (v <= last if descending else v >= last)), None)
        if last is None:
            return False
    cut = [values for row, values in choices.items() if row not in set(wanted)]
    return last is None or all(values[0] <= last if descending else values[-1] >= last for values in cut)


def _sortable(value: Any) -> tuple[int, Any]:
    """NULLs first, as SQLite has them."""
    return (0, 0) if value is None else (1, value)


# --- queries inside it -----------------------------------------------------------------------------------------------


def _other_choices(tree: exp.Expression, execute: Execute) -> Iterator[exp.Expression]:
    """The query with each other row that a subquery `... ORDER BY x LIMIT 1` could have kept."""
    for place, node in enumerate(_single_rows(tree)):
        for skipped in range(1, min(_ties(node, execute), MOST_CANDIDATES)):
            changed = tree.copy()
            _single_rows(changed)[place].set("offset", exp.Offset(expression=number(skipped)))
            yield changed


def _single_rows(tree: exp.Expression) -> list[exp.Select]:
    """The subqueries that end in LIMIT 1."""
    found = [node for node in tree.find_all(exp.Select) if node is not tree]
    return [n for n in found if _integer(n.args.get("limit")) == 1 and not n.args.get("offset")]


def _ties(node: exp.Select, execute: Execute) -> int:
    """How many rows of a subquery tie for its first place; 1 if that cannot be asked (it refers to the outer query)."""
    opened = _open(node)
    if opened is None:
        return 1
    answer = execute(write(opened.tree))
    if answer.error or not answer.rows:
        return 1
    groups = groupby(answer.rows, lambda row: key([row[k] for k in opened.keys]))
    return len(list(next(groups)[1]))
