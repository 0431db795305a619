"""Whether two results are the same: the one comparison of the project.

The proof of a conversion, the check of a carried-over database and the scores all compare rows here (`same_rows`,
`same_row`, `same_value`). On top of that are the two verdicts that execution accuracy counts.

`suite` follows the public test-suite evaluation (Zhong et al., EMNLP 2020): rows are a bag, columns may stand in any
order, and the order of rows matters where the gold query has an ORDER BY, in a subquery too. That evaluation also
strips DISTINCT from both queries before it runs them: `strip_distinct` does, and `suite` is given those results.
`strict` wants the columns in the gold's order, and the order of rows where the outermost gold query has ORDER BY.

Values are always compared alike: numbers as numbers whatever their type (1 = 1.0 = true, as SQLite has it), integers
and integral decimals exactly, others within a relative 1e-6; dates and times as the text that PostgreSQL shows; NULL
equals NULL; column names do not count. Nothing is random, nothing is sampled, and rounding to a grid, which tears
neighbours apart, is avoided: equal bags means that there is a pairing of all rows in which each pair agrees.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.tokens import TokenType

from text2sql.sql import tree_of

Reason = Literal[
    "gold_failed",  # the gold query gave no result: the example says nothing about the prediction
    "prediction_failed",
    "timeout",
    "too_many_rows",  # or bytes: the prediction's result was cut off
    "column_count",
    "row_count",
    "row_values",
    "row_order",  # the right rows, but not in the order that the gold query asks for
]

#: Two numbers are equal within this share of the larger one, unless both are integers.
RELATIVE = 1e-6
#: ... or if both are as good as zero, where a share says nothing: what is left over when floats cancel out.
ABSOLUTE = 1e-12
Row = Sequence[Any]
Rows = Sequence[Row]
#: Column orders tried before two results are called different. Each try is pruned by the rows seen so far, so results
#: of queries need a handful; only graph-like patterns made for it come near.
MAX_TRIES = 2000
#: Rows alike up to rounding that are paired exactly; more than these are paired in sorted order only.
MAX_PAIRED = 400


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a query: rows, or why there are none.

    `error` is None or a code such as `unknown_column` or `timeout` (sandbox.py lists them); `sqlstate` is PostgreSQL's.
    """

    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    error: str | None = None
    message: str = ""
    milliseconds: float = 0.0
    sqlstate: str | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`reason` is None if the prediction is correct."""

    correct: bool
    reason: Reason | None = None


def suite(gold: Result, predicted: Result, gold_sql: str) -> Verdict:
    """The verdict of the public test-suite evaluation, on the results of both queries without their DISTINCT."""
    if reason := _failure(gold, predicted):
        return Verdict(False, reason)
    if not gold.rows and not predicted.rows:
        return Verdict(True)  # the public evaluation looks no further, not at the columns either
    return _compare(gold, predicted, any_column_order=True, ordered=has_order(gold_sql))


def strict(gold: Result, predicted: Result, gold_sql: str) -> Verdict:
    """The verdict on the queries as they are: columns in order, rows in order where the outermost gold orders them."""
    if reason := _failure(gold, predicted):
        return Verdict(False, reason)
    return _compare(gold, predicted, any_column_order=False, ordered=is_ordered(gold_sql))


def has_order(sql: str) -> bool:
    """Whether a query in `sql`, nested ones included, has ORDER BY; that of a window or an aggregate is none.

    What sqlglot cannot read, although PostgreSQL ran it, counts as without, here and in `is_ordered`.
    """
    return any(query.args.get("order") for query in _parse(sql).find_all(exp.Query))


def is_ordered(sql: str) -> bool:
    """Whether the outermost query of `sql` has ORDER BY."""
    tree = _parse(sql)
    return bool(tree.args.get("order") or tree.unnest().args.get("order"))


@functools.lru_cache(maxsize=256)
def _parse(sql: str) -> exp.Expression:
    return tree_of(sql) or exp.Anonymous()


def strip_distinct(sql: str) -> str:
    """`sql` without the keyword DISTINCT, in SELECT and in aggregates, and otherwise to the letter the same.

    IS DISTINCT FROM and DISTINCT ON (...) are something else and stay. Text that sqlglot cannot split into tokens is
    returned as it is: PostgreSQL will say what is wrong with it.
    """
    try:
        tokens = sqlglot.tokenize(sql, read="postgres")
    except sqlglot.errors.SqlglotError:
        return sql
    kept, end = [], 0
    for token, following in itertools.pairwise(tokens):
        is_other = following.token_type in (TokenType.ON, TokenType.FROM)
        if token.token_type == TokenType.DISTINCT and not is_other:
            kept.append(sql[end : token.start])
            end = token.end + 1
    return "".join([*kept, sql[end:]])


def _failure(gold: Result, predicted: Result) -> Reason | None:
    if gold.error:
        return "gold_failed"
    if predicted.error == "timeout":
        return "timeout"
    if predicted.error == "too_many_rows":
        return "too_many_rows"
    return "prediction_failed" if predicted.error else None


def _compare(gold: Result, predicted: Result, any_column_order: bool, ordered: bool) -> Verdict:
    width = _width(gold)
    if width != _width(predicted):
        return Verdict(False, "column_count")
    if len(gold.rows) != len(predicted.rows):
        return Verdict(False, "row_count")
    same = functools.partial(same_rows, gold.rows, predicted.rows, any_column_order=any_column_order)
    if same(ordered=ordered):
        return Verdict(True)
    return Verdict(False, "row_order" if ordered and same(ordered=False) else "row_values")


def same_rows(left: Rows, right: Rows, ordered: bool, any_column_order: bool = False) -> bool:
    """Whether two results have the same rows: as bags, or `ordered` in their order; with `any_column_order` under one
    order of the columns for all rows."""
    if len(left) != len(right):
        return False
    left, right = ([tuple(map(_plain, row)) for row in rows] for rows in (left, right))
    if left == right or (not ordered and _bag(left) == _bag(right)):
        return True
    if len(left[0]) != len(right[0]):
        return False
    return _Tables(left, right, ordered).are_equal(any_column_order)


def same_value(left: Any, right: Any) -> bool:
    """Whether two values are the same: integers exactly, other numbers within the tolerance."""
    return _close(_plain(left), _plain(right))


def same_row(left: Row, right: Row) -> bool:
    """Whether two rows are the same, column by column."""
    return len(left) == len(right) and all(map(same_value, left, right))


def row_keys(*tables: Rows) -> list[list[Hashable]]:
    """A key for each row of each table: rows that are the same have the same key, and rows of one key are the same up
    to a chain of roundings (`same_row` decides)."""
    plain = [[tuple(map(_plain, row)) for row in rows] for rows in tables]
    classes, _ = _classes([value for rows in plain for row in rows for value in row])
    return [[tuple(classes[value] for value in row) for row in rows] for rows in plain]


def _width(result: Result) -> int:
    return len(result.rows[0]) if result.rows else len(result.columns)


def _plain(value: Any) -> Hashable:
    """A value as number, text or None; an array as a tuple. Python's 1 == 1.0 == Decimal(1) == True does the rest."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float | Decimal):
        return value if value == value else "NaN"  # NaN alone differs from itself, but not in PostgreSQL
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict) else str(value)


