"""A query in one English sentence made of its parts, for people who do not read SQL.

A part that has no plain words is quoted as SQL; a query with parts that a sentence cannot hold (subqueries in FROM, set
operations, CTEs) is not explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.sql import parse_one, shallow

AGGREGATES = {exp.Sum: "sum of", exp.Avg: "average", exp.Max: "highest", exp.Min: "lowest"}
COMPARISONS = {
    exp.EQ: "is", exp.NEQ: "is not", exp.GT: "is over", exp.GTE: "is at least", exp.LT: "is under",
    exp.LTE: "is at most", exp.Like: "is like", exp.ILike: "is like",
}  # fmt: skip
#: what stands between two tables, by the side of the join; other joins have no plain words
JOINS = {"": "joined with", "LEFT": "with or without"}
#: parts of a SELECT that the sentence has, beside its expressions
TOLD = {"from_", "joins", "where", "group", "having", "order", "limit", "distinct", "kind", "expressions"}


def explain(sql: str) -> str:
    """The sentence; empty if the query is not one plain SELECT.

    >>> explain("select name, price from products where price > 5 order by price desc limit 3")
    'Name and price of products, where price is over 5, in descending order of price, only the first 3.'
    """
    try:
        with shallow():
            tree = parse_one(sql)
            if not isinstance(tree, exp.Select) or not _is_plain(tree):
                return ""
            sentence = _select(tree)
    except SqlglotError:
        return ""
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _is_plain(select: exp.Expression) -> bool:
    if not isinstance(select, exp.Select) or not select.args.get("from_"):
        return False
    joins = select.args.get("joins") or []
    return (
        all(isinstance(source.this, exp.Table) and source.this.name for source in (select.args["from_"], *joins))
        and all(join.side in JOINS and _links(join.args.get("on")) for join in joins)
        and all(key in TOLD for key, value in select.args.items() if value)
    )


def _links(on: exp.Expression | None) -> bool:
    """Whether a join has no condition but that columns are equal, which no sentence tells."""
    equal = list(on.flatten()) if isinstance(on, exp.And) else [on]
    return all(
        isinstance(one, exp.Boolean | None)
        or (isinstance(one, exp.EQ) and isinstance(one.left, exp.Column) and isinstance(one.right, exp.Column))
        for one in equal
    )


def _select(select: exp.Select) -> str:
    """A plain SELECT in words. Columns get their table's name where there are several, but for `order_id` of orders."""
    first, joins = select.args["from_"].this, select.args.get("joins") or []
    tables = {table.alias_or_name: _plain(table.name) for table in (first, *(join.this for join in joins))}
    for column in list(select.find_all(exp.Column)):
        if column.table in tables and column.find_ancestor(exp.Select) is select:
            table = tables[column.table]
            is_told = joins and not _plain(column.name).startswith(table.removesuffix("s"))
            column.set("table", exp.to_identifier(table) if is_told else None)
    distinct = "each different " if select.args.get("distinct") else ""
    grouped = group.expressions if (group := select.args.get("group")) else []
    shown = [value for value in select.expressions if value.unalias() not in grouped]
    # "for each city: number of customers", without the city again
    each, shown = (f"for each {_list(grouped)}: ", shown) if grouped and shown else ("", select.expressions)
    listed, source = _list(shown), _plain(first.name)
    if joins:
        for side, joined in groupby(joins, lambda join: join.side):
            source += f" {JOINS[side]} {_and([_plain(join.this.name) for join in joined])}"
        parts = [f"{each}{distinct}{listed}", f"from {source}"]
    else:
        # "number of customers", but "number of rows of staff"
        listed = listed.removesuffix(" of rows") if source.endswith("s") else listed
        parts = [f"{each}{distinct}{listed} of {source}"]
    if where := select.args.get("where"):
        parts.append(f"where {_condition(where.this)}")
    if grouped and not each:
        parts.append(f"for each {_list(grouped)}")
    if having := select.args.get("having"):
        parts.append(f"if its {_condition(having.this)}")
    if order := select.args.get("order"):
        parts.append(_and([_order(item, select) for item in order.expressions]))
    if limit := select.args.get("limit"):
        count = limit.args.get("count") or limit.expression  # of FETCH, where none is one row, or of LIMIT
        number = "1" if count is None else _value(count)
        parts.append("only the first" if number == "1" else f"only the first {number}")
    return ", ".join(parts)


