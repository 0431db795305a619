"""Spider's hardness levels of a query, from its text.

Spider (Yu et al., EMNLP 2018) reports accuracy on four levels. Its evaluation derives them from a parsed form that only
Spider's own files carry; here sqlglot's tree is counted instead, so any query has a level. The rules are those of the
public evaluation, its oddities included: the outermost SELECT alone counts (of a set operation the leftmost), a negated
condition and every AND / OR of a HAVING count as an aggregate, and an aggregate in HAVING itself does not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import sqlglot
from sqlglot import exp

from text2sql.sql import parse_one

Level = Literal["easy", "medium", "hard", "extra"]
LEVELS: tuple[Level, ...] = get_args(Level)


class Counts(NamedTuple):
    """What the levels are made of: `component1` clauses, joins, ORs and LIKEs; `component2` nested queries and set
    operations; `others` which of aggregates, SELECT columns, WHERE conditions and GROUP BY columns occur repeatedly."""

    component1: int
    component2: int
    others: int


def level(counts: Counts) -> Level:
    """The level of Spider's thresholds."""
    one, two, others = counts
    if two:
        return "hard" if two == 1 and one <= 1 and others == 0 else "extra"
    if one <= 1 and others == 0:
        return "easy"
    if (one <= 1 and others <= 2) or (one <= 2 and others < 2):
        return "medium"
    return "hard" if (one <= 2 and others > 2) or (one == 3 and others <= 2) else "extra"


def hardness(sql: str, dialect: str) -> Level:
    """Spider's level of `sql`, written in sqlglot's `dialect` ("sqlite", "postgres").

    Raises:
        sqlglot.errors.SqlglotError: the text is not one query of that dialect.
    """
    return level(count(parse_one(sql, dialect)))


def hardness_of_gold(sql: str) -> Level | None:
    """The level of a PostgreSQL query; None if sqlglot cannot read it."""
    try:
        return hardness(sql, "postgres")
    except sqlglot.errors.SqlglotError:
        return None


def count(tree: exp.Expression) -> Counts:
    """Counts of the outermost SELECT of `tree`.

    Raises:
        sqlglot.errors.ParseError: `tree` is no query.
    """
    select, is_set_operation = _outermost(tree)
    where, where_connectors = _conditions(select.args.get("where"))
    having, having_connectors = _conditions(select.args.get("having"))
    joins = select.args.get("joins") or []
    on = [_conditions(join.args.get("on")) for join in joins]
    conditions = [*where, *having, *(c for parts, _ in on for c in parts)]
    connectors = [*where_connectors, *having_connectors, *(c for _, parts in on for c in parts)]
    group = select.args["group"].expressions if select.args.get("group") else []
    order = select.args["order"].expressions if select.args.get("order") else []

    component1 = sum(bool(select.args.get(clause)) for clause in ("where", "group", "order", "limit"))
    component1 += len(joins) + sum(isinstance(c, exp.Or) for c in connectors)
    component1 += sum(isinstance(_positive(c), exp.Like | exp.ILike | exp.Glob) for c in conditions)
    nested = sum(len(_subqueries(condition)) for condition in conditions)
    aggregates = sum(_is_aggregate(e) for e in [*select.expressions, *group])
    aggregates += sum(_is_aggregate(operand) for key in order for operand in _operands(key.this))
    aggregates += sum(_positive(c) is not c for c in [*where, *having]) + len(having_connectors)
    others = (aggregates > 1) + (len(select.expressions) > 1) + (len(where) > 1) + (len(group) > 1)
    return Counts(component1, nested + is_set_operation, others)


def _outermost(tree: exp.Expression) -> tuple[exp.Select, bool]:
    """The leftmost SELECT, and whether it is an arm of a set operation."""
    is_set_operation = False
    while not isinstance(tree, exp.Select):
        if not isinstance(tree, exp.SetOperation | exp.Subquery | exp.Paren):
            raise sqlglot.errors.ParseError(f"not a query: {tree.sql()[:80]}")
        is_set_operation |= isinstance(tree, exp.SetOperation)
        tree = tree.this
    return tree, is_set_operation


def _conditions(clause: exp.Expression | None) -> tuple[list[exp.Expression], list[exp.Expression]]:
    """The conditions that AND and OR join in a clause, and those connectors."""
    if clause is None:
        return [], []
    expression = (clause.this if isinstance(clause, exp.Where | exp.Having) else clause).unnest()
    if not isinstance(expression, exp.And | exp.Or):
        return [expression], []
    left, right = _conditions(expression.left), _conditions(expression.right)
    return left[0] + right[0], [*left[1], expression, *right[1]]


def _positive(condition: exp.Expression) -> exp.Expression:
    """The condition without its NOT; the condition itself if it has none."""
    return condition.this.unnest() if isinstance(condition, exp.Not) else condition


def _subqueries(condition: exp.Expression) -> list[exp.Expression]:
    """Queries that stand in a condition, without those inside of them."""
    kinds = exp.Select | exp.SetOperation
    return [node for node in condition.walk(prune=lambda node: isinstance(node, kinds)) if isinstance(node, kinds)]


def _is_aggregate(expression: exp.Expression) -> bool:
    """Whether a SELECT column or sort key starts with an aggregate: the only place where Spider's parser has one."""
    return isinstance(expression.unalias(), exp.Max | exp.Min | exp.Count | exp.Sum | exp.Avg)


def _operands(expression: exp.Expression) -> list[exp.Expression]:
    """Both sides of an arithmetic sort key, or the key."""
    expression = expression.unnest()
    return [expression.left, expression.right] if isinstance(expression, exp.Binary) else [expression]
