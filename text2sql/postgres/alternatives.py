"""The other results that a PostgreSQL query might as well give.

A query may leave its result open: which of the rows that tie under ORDER BY a LIMIT keeps, in which order tied rows
stand, from which row of a group `any_value` takes its value, in which order `string_agg` joins. Here the server is
asked for all of that (no LIMIT, the sort keys beside each row, every candidate of a value), and a result is compared
with everything that was possible. The proof of conversions and the score both ask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

from sqlglot import exp

from text2sql.postgres.compare import Result, Row, Rows, row_keys, same_row, same_rows, same_value
from text2sql.sql import tree_of, write

Execute = Callable[[str], Result]
#: how the rows to be explained are read before they are compared with rows of PostgreSQL
Read = Callable[[Rows, Rows], Rows]
#: candidates tried for a subquery that ends in LIMIT, and possible rows compared in all
MOST_CANDIDATES = 40
MOST_COMPARISONS = 200_000
#: an element of an array as PostgreSQL writes it: quoted, or plain
ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)', re.DOTALL)


def explanation(sql: str, rows: Rows, execute: Execute, read: Read = lambda rows, _: rows) -> str | None:
    """What `sql` leaves open that makes `rows` a possible result beside the one that it gives.

    None if they are no such result, or if sqlglot cannot read `sql`.
    """
    if (tree := tree_of(sql)) is None:
        return None
    opened = _open(tree)
    if opened is not None and opened.allows(rows, execute, read):
        return opened.what
    for changed in islice(_other_choices(tree, execute), MOST_CANDIDATES):
        answer = execute(write(changed))
        ordered = bool(changed.args.get("order"))
        if not answer.error and same_rows(read(rows, answer.rows), answer.rows, ordered):
            return "ties in a subquery with LIMIT"
        reopened = _open(changed)
        if reopened is not None and reopened.allows(rows, execute, read):
            return "ties in a subquery with LIMIT"
    return None


def is_open(sql: str, execute: Execute) -> bool:
    """Whether `sql` might as well give other rows than it does; another order of the same rows does not count. A query
    that sqlglot cannot read counts as one that leaves nothing open."""
    if (tree := tree_of(sql)) is None:
        return False
    opened = _open(tree)
    if opened is not None and opened.has_choice(execute):
        return True
    answer = execute(sql)
    others = (execute(write(changed)) for changed in islice(_other_choices(tree, execute), MOST_CANDIDATES))
    return any(not other.error and not same_rows(answer.rows, other.rows, ordered=False) for other in others)


def _integer(clause: exp.Expression | None) -> int | None:
    """The number of a LIMIT or OFFSET, None if there is none or it is computed."""
    value = clause.expression if clause is not None else None
    return int(value.this) if isinstance(value, exp.Literal) and value.this.isdigit() else None


# --- the whole query -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """A query without LIMIT that shows its sort keys (as the last columns) and all candidates of open values."""

    what: str
    tree: exp.Expression
    #: places of the sort keys: from the front where they are selected, from the back (negative) where they are added
    keys: list[int]
    #: columns that were added
    added: int
    #: columns that hold an array of candidates; with the place of the array of what they were sorted by, if any
    candidates: dict[int, int | None]
    #: columns that hold a list of values in no certain order, with its separator
    lists: dict[int, str]
    offset: int
    limit: int | None

    def allows(self, rows: Rows, execute: Execute, read: Read) -> bool:
        """Whether `rows`, in their order, are one of the possible results."""
        answer = execute(write(self.tree))
        if answer.error or len(rows) != self._length(len(answer.rows)):
            return False
        width = len(answer.columns) - self.added
        if rows and len(rows[0]) != width:
            return False
        rows, budget = read(rows, answer.rows), [MOST_COMPARISONS]
        for tied, start, end in self._groups(answer.rows):
            place = slice(max(start, self.offset) - self.offset, max(0, end - self.offset))
            if rows[place] and not self._subset(rows[place], tied, width, budget):
                return False
        return True

    def has_choice(self, execute: Execute) -> bool:
        """Whether rows that differ tie where LIMIT or OFFSET cuts, or a value has several candidates."""
        if self.limit is None and not self.offset and not self.candidates and not self.lists:
            return False
        answer = execute(write(self.tree))
        if answer.error:
            return False
        width, last = len(answer.columns) - self.added, self.offset + self._length(len(answer.rows))
        for tied, start, end in self._groups(answer.rows):
            if end <= self.offset or start >= last:
                continue
            cut = start < self.offset or end > last
            if cut and not all(same_row(tied[0][:width], row[:width]) for row in tied):
                return True
            for column in self.candidates:
                choices = (self._allowed(row, column) for row in tied)
                if any(not same_value(values[0], value) for values in choices for value in values[1:]):
                    return True
            lists = [_parts(row[column], separator) for row in tied for column, separator in self.lists.items()]
            if any(parts != parts[:1] * len(parts) for parts in lists):
                return True
        return False

    def _length(self, total: int) -> int:
        """How many of `total` rows LIMIT and OFFSET leave."""
        left = max(0, total - self.offset)
        return left if self.limit is None else min(self.limit, left)

    def _groups(self, rows: Rows) -> Iterator[tuple[list[Row], int, int]]:
        """The sorted rows in groups that tie, each with the places of its first row and after its last."""
        start = 0
        keys = [[row[k] for k in self.keys] for row in rows]
        for place in range(1, len(rows) + 1):
            if place == len(rows) or not same_row(keys[place - 1], keys[place]):
                yield list(rows[start:place]), start, place
                start = place

    def _subset(self, rows: Rows, tied: list[Row], width: int, budget: list[int]) -> bool:
        """Whether each of `rows` is another one of `tied`."""
        if not self.candidates and not self.lists:
            tied = [row[:width] for row in tied]
            wanted, known = row_keys(rows, tied)
            by_key: dict[Any, list[Row]] = {}
            for key, row in zip(known, tied, strict=True):
                by_key.setdefault(key, []).append(row)
            return all(
                _take(by_key.get(key, []), lambda other, row=row: same_row(row, other), budget)
                for key, row in zip(wanted, rows, strict=True)
            )
        return all(_take(tied, lambda other, row=row: self._possible(row, other), budget) for row in rows)

    def _possible(self, row: Row, other: Row) -> bool:
        """Whether `other`, with its candidates, may have come out as `row`."""
        for column, value in enumerate(row):
            if column in self.lists:
                if not _same_list(value, other[column], self.lists[column]):
                    return False
            elif column not in self.candidates and not same_value(value, other[column]):
                return False
        if not self.candidates:
            return True
        wanted = [row[column] for column in self.candidates]
        columns = [
            [_as(value, choice) for choice in self._allowed(other, column)]
            for value, column in zip(wanted, self.candidates, strict=True)
        ]
        # All of them come from the same row.
        return any(same_row(wanted, choice) for choice in zip(*columns, strict=False))

    def _allowed(self, row: Row, column: int) -> list[Any]:
        """The candidates of a value: all of the group, or those that share the extreme value."""
        values, sorted_by = _elements(row[column]), self.candidates[column]
        if sorted_by is None:
            return values
        extremes = [_as(0, extreme) for extreme in _elements(row[sorted_by])]
        return [v for v, e in zip(values, extremes, strict=True) if e is None or same_value(e, extremes[0])]


def _elements(array: Any) -> list[Any]:
    """The elements of an array: a list, as psycopg reads it, or PostgreSQL's text of it, as the sandbox gives it."""
    if not isinstance(array, str):
        return list(array or [])
    found = ELEMENT.findall(array)
    return [
        None if plain == "NULL" else plain or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        for quoted, plain in found
    ]