def _list(values: Sequence[exp.Expression]) -> str:
    """Values in words, the table once for columns of one table that follow each other."""
    parts = []
    for table, group in groupby(values, lambda value: value.table if isinstance(value, exp.Column) else ""):
        items = list(group)
        if table:
            parts.append(f"{_and([_value(exp.column(item.this)) for item in items])} of {table}")
        else:
            parts += map(_value, items)
    return _and(parts)


def _value(value: exp.Expression) -> str:
    """A column, an aggregate or a literal in words."""
    inner = value.this
    if isinstance(value, exp.Alias | exp.Cast) or (isinstance(value, exp.Paren) and isinstance(inner, exp.Column)):
        return _value(inner)
    if isinstance(value, exp.Column):
        name = "all columns" if isinstance(inner, exp.Star) else _plain(value.name)
        return f"{name} of {value.table}" if value.table else name
    if isinstance(value, exp.Star):
        return "all columns"
    if isinstance(value, exp.Subquery) and _is_plain(inner):
        return f"({_select(inner)})"
    if isinstance(value, exp.Count):
        if isinstance(inner, exp.Distinct):
            return f"number of different {_list(inner.expressions)}"
        return "number of rows" if isinstance(inner, exp.Star) else f"number of rows with {_value(inner)}"
    if isinstance(value, exp.TimestampTrunc | exp.Extract):
        part, moment = (value.unit, inner) if isinstance(value, exp.TimestampTrunc) else (inner, value.expression)
        return f"{part.name.lower()} of {_value(moment)}"
    if type(value) in AGGREGATES and not isinstance(inner, exp.Distinct):
        return f"{AGGREGATES[type(value)]} {_value(inner)}"
    return value.sql("postgres")


def _condition(condition: exp.Expression, negated: bool = False) -> str:
    left, right = condition.this, condition.args.get("expression")
    negated ^= bool(condition.args.get("negate"))
    if isinstance(condition, exp.Not) and isinstance(left, exp.In | exp.Is | exp.Like | exp.ILike | exp.Between):
        return _condition(left, negated=True)
    if isinstance(condition, exp.And | exp.Or):
        word = "and" if isinstance(condition, exp.And) else "or"
        return f"{_condition(left)} {word} {_condition(right)}"
    if isinstance(condition, exp.Paren):
        return f"({_condition(left)})"
    if type(condition) in COMPARISONS:
        words = COMPARISONS[type(condition)]
        return f"{_value(left)} {words.replace('is', 'is not', 1) if negated else words} {_value(right)}"
    is_ = "is not" if negated else "is"
    if isinstance(condition, exp.Between):
        return f"{_value(left)} {is_} between {_value(condition.args['low'])} and {_value(condition.args['high'])}"
    if isinstance(condition, exp.In) and condition.expressions:
        return f"{_value(left)} is {'none' if negated else 'one'} of {_list(condition.expressions)}"
    if isinstance(condition, exp.In) and condition.args.get("query"):
        return f"{_value(left)} {is_} among {_value(condition.args['query'])}"
    if isinstance(condition, exp.Is) and isinstance(right, exp.Null):
        return f"{_value(left)} is {'there' if negated else 'missing'}"
    return (exp.not_(condition) if negated else condition).sql("postgres")


def _order(item: exp.Expression, select: exp.Select) -> str:
    named = {value.alias: value for value in select.expressions if value.alias}
    value = _value(named.get(item.this.name, item.this))
    return f"in {'descending ' if item.args.get('desc') else ''}order of {value}"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _and(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