def _is_number(value: Hashable) -> bool:
    return isinstance(value, int | float | Decimal)


def _is_integer(value: Any) -> bool:
    """Whether a number is exactly an integer. A float never is: it may have been rounded to one."""
    return isinstance(value, int) or (isinstance(value, Decimal) and value == value.to_integral_value())


def _close(left: Any, right: Any) -> bool:
    """Whether two plain values are equal: numbers within the tolerance unless both are integers."""
    if left == right:
        return True
    if not (_is_number(left) and _is_number(right)) or (_is_integer(left) and _is_integer(right)):
        return False
    return math.isclose(_float(left), _float(right), rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _float(number: Any) -> float:
    """The nearest float; infinity for an integer beyond them."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class _Tables:
    """Two tables of equally many columns and rows, prepared for comparison; if `ordered`, row i is held against row i.

    Each value gets a small integer, its class; values within the tolerance of each other, directly or by a chain of
    neighbours, share one. Different classes mean different values, so classes do all the searching. Only where a class
    holds several values is a pairing found this way checked against the values themselves.
    """

    def __init__(self, left: list[tuple], right: list[tuple], ordered: bool) -> None:
        self.left, self.right, self.width = left, right, len(left[0])
        classes, self.is_exact = _classes([value for rows in (left, right) for row in rows for value in row])
        self.left_columns = [[classes[row[i]] for row in left] for i in range(self.width)]
        self.right_columns = [[classes[row[i]] for row in right] for i in range(self.width)]
        #: the group of each row: only rows of one group may be paired
        self.groups = list(range(len(left))) if ordered else [0] * len(left)

    def are_equal(self, any_column_order: bool) -> bool:
        """Whether the rows can be paired off, under one order of the columns."""
        return self._search() if any_column_order else self._paired(list(range(self.width)))

    def _search(self) -> bool:
        """Backtracking over the columns. Rows that agree on the columns placed so far form a group; another column fits
        only if it splits the groups alike on both sides, which leaves hardly ever more than one choice."""
        left_bags, right_bags = (
            [_bag(zip(self.groups, c, strict=True)) for c in columns]
            for columns in (self.left_columns, self.right_columns)
        )
        fits = [[j for j in range(self.width) if left_bags[i] == right_bags[j]] for i in range(self.width)]
        # The columns that say most come first: few places to go, then many different values.
        order = sorted(range(self.width), key=lambda i: (len(fits[i]), -len(left_bags[i])))
        tries = 0

        def place(position: int, left_groups: list[int], right_groups: list[int], taken: dict[int, int]) -> bool:
            nonlocal tries
            if position == self.width:  # each group of rows is as large here as there
                return self.is_exact or self._paired([taken[i] for i in range(self.width)])
            i = order[position]
            tried: list[list[int]] = []
            for j in fits[i]:
                column = self.right_columns[j]
                if j in taken.values() or (self.is_exact and column in tried):
                    continue
                if (tries := tries + 1) > MAX_TRIES:
                    return False
                tried.append(column)
                split: dict[tuple[int, int], int] = {}
                left = _split(split, left_groups, self.left_columns[i])
                right = _split(split, right_groups, column)
                if _bag(left) == _bag(right) and place(position + 1, left, right, {**taken, i: j}):
                    return True
            return False

        return all(fits) and place(0, self.groups, self.groups, {})

    def _paired(self, order: list[int]) -> bool:
        """Whether the rows can be paired off, column i of the left being column `order[i]` of the right."""
        left_keys = list(zip(self.groups, *self.left_columns, strict=True))
        right_keys = list(zip(self.groups, *(self.right_columns[j] for j in order), strict=True))
        if _bag(left_keys) != _bag(right_keys):
            return False
        if self.is_exact:
            return True
        right_rows = [tuple(row[j] for j in order) for row in self.right]
        alike: dict[tuple[int, ...], tuple[list[tuple], list[tuple]]] = {}
        for side, (keys, rows) in enumerate(((left_keys, self.left), (right_keys, right_rows))):
            for key, row in zip(keys, rows, strict=True):
                alike.setdefault(key, ([], []))[side].append(row)
        return all(_pair_alike(left, right) for left, right in alike.values())


def _bag(items: Iterable[Hashable]) -> dict[Hashable, int]:
    """How often each item occurs: a plain dict, as Counter compares itself in Python, ten times slower."""
    return dict(Counter(items))


def _split(known: dict[tuple[int, int], int], groups: list[int], column: list[int]) -> list[int]:
    """The group of each row once another column tells rows apart; `known` names groups alike for both tables."""
    return [known.setdefault(key, len(known)) for key in zip(groups, column, strict=True)]


def _classes(cells: Sequence[Hashable]) -> tuple[dict[Hashable, int], bool]:
    """A class for each value, and whether each class holds one value only.

    Of sorted numbers a class is a run: it ends where nothing near reaches across. Whatever does, reaches from or to a
    number that is no integer, so the last such one before the gap and the first after it tell. Integers alone never
    join: keys of eight digits stay apart.
    """
    groups: dict[bool, list[Any]] = {False: [], True: []}
    for value in dict.fromkeys(cells):
        groups[_is_number(value)].append(value)
    numbers = sorted(groups[True])
    floats = {cell for cell in cells if type(cell) is float}  # 1.0 and 1 are one key
    joined = [False] * len(numbers)  # with the number before
    for positions, step in ((range(len(numbers)), 0), (range(len(numbers) - 1, -1, -1), 1)):
        inexact = None
        for position in positions:
            number = numbers[position]
            if inexact is not None and math.isclose(inexact, _float(number), rel_tol=RELATIVE, abs_tol=ABSOLUTE):
                joined[position + step] = True
            if number in floats or not _is_integer(number):
                inexact = _float(number)
    classes = {value: number for number, value in enumerate(groups[False])}
    last = len(classes)
    for number, is_joined in zip(numbers, joined, strict=True):
        last += not is_joined
        classes[number] = last
    return classes, not any(joined)


def _pair_alike(left: list[tuple], right: list[tuple]) -> bool:
    """Whether rows of the same classes can be paired so that the values of each pair are equal."""

    def equal(i: int, j: int) -> bool:
        return all(map(_close, left[i], right[j]))

    def assign(i: int, seen: set[int]) -> bool:
        """Give row i of the left a partner of its own on the right (augmenting paths)."""
        for j in range(len(right)):
            if j not in seen and equal(i, j):
                seen.add(j)
                if j not in partner or assign(partner[j], seen):
                    partner[j] = i
                    return True
        return False

    left, right = sorted(left), sorted(right)
    if all(equal(i, i) for i in range(len(left))):
        return True
    partner: dict[int, int] = {}
    return len(left) <= MAX_PAIRED and all(assign(i, set()) for i in range(len(left)))
