"""A query in one English sentence made of its parts, for people who do not read SQL.

A part that has no plain words is quoted as SQL; a query with parts that a sentence cannot hold (subqueries in FROM, set
operations, CTEs) is not explained.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.sql import parse_one, shallow

AGGREGATES = {exp.Sum: "total", exp.Avg: "average", exp.Max: "highest", exp.Min: "lowest"}
COMPARISONS = {
    exp.EQ: "is", exp.NEQ: "is not", exp.GT: "is over", exp.GTE: "is at least", exp.LT: "is under",
    exp.LTE: "is at most", exp.Like: "is like", exp.ILike: "is like",
}  # fmt: skip
#: parts of a SELECT that the sentence has, beside its expressions
TOLD = {"from_", "joins", "where", "group", "having", "order", "limit", "distinct", "kind", "expressions"}


def explain(sql: str) -> str:
    """The sentence; empty if the query is not one plain SELECT.

    >>> explain("select name, price from products where price > 5 order by price desc limit 3")
    'Name and price of products, where price is over 5, highest price first, only the first 3.'
    """
    try:
        with shallow():
            tree = parse_one(sql)
            if not isinstance(tree, exp.Select) or not _is_plain(tree):
                return ""
            sentence = ", ".join(part for part in _parts(tree) if part)
    except SqlglotError:
        return ""
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _is_plain(select: exp.Select) -> bool:
    sources = [select.args["from_"], *(select.args.get("joins") or ())] if select.args.get("from_") else []
    return (
        bool(sources)
        and all(isinstance(source.this, exp.Table) for source in sources)
        and all(key in TOLD for key, value in select.args.items() if value)
    )


def _parts(select: exp.Select) -> list[str]:
    tables = [select.args["from_"].this.name, *(join.this.name for join in select.args.get("joins") or ())]
    distinct = "different " if select.args.get("distinct") else ""
    parts = [f"{distinct}{_and([_value(item) for item in select.expressions])} of {_and([_plain(t) for t in tables])}"]
    if group := select.args.get("group"):
        parts.append(f"for each {_and([_value(item) for item in group.expressions])}")
    for key, word in (("where", "where"), ("having", "if")):
        if condition := select.args.get(key):
            parts.append(f"{word} {_condition(condition.this)}")
    if order := select.args.get("order"):
        parts.append(_and([_order(item, select) for item in order.expressions]))
    if limit := select.args.get("limit"):
        number = limit.expression.name
        parts.append("only the first" if number == "1" else f"only the first {number}")
    return parts


def _value(value: exp.Expression) -> str:
    """A column, an aggregate or a literal in words."""
    inner = value.this
    if isinstance(value, exp.Alias | exp.Paren | exp.Cast):
        return _value(inner)
    if isinstance(value, exp.Column):
        return "all columns" if isinstance(inner, exp.Star) else _plain(value.name)
    if isinstance(value, exp.Star):
        return "all columns"
    if isinstance(value, exp.Count):
        if isinstance(inner, exp.Distinct):
            return f"number of different {_and([_value(item) for item in inner.expressions])}"
        return "number"
    if type(value) in AGGREGATES and not isinstance(inner, exp.Distinct):
        return f"{AGGREGATES[type(value)]} {_value(inner)}"
    return value.sql("postgres")


def _condition(condition: exp.Expression) -> str:
    left, right = condition.this, condition.args.get("expression")
    if isinstance(condition, exp.And | exp.Or):
        word = "and" if isinstance(condition, exp.And) else "or"
        return f"{_condition(left)} {word} {_condition(right)}"
    if isinstance(condition, exp.Paren):
        return f"({_condition(left)})"
    if type(condition) in COMPARISONS and not condition.find(exp.Query):
        words = COMPARISONS[type(condition)]
        if condition.args.get("negate"):
            words = words.replace("is", "is not", 1)
        return f"{_value(left)} {words} {_value(right)}"
    if isinstance(condition, exp.Between):
        return f"{_value(left)} is between {_value(condition.args['low'])} and {_value(condition.args['high'])}"
    if isinstance(condition, exp.In) and condition.expressions:
        return f"{_value(left)} is one of {_and([_value(item) for item in condition.expressions])}"
    if isinstance(condition, exp.Is) and isinstance(right, exp.Null):
        return f"{_value(left)} is {'there' if condition.args.get('negate') else 'missing'}"
    return condition.sql("postgres")


def _order(item: exp.Expression, select: exp.Select) -> str:
    named = {value.alias: value for value in select.expressions if value.alias}
    value = _value(named.get(item.this.name, item.this))
    return f"highest {value} first" if item.args.get("desc") else f"lowest {value} first"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _and(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
