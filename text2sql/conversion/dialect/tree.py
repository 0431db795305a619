"""Building and replacing nodes: what every rule needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.dialect.types import BIGINT, BOOLEAN, DOUBLE, INTEGER, NUMERIC, TEXT, Type, type_of
from text2sql.schema import needs_quotes

_BY_NAME = {t.pg: t for t in (INTEGER, BIGINT, NUMERIC, DOUBLE, TEXT, BOOLEAN)}
_SHORT = {"double precision": "float", "integer": "int"}
#: operands that need no parentheses beside an operator
ATOMS = (exp.Column, exp.Literal, exp.Func, exp.Paren, exp.Subquery, exp.Cast, exp.Null, exp.Boolean)


def rewrite(tree: exp.Expression, change: Callable[[exp.Expression], exp.Expression | None]) -> exp.Expression:
    """Replace nodes, children before their parents, by what `change` returns (None or the node itself: no change)."""
    for node in reversed(list(tree.walk())):
        new = change(node)
        if new is not None and new is not node:
            if node is tree:
                tree = new
            else:
                node.replace(new)
    return tree


def with_type(node: exp.Expression, type_: Type) -> exp.Expression:
    """`node`, which is PostgreSQL's already, with its type; rules leave it alone."""
    node.meta["type"] = type_
    return node


def wrap(node: exp.Expression) -> exp.Expression:
    """A copy of `node` that may stand beside an operator."""
    node = node.copy()
    if isinstance(node, ATOMS) and not isinstance(node, exp.Connector):
        return node
    return exp.Paren(this=node)


def cast(node: exp.Expression, pg: str, type_: Type | None = None) -> exp.Expression:
    """`node::pg`."""
    known = type_of(node)
    type_ = type_ or replace(_BY_NAME.get(pg, replace(TEXT, pg=pg)), nullable=known.nullable)
    operand = node.unnest() if isinstance(node, exp.Paren) else node
    to = exp.DataType(this=exp.DType.USERDEFINED, kind=_SHORT.get(pg, pg))  # the name as it is
    return with_type(exp.Cast(this=wrap(operand), to=to), type_)


def call(name: str, *arguments: exp.Expression, type_: Type) -> exp.Expression:
    """A PostgreSQL function."""
    return with_type(exp.Anonymous(this=name, expressions=[a.copy() for a in arguments]), type_)


def number(value: int | float) -> exp.Expression:
    """A number as a literal."""
    literal = exp.Literal.number(str(abs(value)) if value >= 0 else str(-value))
    return literal if value >= 0 else exp.Neg(this=literal)


def string(value: str) -> exp.Expression:
    """A text as a literal."""
    return exp.Literal.string(value)


def is_string(node: exp.Expression) -> bool:
    """Whether `node` is a text literal."""
    return isinstance(node, exp.Literal) and node.is_string


def literal_number(node: exp.Expression) -> int | float | None:
    """The value of a (negated) number literal."""
    if isinstance(node, exp.Neg):
        inner = literal_number(node.this)
        return None if inner is None else -inner
    if isinstance(node, exp.Literal) and not node.is_string:
        return int(node.this) if node.this.isdigit() else float(node.this)
    return None


def identifier(name: str) -> exp.Identifier:
    """A PostgreSQL name, quoted if need be."""
    return exp.Identifier(this=name, quoted=needs_quotes(name))


def false() -> exp.Expression:
    """FALSE."""
    return with_type(exp.Boolean(this=False), replace(BOOLEAN, nullable=False))


def is_not_null(node: exp.Expression) -> exp.Expression:
    """`node IS NOT NULL`, or TRUE where it never is."""
    if not type_of(node).nullable:
        return with_type(exp.Boolean(this=True), replace(BOOLEAN, nullable=False))
    return exp.Not(this=exp.Is(this=wrap(node), expression=exp.Null()))


def selects(tree: exp.Expression) -> list[exp.Select]:
    """All SELECTs, inner ones first."""
    return list(reversed(list(tree.find_all(exp.Select))))
