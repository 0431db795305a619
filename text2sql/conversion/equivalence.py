"""Whether SQLite's and PostgreSQL's answers to a query and its conversion are the same.

Rows are compared as a bag, or in order where the query orders them. Numbers are compared as numbers (SQLite keeps
5 and 5.0 apart from neither, and a boolean is its 0 or 1), reals within a relative 1e-6. A value that is a number
on one side and a text on the other is the same only if the text is exactly how SQLite writes the number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import Any

from text2sql.conversion.databases.describe import sqlite_text

RELATIVE_TOLERANCE = 1e-6
#: below this two reals are both zero: sums of opposite values leave such rests, in another order other ones
ABSOLUTE_TOLERANCE = 1e-9
#: rows for which a partner is looked for one by one
LONGEST_SEARCH = 500
Row = Sequence[Any]


def canonical(value: Any) -> Any:
    """A value of either engine as None, int, float, str or bytes."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    return value


def same_value(sqlite: Any, postgres: Any) -> bool:
    """Whether two values are the same, as the module's docstring says."""
    left, right = canonical(sqlite), canonical(postgres)
    if left is None or right is None:
        return left is right
    if isinstance(left, str) != isinstance(right, str):
        text, number = (left, right) if isinstance(left, str) else (right, left)
        if isinstance(number, bytes):
            return text.encode() == number
        original = sqlite if number is left else postgres
        forms = {str(number), sqlite_text(float(number))} if isinstance(original, int | float | Decimal) else set()
        return text in forms
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right or math.isclose(left, right, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return bool(left == right)


def same_row(sqlite: Row, postgres: Row) -> bool:
    """Whether two rows are the same, column by column."""
    return len(sqlite) == len(postgres) and all(map(same_value, sqlite, postgres))


def key(row: Row) -> Hashable:
    """Equal for rows that are the same (but for rare roundings at a digit's edge), and only for those."""
    return tuple(map(_key, row))


def _key(value: Any) -> Hashable:
    """Equal keys mean the same value; the same value nearly always has an equal key."""
    value = canonical(value)
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _text_key(value: Any) -> Hashable:
    """As `_key`, for a number that the other side has as a text."""
    value = canonical(value)
    return str(value) if isinstance(value, int) else sqlite_text(value) if isinstance(value, float) else value


def unmatched(sqlite: Sequence[Row], postgres: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of either bag without a partner in the other."""
    left, right = list(sqlite), list(postgres)
    for key in (_key, _text_key):
        left, right = _strike_out(left, right, key)
        if not left or not right:
            return left, right
    for row in left[:LONGEST_SEARCH]:  # roundings that part at a digit's edge
        partner = next((other for other in right if same_row(row, other)), None)
        if partner is not None:
            right.remove(partner)
            left.remove(row)
    return left, right


def _strike_out(left: list[Row], right: list[Row], key: Callable[[Any], Hashable]) -> tuple[list[Row], list[Row]]:
    """What remains of two bags once rows of equal keys are paired."""
    keys = [tuple(map(key, row)) for row in left], [tuple(map(key, row)) for row in right]
    common = Counter(keys[0]) & Counter(keys[1])
    if not common:
        return left, right
    rest: tuple[list[Row], list[Row]] = ([], [])
    for side, rows in enumerate((left, right)):
        paired = common.copy()
        for row, k in zip(rows, keys[side], strict=True):
            if paired[k] > 0:
                paired[k] -= 1
            else:
                rest[side].append(row)
    return rest


def same_bag(sqlite: Sequence[Row], postgres: Sequence[Row]) -> bool:
    """Whether both have the same rows, in whatever order."""
    if len(sqlite) != len(postgres):
        return False
    left, right = unmatched(sqlite, postgres)
    return not left and not right


def same_order(sqlite: Sequence[Row], postgres: Sequence[Row]) -> bool:
    """Whether both have the same rows in the same order."""
    return len(sqlite) == len(postgres) and all(map(same_row, sqlite, postgres))