def _as(value: Any, element: Any) -> Any:
    """An element of an array's text as a value of the type of `value`, if it is one."""
    if not isinstance(element, str) or not isinstance(value, int | float | Decimal):
        return element
    if isinstance(value, bool):
        return element == "t"
    try:
        return Decimal(element)
    except InvalidOperation:
        return element


def _take(rows: list[Row], fits: Callable[[Row], bool], budget: list[int]) -> bool:
    """Remove the first of `rows` that fits; False if there is none, or the budget of comparisons is used up."""
    budget[0] -= len(rows)
    place = next((i for i, row in enumerate(rows) if fits(row)), None) if budget[0] >= 0 else None
    if place is None:
        return False
    del rows[place]
    return True


def _parts(value: Any, separator: str) -> list[str]:
    return sorted(value.split(separator)) if isinstance(value, str) and separator else [value]


def _same_list(left: Any, right: Any, separator: str) -> bool:
    return _parts(left, separator) == _parts(right, separator) or same_value(left, right)


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
        if keys is None or not (order or limit is not None) or any(p.is_star for p in tree.selects):
            return None
        what = "rows that tie in ORDER BY" if order else "LIMIT without ORDER BY"
        return _Opened(what, tree, keys, 0, {}, {}, offset or 0, limit)
    return _open_select(tree, order, limit, offset or 0) if isinstance(tree, exp.Select) else None


