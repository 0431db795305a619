"""Reading a value as SQLite would where it wants a number, a text or a condition."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.databases.encode import sqlite_text
from text2sql.conversion.databases.infer import INTEGER_TEXT, NUMBER_PREFIX, NUMBER_TEXT
from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.tree import (
    boolean,
    call,
    case,
    cast,
    coalesce,
    literal_number,
    number,
    string,
    where_known,
    with_type,
    wrap,
)
from text2sql.conversion.dialect.types import BOOLEAN, DATE_TYPES, NUMERIC, TEXT, Type, literals_fit, type_of

#: how PostgreSQL recognises a text that SQLite's numeric affinity makes a number
NUMBER_PATTERN = r"^\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*$"
#: to_char's pattern for a real number; it shows 15 digits of a double at most, as SQLite does
REAL_PATTERN = "FM999999999999990.0999999999999"
INTEGER_PREFIX_PATTERN = r"^\s*([-+]?\d+)"


def text_number(value: str) -> int | float | None:
    """The number that numeric affinity makes of a text, or None if it stays a text.

    >>> text_number("12"), text_number(" 1.50"), text_number("12b")
    (12, 1.5, None)
    """
    if not NUMBER_TEXT.match(value):
        return None
    parsed = float(value)
    if INTEGER_TEXT.match(value.strip()):
        return int(value)
    return int(parsed) if parsed.is_integer() and abs(parsed) < 2**53 else parsed


def as_number(node: exp.Expression) -> exp.Expression | None:
    """`node` as a number where numeric affinity makes every value of it one; None if some would stay texts."""
    type_ = type_of(node)
    if type_.numeric or (type_.pg == "unknown" and not type_.classes):
        return node
    if type_.pg == "boolean":
        return number(int(node.this)) if isinstance(node, exp.Boolean) else cast(node, "integer")
    if node.is_string:
        value = text_number(node.this)
        return None if value is None else number(value)
    written = node.this if isinstance(node, exp.Cast) and type_.pg == "text" else None
    if written is not None and type_of(written).numeric and type_.form == "integer":  # a number that was made a text
        return written
    if type_.pg == "text" and type_.textual and type_.form in ("integer", "number") and not type_.blanks:
        return cast(node, "integer" if type_.form == "integer" else "numeric")
    return None


def number_or_null(node: exp.Expression) -> exp.Expression:
    """The numbers among the values of a text column, NULL for the texts."""
    return case(is_number(node), cast(node, "numeric"), replace(NUMERIC, classes=frozenset({"integer", "real"})))


def stays_text(node: exp.Expression) -> exp.Expression:
    """The condition that a value of a text column is no number for SQLite."""
    return exp.Not(this=is_number(node))


def is_number(node: exp.Expression) -> exp.Expression:
    """The opposite of `stays_text`."""
    return exp.RegexpILike(this=wrap(node), expression=string(NUMBER_PATTERN))


def text_of(node: exp.Expression) -> exp.Expression:
    """`node` as the text that SQLite makes of it.

    Raises:
        Rejected: a number that SQLite writes with or without a point, row by row.
    """
    type_ = type_of(node)
    if type_.pg in ("text", "unknown"):
        return node
    value = literal_number(node)
    if value is not None:
        return string(str(value) if isinstance(value, int) else sqlite_text(value))
    if type_.pg in DATE_TYPES or (type_.integral and type_.numeric):
        return cast(node, "text")
    if type_.pg == "boolean":
        return cast(cast(node, "integer"), "text")
    if type_.textual and type_.numeric:  # texts that are integers, stored as such for a key's sake
        return cast(node, "text")
    if type_.pg == "numeric" and isinstance(node, exp.Column) and type_.affinity in ("numeric", "integer"):
        return cast(node, "text")  # stored as written: 5 and 5.5, where SQLite has the same
    if type_.numeric and type_.classes == {"real"}:
        return _real_text(node)
    raise Rejected("text of a number that is an integer in some rows only")


def lowered(node: exp.Expression, type_: Type) -> exp.Expression:
    """`node` as a text in lower case."""
    return call("lower", text_of(node), type_=type_)


def _real_text(node: exp.Expression) -> exp.Expression:
    """A real number as SQLite writes it: 15 digits, and always a point."""
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select) and len(node.this.expressions) == 1:
        query = node.copy()
        projection = query.this.expressions[0]
        projection.replace(_real_text(projection.unalias()))
        return with_type(query, replace(TEXT, nullable=True))
    value = node if type_of(node).pg == "double precision" else cast(node, "double precision")
    return call("to_char", value, string(REAL_PATTERN), type_=replace(TEXT, nullable=type_of(node).nullable))


def arithmetic_value(node: exp.Expression) -> exp.Expression:
    """`node` as a number in arithmetic: of a text, the longest prefix that is one, or else 0."""
    type_ = type_of(node)
    if node.is_string:
        known = re.match(NUMBER_PREFIX, node.this)
        return number((text_number(known[1]) or 0) if known else 0)
    if (known := as_number(node)) is not None:
        return known
    nullable = replace(NUMERIC, classes=frozenset({"integer"}), nullable=type_.nullable)
    if type_.pg in DATE_TYPES:
        field = "HOUR" if type_.pg == "time" else "YEAR"
        return with_type(exp.Extract(this=exp.var(field), expression=node.copy()), nullable)
    if type_.pg not in ("text", "unknown"):
        raise Rejected(f"arithmetic with {type_.pg}")
    prefix = call("substring", node, string(type_.prefix or NUMBER_PREFIX), type_=TEXT)
    number_type = replace(nullable, classes=frozenset({"integer", "real"}))
    return where_known([node], cast(coalesce(prefix, string("0"), TEXT), "numeric", number_type), number_type)


def condition(node: exp.Expression) -> exp.Expression:
    """`node` where a condition is wanted: for SQLite a number other than 0."""
    type_ = type_of(node)
    if type_.pg == "boolean" or isinstance(node, exp.Null):
        return node
    value = literal_number(node)
    if value is not None:
        return boolean(value != 0)
    operand = arithmetic_value(node)
    return with_type(exp.NEQ(this=wrap(operand), expression=number(0)), replace(BOOLEAN, nullable=type_.nullable))


def common(nodes: list[exp.Expression]) -> list[exp.Expression]:
    """Branches of one expression with a type that PostgreSQL finds common to them."""
    kinds = [type_of(n) for n in nodes]
    pgs = {k.pg for k in kinds if k.classes and k.pg != "unknown"}
    literals = [k for k in kinds if k.pg == "unknown" and k.classes]
    if "boolean" in pgs and len(pgs) > 1:
        nodes = [n if k.pg != "boolean" else as_number(n) or n for n, k in zip(nodes, kinds, strict=True)]
        return common(nodes)
    if len(pgs) <= 1 and all(literals_fit(literals, pg) for pg in pgs):
        return nodes
    if not literals and all(k.numeric for k in kinds if k.classes):
        return nodes
    return [text_of(n) if type_of(n).classes else n for n in nodes]
