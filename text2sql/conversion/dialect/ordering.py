"""Order: of NULLs, of DISTINCT rows, of set operations; and LIMIT."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.databases.names import lower
from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import common, number_or_null, text_of
from text2sql.conversion.dialect.grouping import expand_star, grouped
from text2sql.conversion.dialect.tree import (
    call,
    cast,
    identifier,
    is_null,
    literal_number,
    number,
    rule,
    selects,
    with_type,
)
from text2sql.conversion.dialect.types import TEXT, Type, type_of


def distinct_order(tree: exp.Expression) -> exp.Expression:
    """SQLite sorts DISTINCT rows by anything; PostgreSQL only by what is selected. Grouping by the selected columns
    makes them distinct as well, and a group can be sorted by the least (or greatest) value in it."""
    for select in selects(tree):
        order = select.args.get("order")
        if not select.args.get("distinct") or order is None:
            continue
        starred = [p for p in (p.unalias() for p in select.expressions) if p.is_star]
        origins = [p.meta["origin"] for p in starred if isinstance(p, exp.Column)]
        if starred and (not origins or all(c.meta["bound"].origin in origins for c in order.find_all(exp.Column))):
            continue  # every column is selected
        if starred:
            expand_star(select)
        selected = [p.unalias() for p in select.expressions]
        names = {lower(p.alias_or_name) for p in select.expressions}
        foreign = [o for o in order.expressions if not _is_selected(o.this, selected, names)]
        if not foreign:
            continue
        select.set("distinct", None)
        if grouped(select):  # where all that is grouped by is selected, no two rows are the same
            group = select.args.get("group")
            if not group or not all(item in selected for item in group.expressions):
                raise Rejected("DISTINCT groups sorted by something that is not selected")
            continue
        select.set("group", exp.Group(expressions=[item.copy() for item in selected]))
        for item in foreign:
            if not all(_is_selected(c, selected, names) for c in item.this.find_all(exp.Column)):
                extreme = exp.Max if item.args.get("desc") else exp.Min
                item.meta["choices"] = call("array_agg", item.this, type_=TEXT)  # of which SQLite takes any
                item.set("this", extreme(this=item.this.copy()))
    return tree


def _is_selected(node: exp.Expression, selected: list[exp.Expression], names: set[str]) -> bool:
    if literal_number(node) is not None or node in selected:
        return True
    if isinstance(node, exp.Column):
        bound = node.meta.get("bound")
        if bound is None:
            return lower(node.name) in names
        return any(isinstance(p, exp.Column) and p.meta.get("bound") is bound for p in selected)
    return False


@rule(exp.Order, typed=True)
def order_values(node: exp.Order) -> None:
    """SQLite sorts by storage class: NULLs, numbers, texts. Where PostgreSQL holds the values as another type (texts
    that are integers, for a key's sake; numbers among texts), it sorts by the text, or numbers first."""
    node.set("expressions", [key for item in node.expressions for key in _sort_keys(item)])


def _sort_keys(item: exp.Ordered) -> list[exp.Expression]:
    type_, value, descending = type_of(item.this), item.this, item.args.get("desc")
    if isinstance(value, exp.Literal):
        return [item]
    if type_.collation == "NOCASE" and type_.textual:
        item.set("this", exp.Lower(this=text_of(value).copy()))
    elif type_.textual and type_.numeric:
        item.set("this", cast(value, "text"))
    elif type_.mixed and type_.pg == "text":
        keys = [exp.Ordered(this=key.copy(), desc=descending) for key in (number_or_null(value), value)]
        if type_.nullable:
            missing = with_type(is_null(value), replace(TEXT, nullable=False))
            keys.insert(0, exp.Ordered(this=missing, desc=None if descending else True))
        for key in keys:
            key.meta["as_is"] = True
        return keys
    return [item]


@rule(exp.Ordered, typed=True)
def null_order(node: exp.Ordered) -> None:
    """NULLs are the least values for SQLite, the greatest for PostgreSQL: NULLS FIRST, or LAST where descending, if
    the sorted value can be NULL at all."""
    descending = bool(node.args.get("desc"))
    node.set("desc", descending or None)
    nulls_first = node.args.get("nulls_first", not descending) and not node.meta.get("nulls_last")
    plain = bool(node.meta.get("as_is")) or not _can_be_null(node)
    # What PostgreSQL does without a clause is what the generator leaves out.
    node.set("nulls_first", descending if plain else bool(nulls_first))


def _can_be_null(node: exp.Ordered) -> bool:
    operand = node.this
    if isinstance(operand, exp.Literal) and operand.is_int:
        select, place = node.find_ancestor(exp.Select, exp.SetOperation), int(operand.this) - 1
        if isinstance(select, exp.SetOperation):
            return any(side[place].nullable for side in select.meta["sides"])
        return place >= len(select.expressions) or type_of(select.expressions[place].unalias()).nullable
    return type_of(operand).nullable


def set_operations(tree: exp.Expression) -> exp.Expression:
    """The sides of a set operation may differ in type in SQLite, and its ORDER BY may name a column of any side;
    PostgreSQL wants one type for each column, and the names of the first side."""
    for node in reversed(list(tree.find_all(exp.SetOperation))):
        for position, (a, b) in enumerate(zip(*node.meta["sides"], strict=True)):
            _unify(node, position, a, b)
        for item in node.args["order"].expressions if node.args.get("order") else ():
            if isinstance(item.this, exp.Column):
                item.this.set("table", None)
            elif not isinstance(item.this, exp.Literal):
                raise Rejected("a set operation sorted by an expression")
    return tree


def _unify(node: exp.SetOperation, position: int, a: Type, b: Type) -> None:
    stand_ins = [with_type(exp.column("stand_in"), side) for side in (a, b)]
    if common(stand_ins) is stand_ins:
        return
    if not isinstance(node, exp.Union) and not (a.classes & b.classes):
        raise Rejected("INTERSECT or EXCEPT of columns of different types")
    selects_ = [side.unnest() for side in (node.left, node.right)]
    if any(not isinstance(s, exp.Select) or any(p.is_star for p in s.expressions) for s in selects_):
        raise Rejected("set operation over columns of different types")
    values = [select.expressions[position].unalias() for select in selects_]
    for value, unified in zip(values, common(values), strict=True):
        if unified is not value:
            name = value.name if isinstance(value, exp.Column) and not isinstance(value.parent, exp.Alias) else ""
            value.replace(exp.alias_(unified.copy(), identifier(lower(name))) if name else unified.copy())


@rule(exp.Limit, exp.Offset, typed=True)
def limits(node: exp.Limit | exp.Offset) -> None:
    """A negative LIMIT is none, and a negative OFFSET is 0."""
    value = literal_number(node.expression)
    if value is not None and (value < 0 or (isinstance(node, exp.Offset) and value == 0)):
        node.parent.set("limit" if isinstance(node, exp.Limit) else "offset", None)
    elif value is not None:
        node.set("expression", number(int(value)))


def first_rows(tree: exp.Expression) -> exp.Expression:
    """A query used as a value gives its first row in SQLite; more than one is an error in PostgreSQL. LIMIT 1 says the
    same, and is written only where PostgreSQL has met that error: mostly there is but one row."""
    for node in tree.find_all(exp.Subquery):
        inner = node.this
        as_value = not isinstance(node.parent, exp.From | exp.Join | exp.In | exp.Exists | exp.SetOperation)
        if not as_value or not isinstance(inner, exp.Select) or inner.args.get("limit"):
            continue
        if inner.args.get("group") or not grouped(inner):
            inner.set("limit", exp.Limit(expression=number(1)))
    return tree