def _open_select(tree: exp.Select, order: exp.Expression | None, limit: int | None, offset: int) -> _Opened | None:
    starred = any(p.is_star for p in tree.expressions)
    added: list[exp.Expression] = []
    keys: list[int] = []
    for item in order.expressions if order else ():
        if starred and (place := _position(item.this)) is not None:
            keys.append(place)  # which column that is only the server knows
        else:
            added.append(_sort_key(tree, item.this))
            keys.append(-len(added))  # made a place below, as those of candidates
    candidates: dict[int, int | None] = {}
    lists: dict[int, str] = {}
    for place, projection in enumerate(tree.expressions):
        inner = projection.unalias()
        if (separator := _unordered_list(inner)) is not None:
            lists[place] = separator
        if (choice := _choice(inner)) is None:
            continue
        shown, sorted_by = choice
        inner.replace(shown)
        candidates[place] = None
        if sorted_by is not None:
            added.append(sorted_by)
            candidates[place] = -len(added)
    if not keys and not candidates and not lists and limit is None:
        return None
    if starred and (candidates or lists):
        return None
    what = "bare columns of a group" if candidates else "the order in a list" if lists else "LIMIT without ORDER BY"
    what = "rows that tie in ORDER BY" if keys and not candidates else what
    tree.set("expressions", [*tree.expressions, *added])
    last = -len(added) - 1
    keys = [key if key >= 0 else last - key for key in keys]
    candidates = {place: None if by is None else last - by for place, by in candidates.items()}
    return _Opened(what, tree, keys, len(added), candidates, lists, offset, limit)


def _position(value: exp.Expression) -> int | None:
    """The place that `ORDER BY 2` names, from 0; None if it is no number."""
    return int(value.this) - 1 if isinstance(value, exp.Literal) and value.this.isdigit() else None


def _sort_key(tree: exp.Select, value: exp.Expression) -> exp.Expression:
    """What ORDER BY means by an item: a place, a name of the result, or an expression of the rows."""
    if (place := _position(value)) is not None:
        return tree.expressions[place].unalias().copy()
    if isinstance(value, exp.Column) and not value.table:
        named = next((p for p in tree.expressions if p.alias_or_name == value.name), None)
        value = named.unalias() if named is not None else value
    return value.copy()


def _selected_keys(tree: exp.Expression, order: exp.Expression | None) -> list[int] | None:
    """The places in the result of what it is sorted by; None if something else is sorted by."""
    keys = []
    for item in order.expressions if order else ():
        value = item.this
        if (place := _position(value)) is not None:
            keys.append(place)
            continue
        name = value.alias_or_name
        named = [name and name == selected.alias_or_name for selected in tree.selects]
        places = [i for i, p in enumerate(tree.selects) if p.unalias() == value or named[i]]
        if not places:
            return None
        keys.append(places[0])
    return keys


def _choice(node: exp.Expression) -> tuple[exp.Expression, exp.Expression | None] | None:
    """The arrays of what `any_value(x)` or `(array_agg(x ORDER BY y))[1]` chooses from, and of their y."""
    if isinstance(node, exp.AnyValue):
        return exp.ArrayAgg(this=node.this.copy()), None
    first = isinstance(node, exp.Bracket) and node.expressions == [exp.Literal.number(0)]  # sqlglot counts from 0
    array = node.this.unnest() if first else None
    if not isinstance(array, exp.ArrayAgg) or not isinstance(array.this, exp.Order):
        return None
    order = array.this
    sorted_by = exp.Order(this=order.expressions[0].this.copy(), expressions=[o.copy() for o in order.expressions])
    return array.copy(), exp.ArrayAgg(this=sorted_by)


def _unordered_list(node: exp.Expression) -> str | None:
    """The separator of a string_agg without ORDER BY."""
    if not isinstance(node, exp.GroupConcat) or isinstance(node.this, exp.Order):
        return None
    separator = node.args.get("separator")
    return separator.this if isinstance(separator, exp.Literal) and separator.this else None


# --- queries inside it -----------------------------------------------------------------------------------------------


def _other_choices(tree: exp.Expression, execute: Execute) -> Iterator[exp.Expression]:
    """The query with each other row that a subquery `... ORDER BY x LIMIT 1` could have kept."""
    for place, node in enumerate(_single_rows(tree)):
        for skipped in range(1, min(_ties(node, execute), MOST_CANDIDATES)):
            changed = tree.copy()
            _single_rows(changed)[place].set("offset", exp.Offset(expression=exp.Literal.number(skipped)))
            yield changed


def _single_rows(tree: exp.Expression) -> list[exp.Select]:
    """The subqueries that end in LIMIT 1."""
    inner = [node for node in tree.find_all(exp.Select) if node is not tree]
    return [n for n in inner if _integer(n.args.get("limit")) == 1 and not n.args.get("offset")]


def _ties(node: exp.Select, execute: Execute) -> int:
    """How many rows of a subquery tie for its first place; 1 if that cannot be asked (it refers to the outer query)."""
    opened = _open(node)
    answer = execute(write(opened.tree)) if opened is not None else Result(error="nothing open")
    if opened is None or answer.error or not answer.rows:
        return 1
    return len(next(opened._groups(answer.rows))[0])
