"""Building and replacing nodes: what every rule needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import wraps
from typing import Any

from sqlglot import exp

from text2sql.conversion.dialect.types import BIGINT, BOOLEAN, DOUBLE, INTEGER, NUMERIC, TEXT, Type, type_of
from text2sql.schema import needs_quotes

Rule = Callable[[exp.Expression], exp.Expression]
Change = Callable[[Any], exp.Expression | None]
_BY_NAME = {t.pg: t for t in (INTEGER, BIGINT, NUMERIC, DOUBLE, TEXT, BOOLEAN)}
_SHORT = {"double precision": "float", "integer": "int"}
number, string = exp.Literal.number, exp.Literal.string
#: operands that need no parentheses beside an operator
ATOMS = (exp.Column, exp.Literal, exp.Func, exp.Paren, exp.Subquery, exp.Cast, exp.Null, exp.Boolean)


def rule(*classes: type[exp.Expression], typed: bool = False) -> Callable[[Change], Rule]:
    """A rule out of a function that says what a node of these `classes` becomes: None or the node itself is no change.

    Children come before their parents. Nodes with a type are PostgreSQL's already: they are passed over unless `typed`.
    """

    def decorate(change: Change) -> Rule:
        @wraps(change)
        def rewrite(tree: exp.Expression) -> exp.Expression:
            for node in reversed(list(tree.walk())):
                if not isinstance(node, classes) or ("type" in node.meta and not typed):
                    continue
                new = change(node)
                if new is not None and new is not node:
                    node.replace(new)
            return tree

        return rewrite

    return decorate


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


def literal_number(node: exp.Expression) -> int | float | None:
    """The value of a (negated) number literal."""
    value = node.to_py() if node.is_number else None
    return float(value) if isinstance(value, Decimal) else value


def identifier(name: str) -> exp.Identifier:
    """A PostgreSQL name, quoted if need be."""
    return exp.Identifier(this=name, quoted=needs_quotes(name))


def boolean(value: bool) -> exp.Expression:
    """TRUE or FALSE."""
    return with_type(exp.Boolean(this=value), replace(BOOLEAN, nullable=False))


def is_null(node: exp.Expression) -> exp.Expression:
    """`node IS NULL`."""
    return exp.Is(this=wrap(node), expression=exp.Null())


def is_not_null(node: exp.Expression) -> exp.Expression:
    """`node IS NOT NULL`, or TRUE where it never is NULL."""
    return exp.Not(this=is_null(node)) if type_of(node).nullable else boolean(True)


def case(condition: exp.Expression, value: exp.Expression, type_: Type, default: Any = None) -> exp.Expression:
    """`CASE WHEN condition THEN value ELSE default END`."""
    return with_type(exp.Case(ifs=[exp.If(this=condition, true=value)], default=default), type_)


def where_known(nodes: Sequence[exp.Expression], value: exp.Expression, type_: Type) -> exp.Expression:
    """`value`, or NULL where one of `nodes` is NULL."""
    known = [is_not_null(node) for node in nodes if type_of(node).nullable]
    return case(exp.and_(*known, copy=False), value, type_) if known else value


def coalesce(node: exp.Expression, default: exp.Expression, type_: Type) -> exp.Expression:
    """`node`, or `default` where it is NULL."""
    return with_type(exp.Coalesce(this=node.copy(), expressions=[default]), type_)


def unwrapped(node: exp.Expression) -> exp.Expression:
    """`node` without the parentheses around it; a query keeps its own."""
    return node.unnest() if isinstance(node, exp.Paren) else node


def selects(tree: exp.Expression) -> list[exp.Select]:
    """All SELECTs, inner ones first."""
    return list(reversed(list(tree.find_all(exp.Select))))
