"""Aggregates, and what SQLite lets stand beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from sqlglot import exp
from sqlglot.optimizer.scope import find_all_in_scope

from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import arithmetic_value, lowered, number_or_null, stays_text, text_of
from text2sql.conversion.dialect.scope import Bound
from text2sql.conversion.dialect.tree import cast, coalesce, identifier, number, rule, selects, string, with_type
from text2sql.conversion.dialect.types import DOUBLE, TEXT, in_group, type_of


def is_aggregate(node: exp.Expression) -> bool:
    """Whether `node` is an aggregate function over the rows of a group (not a window function)."""
    parent = node.parent
    while isinstance(parent, exp.Filter):
        parent = parent.parent
    return isinstance(node, exp.AggFunc) and not isinstance(parent, exp.Window)


def own_of_result(select: exp.Select, classes: Any = exp.Expression) -> Iterator[Any]:
    """The nodes where aggregates and the columns beside them may stand: in the result, HAVING and ORDER BY."""
    for part in _result(select):
        yield from find_all_in_scope(part, classes)


def _result(select: exp.Select) -> list[exp.Expression]:
    return [*select.expressions, *(select.args[key] for key in ("having", "order") if select.args.get(key))]


def grouped(select: exp.Select) -> bool:
    """Whether it returns a row for each group (or a single one)."""
    return bool(select.args.get("group")) or any(map(is_aggregate, own_of_result(select)))


@rule(exp.Sum, exp.Avg, exp.Min, exp.Max, exp.GroupConcat, exp.Count, exp.Anonymous)
def aggregates(node: exp.Expression) -> exp.Expression | None:
    """sum and avg take texts for numbers and conditions for 1 and 0, total is 0.0 where sum is NULL, group_concat
    makes texts of its values."""
    if isinstance(node, exp.Sum | exp.Avg):
        return _sum(node)
    if isinstance(node, exp.Min | exp.Max):
        return _extreme(node)
    if isinstance(node, exp.GroupConcat):
        return _concatenated(node)
    if isinstance(node, exp.Count):
        return exp.Count(this=exp.Star(), big_int=True) if node.this is None else None
    return _total(node) if node.name.lower() == "total" else None


def distinct_without_case(tree: exp.Expression) -> exp.Expression:
    """DISTINCT takes texts that differ in case only for the same in a NOCASE column, and keeps any of them: grouping by
    the folded text does so too."""
    for select in selects(tree):
        folded = [p for p in select.expressions if type_of(p.unalias()).collation == "NOCASE"]
        if not select.args.get("distinct") or not folded:
            continue
        if grouped(select) or any(p.is_star for p in select.expressions):
            raise Rejected("DISTINCT of NOCASE columns beside groups or *")
        select.set("distinct", None)
        keys = []
        for projection in select.expressions:
            value = projection.unalias()
            if projection in folded:
                keys.append(lowered(value, replace(type_of(value), collation="")))
                if not isinstance(projection, exp.Alias):
                    projection.replace(exp.alias_(value.copy(), identifier(value.name), copy=False))
            else:
                keys.append(value.copy())
        select.set("group", exp.Group(expressions=keys))
    return tree


def _argument(node: exp.Expression) -> exp.Expression:
    return node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this


def _with_argument(node: exp.Expression, argument: exp.Expression) -> exp.Expression:
    distinct = isinstance(node.this, exp.Distinct)
    return type(node)(this=exp.Distinct(expressions=[argument.copy()]) if distinct else argument.copy())


def _sum(node: exp.Expression) -> exp.Expression | None:
    argument = _argument(node)
    value = arithmetic_value(argument)
    return None if value is argument else _with_argument(node, value)


def _total(node: exp.Expression) -> exp.Expression:
    total = exp.Sum(this=node.expressions[0].copy())
    total = _sum(total) or total
    total.parent = node.parent
    return coalesce(cast(total, "double precision"), number(0), replace(DOUBLE, nullable=False))


def _extreme(node: exp.Expression) -> exp.Expression | None:
    argument = _argument(node)
    type_ = type_of(argument)
    if type_.pg == "boolean":
        return _with_argument(node, cast(argument, "integer"))
    if not type_.mixed:
        return None
    if isinstance(node.parent, exp.Window):
        raise Rejected("window over a column that holds numbers and texts")
    # Numbers come before texts: the least number if there is one, the greatest text if there is one.
    numbers = cast(type(node)(this=number_or_null(argument)), "text")
    result = replace(type_, nullable=True, affinity="")
    if isinstance(node, exp.Min):
        return coalesce(numbers, exp.Min(this=argument.copy()), result)
    texts = exp.Filter(this=exp.Max(this=argument.copy()), expression=exp.Where(this=stays_text(argument)))
    return coalesce(texts, numbers, result)


def _concatenated(node: exp.GroupConcat) -> exp.Expression:
    value = node.this.this if isinstance(node.this, exp.Order) else node.this
    value = value.expressions[0] if isinstance(value, exp.Distinct) else value
    text, separator = text_of(value), node.args.get("separator")
    if text is not value:
        value.replace(text.copy())
    node.set("separator", string(",") if separator is None else text_of(separator).copy())
    return with_type(node, replace(TEXT, nullable=type_of(text).nullable or not in_group(node)))


# --- bare columns ----------------------------------------------------------------------------------------------------


def bare_columns(tree: exp.Expression) -> exp.Expression:
    """SQLite lets a column that is neither grouped nor aggregated stand beside aggregates: its value comes from the row
    of the one MIN or MAX, or else from any row of the group. PostgreSQL allows it only where a key decides it."""
    for select in selects(tree):
        if grouped(select):
            _mend(select)
    return tree


def _mend(select: exp.Select) -> None:
    if select.args.get("group"):
        _drop_constants(select, select.args["group"])
    if any(projection.is_star for projection in select.expressions):
        expand_star(select)
    group, bare = select.args.get("group"), _bare(select)
    if not bare or (group is None and _as_first_row(select)):
        return
    extreme = _the_extreme(select)
    for node in bare if group is None else _extend(select, group, bare):
        node.replace(_from_group(node, extreme))


def _drop_constants(select: exp.Select, group: exp.Group) -> None:
    """GROUP BY 'x' makes one group, if there are rows; PostgreSQL takes no constants other than places."""
    kept = []
    for item in group.expressions:
        if item.is_int or not isinstance(item, exp.Literal | exp.Null):
            kept.append(item)
    group.set("expressions", kept)
    if kept:
        return
    select.set("group", None)
    some = exp.GT(this=exp.Count(this=exp.Star(), big_int=True), expression=number(0))
    clause = select.args.get("having")
    select.set("having", exp.Having(this=some if clause is None else exp.and_(clause.this, some)))


def expand_star(select: exp.Select) -> None:
    """`*` beside a GROUP BY as the columns that it stands for."""
    columns: list[exp.Expression] = []
    for item in select.expressions:
        of_table = [item.meta["origin"]] if isinstance(item, exp.Column) and item.is_star else []
        origins = select.meta["scope"].origins if isinstance(item, exp.Star) else of_table
        columns += [_column(select, b) for o in origins for b in o.columns.values()] if origins else [item]
    select.set("expressions", columns)


def _group_keys(select: exp.Select) -> tuple[list[exp.Expression], set[Bound]]:
    """The grouped expressions, with aliases and places followed, and those that are columns."""
    group = select.args.get("group")
    items = []
    for item in group.expressions if group else ():
        if isinstance(item, exp.Literal):
            item = select.expressions[int(item.this) - 1].unalias()
        elif isinstance(item, exp.Column) and item.meta.get("alias") is not None:
            item = next((p.unalias() for p in select.expressions if p.alias == item.name), item)
        items.append(item.unnest() if isinstance(item, exp.Paren) else item)
    return items, {item.meta["bound"] for item in items if isinstance(item, exp.Column) and "bound" in item.meta}


def _bare(select: exp.Select) -> list[exp.Column]:
    """Columns outside aggregates that the groups do not determine for PostgreSQL."""
    items, columns = _group_keys(select)
    keyed = (origin for origin in select.meta["scope"].origins if origin.table and origin.table.primary_key)
    determined = {origin for origin in keyed if columns.issuperset(origin.bounds(origin.table.primary_key))}

    def is_free(node: exp.Column) -> bool:
        bound = node.meta.get("bound")
        return bound is not None and bound not in columns and bound.origin not in determined

    beside = [n for n in own_of_result(select, exp.Column) if n.meta.get("own") and not _inside(n, select, items)]
    return [*filter(is_free, beside), *filter(is_free, _outer_references(select))]


def _outer_references(select: exp.Select) -> list[exp.Column]:
    """Columns of `select` that queries inside its result or HAVING refer to."""
    queries = (query for part in _result(select) for query in part.find_all(exp.Select))
    columns = (column for query in queries for column in query.find_all(exp.Column) if column.meta.get("bound"))
    return [column for column in columns if column.meta["bound"].origin in select.meta["scope"].origins]


def _inside(node: exp.Expression, select: exp.Select, items: list[exp.Expression]) -> bool:
    """Whether `node` stands in an aggregate, or in an expression that is grouped by."""
    while node is not None and node is not select:
        if is_aggregate(node) or isinstance(node, exp.Filter) or node in items:
            return True
        node = node.parent
    return False


def _conditions(select: exp.Select) -> Iterable[exp.Expression]:
    """What every row of the query fulfils: the parts of WHERE and of the conditions of inner joins."""
    conditions = [select.args["where"].this] if select.args.get("where") else []
    for join in select.args.get("joins") or ():
        if join.args.get("on") is not None and not join.side:
            conditions.append(join.args["on"])
    for condition in conditions:
        yield from condition.flatten() if isinstance(condition, exp.And) else [condition]


def _equalities(select: exp.Select) -> list[set[Bound]]:
    """Pairs of columns that are equal in every row."""
    sides = [(part.this, part.expression) for part in _conditions(select) if isinstance(part, exp.EQ)]
    both = [pair for pair in sides if all(isinstance(side, exp.Column) and side.meta.get("bound") for side in pair)]
    return [{left.meta["bound"], right.meta["bound"]} for left, right in both]


def _equal_columns(select: exp.Select, columns: set[Bound]) -> set[Bound]:
    """`columns` and those that are equal to them, or constant, or in a row that they determine."""
    known, before = set(columns), -1
    for part in _conditions(select):
        if isinstance(part, exp.EQ) and isinstance(part.this, exp.Column) and isinstance(part.expression, exp.Literal):
            known.add(part.this.meta.get("bound"))
    pairs = _equalities(select)
    while len(known) != before:
        before = len(known)
        for pair in pairs:
            if known & pair:
                known |= pair
        for origin in select.meta["scope"].origins:
            if any(known.issuperset(origin.bounds(key)) for key in origin.identifying()):
                known.update(origin.columns.values())
    return known


def _extend(select: exp.Select, group: exp.Group, bare: list[exp.Column]) -> list[exp.Column]:
    """Add to GROUP BY the bare columns that the groups determine, or the primary key if it is shorter; returns the
    others."""
    _, columns = _group_keys(select)
    known = _equal_columns(select, columns)
    rest, added = [], []
    for node in bare:
        if node.meta["bound"] not in known:
            rest.append(node)
        elif node not in group.expressions and node not in added:
            added.append(node)
    for origin in dict.fromkeys(node.meta["bound"].origin for node in added):
        own = [node for node in added if node.meta["bound"].origin is origin]
        key = origin.bounds(origin.table.primary_key) if origin.table else []
        if len(key) == 1 and _swap_key(select, group, key[0]):
            continue
        for node in [_column(select, bound) for bound in key] if 0 < len(key) < len(own) else own:
            group.append("expressions", node.copy())
    return rest


def _swap_key(select: exp.Select, group: exp.Group, key: Bound) -> bool:
    """Group by a primary key instead of a column that equals it and stands nowhere else."""
    for item in group.expressions:
        bound = item.meta.get("bound")
        if bound is None or not any({bound, key} <= pair for pair in _equalities(select)):
            continue
        if any(c.meta.get("bound") is bound for part in _result(select) for c in part.find_all(exp.Column)):
            continue
        item.replace(_column(select, key))
        return True
    return False


def _column(select: exp.Select, bound: Bound) -> exp.Column:
    several = len(select.meta["scope"].origins) > 1
    column = exp.Column(this=identifier(bound.name), table=identifier(bound.origin.name) if several else None)
    column.meta.update(bound=bound, own=True)
    return column


def _the_extreme(select: exp.Select) -> exp.Expression | None:
    """The one MIN or MAX of the query, whose row the bare columns come from."""
    extremes = [node for node in own_of_result(select, exp.Min | exp.Max) if is_aggregate(node)]
    return extremes[0] if extremes and all(node == extremes[0] for node in extremes) else None


def _from_group(node: exp.Column, extreme: exp.Expression | None) -> exp.Expression:
    """A bare column's value: of the row with the least or greatest value, or of any row."""
    if extreme is not None and node == extreme.this:
        return extreme.copy()
    if extreme is None:
        return with_type(exp.AnyValue(this=node.copy()), type_of(node))
    ordered = exp.Ordered(this=_argument(extreme).copy(), desc=isinstance(extreme, exp.Max) or None)
    ordered.meta["nulls_last"] = True
    array = with_type(exp.ArrayAgg(this=exp.Order(this=node.copy(), expressions=[ordered])), TEXT)
    first = exp.Bracket(this=exp.Paren(this=array), expressions=[number(0)])  # sqlglot counts from 0
    return with_type(first, replace(type_of(node), nullable=True))


def _as_first_row(select: exp.Select) -> bool:
    """`SELECT name, max(age) FROM t` as `SELECT name, age FROM t ORDER BY age DESC LIMIT 1`, if that is the same:
    with rows for certain, and no other aggregate, HAVING, ORDER or LIMIT."""
    extreme = _the_extreme(select)
    others = ("having", "order", "limit", "offset", "distinct", "where", "joins")
    if extreme is None or any(select.args.get(key) for key in others) or isinstance(select.parent, exp.SetOperation):
        return False
    if isinstance(extreme.this, exp.Distinct) or isinstance(extreme.parent, exp.Filter) or type_of(extreme.this).mixed:
        return False
    if any(is_aggregate(node) and node != extreme for node in own_of_result(select)):
        return False
    if not all(origin.table is not None and origin.table.rows for origin in select.meta["scope"].origins):
        return False
    order = exp.Ordered(this=extreme.this.copy(), desc=isinstance(extreme, exp.Max) or None)
    order.meta["nulls_last"] = True
    for node in [node for node in own_of_result(select, type(extreme)) if node == extreme]:
        node.replace(order.this.copy())
    select.set("order", exp.Order(expressions=[order]))
    select.set("limit", exp.Limit(expression=number(1)))
    return True
