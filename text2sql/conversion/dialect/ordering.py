"""Order: of NULLs, of DISTINCT rows, of set operations; and LIMIT."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.databases.names import lower
from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import number_or_null, text_of
from text2sql.conversion.dialect.grouping import expand_star, grouped, own
from text2sql.conversion.dialect.tree import (
    cast,
    identifier,
    literal_number,
    number,
    rewrite,
    selects,
    with_type,
    wrap,
)
from text2sql.conversion.dialect.types import DATE_TYPES, TEXT, Type, type_of


def distinct_order(tree: exp.Expression) -> exp.Expression:
    """SQLite sorts DISTINCT rows by anything; PostgreSQL only by what is selected. Grouping by the selected columns
    makes them distinct as well, and a group can be sorted by the least (or greatest) value in it."""
    for select in selects(tree):
        order = select.args.get("order")
        if not select.args.get("distinct") or order is None:
            continue
        names = {lower(p.alias_or_name) for p in select.expressions}
        selected = [p.unalias() for p in select.expressions]
        if any(p.is_star for p in selected):
            starred = [p.meta["origin"] for p in selected if isinstance(p, exp.Column) and p.is_star]
            if not starred or all(b.meta["bound"].origin in starred for b in order.find_all(exp.Column)):
                continue  # every column is selected
            expand_star(select)
            names = {lower(p.alias_or_name) for p in select.expressions}
            selected = [p.unalias() for p in select.expressions]
        foreign = [o for o in order.expressions if not _is_selected(o.this, selected, names)]
        if not foreign:
            continue
        computed = [o for o in foreign if all(_is_selected(c, selected, names) for c in o.this.find_all(exp.Column))]
        if grouped(select):
            if _groups_are_distinct(select, selected):
                select.set("distinct", None)
                continue
            raise Rejected("DISTINCT groups sorted by something that is not selected")
        select.set("distinct", None)
        select.set("group", exp.Group(expressions=[item.copy() for item in selected]))
        for item in foreign:
            if item in computed:  # from the selected columns alone
                continue
            extreme = exp.Max if item.args.get("desc") else exp.Min
            choices = exp.Anonymous(this="array_agg", expressions=[item.this.copy()])
            item.meta["choices"] = with_type(choices, TEXT)  # of which SQLite takes any
            item.set("this", extreme(this=item.this.copy()))
    return tree


def _groups_are_distinct(select: exp.Select, selected: list[exp.Expression]) -> bool:
    """Whether all that is grouped by is selected, so that DISTINCT has nothing to remove."""
    group = select.args.get("group")
    return bool(group) and all(item in selected for item in group.expressions)


def _is_selected(node: exp.Expression, selected: list[exp.Expression], names: set[str]) -> bool:
    if literal_number(node) is not None or node in selected:
        return True
    if isinstance(node, exp.Column):
        bound = node.meta.get("bound")
        if bound is None:
            return lower(node.name) in names
        return any(isinstance(p, exp.Column) and p.meta.get("bound") is bound for p in selected)
    return False


def order_values(tree: exp.Expression) -> exp.Expression:
    """SQLite sorts by storage class: NULLs, numbers, texts. Where PostgreSQL holds the values as another type (texts
    that are integers, for a key's sake; numbers among texts), it sorts by the text, or numbers first."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if not isinstance(node, exp.Order):
            return None
        items: list[exp.Expression] = []
        for item in node.expressions:
            items += _sorted_by(item)
        node.set("expressions", items)
        return None

    return rewrite(tree, change)


def _sorted_by(item: exp.Ordered) -> list[exp.Expression]:
    type_ = type_of(item.this)
    if isinstance(item.this, exp.Literal):
        return [item]
    if type_.collation == "NOCASE" and type_.textual:
        item.set("this", exp.Lower(this=text_of(item.this).copy()))
        return [item]
    if type_.textual and type_.numeric:
        item.set("this", cast(item.this, "text"))
        return [item]
    if not type_.mixed or type_.pg != "text":
        return [item]
    column = item.this
    numbers = exp.Ordered(this=number_or_null(column).copy(), desc=item.args.get("desc"))
    texts = exp.Ordered(this=column.copy(), desc=item.args.get("desc"))
    numbers.meta["as_is"] = texts.meta["as_is"] = True
    if not type_.nullable:
        return [numbers, texts]
    missing = with_type(exp.Is(this=wrap(column), expression=exp.Null()), replace(TEXT, nullable=False))
    nulls = exp.Ordered(this=missing, desc=None if item.args.get("desc") else True)
    nulls.meta["as_is"] = True
    return [nulls, numbers, texts]


def null_order(tree: exp.Expression) -> exp.Expression:
    """NULLs are the least values for SQLite, the greatest for PostgreSQL: NULLS FIRST, or LAST where descending, if
    the sorted value can be NULL at all."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if not isinstance(node, exp.Ordered):
            return None
        descending = bool(node.args.get("desc"))
        node.set("desc", descending or None)
        nulls_first = node.args.get("nulls_first", not descending)
        if node.meta.get("nulls_last"):
            nulls_first = False
        plain = bool(node.meta.get("as_is")) or not _can_be_null(node)
        # What PostgreSQL does without a clause is what the generator leaves out.
        node.set("nulls_first", descending if plain else bool(nulls_first))
        return None

    return rewrite(tree, change)


def _can_be_null(node: exp.Ordered) -> bool:
    operand = node.this
    if isinstance(operand, exp.Literal) and not operand.is_string:
        select = node.find_ancestor(exp.Select, exp.SetOperation)
        if isinstance(select, exp.SetOperation) and "sides" in select.meta:
            return any(side[int(operand.this) - 1].nullable for side in select.meta["sides"])
        if isinstance(select, exp.Select) and int(operand.this) <= len(select.expressions):
            return type_of(select.expressions[int(operand.this) - 1].unalias()).nullable
        return True
    return type_of(operand).nullable


def set_operations(tree: exp.Expression) -> exp.Expression:
    """The sides of a set operation may differ in type in SQLite, and its ORDER BY may name a column of any side;
    PostgreSQL wants one type for each column, and the names of the first side."""
    for node in reversed(list(tree.find_all(exp.SetOperation))):
        left, right = node.meta.get("sides") or ([], [])
        for position, (a, b) in enumerate(zip(left, right, strict=True)):
            _unify(node, position, a, b)
        if node.args.get("order"):
            _order_by_first_names(node)
    return tree


def _unify(node: exp.SetOperation, position: int, a: Type, b: Type) -> None:
    if a.pg == b.pg or (a.numeric and b.numeric) or not a.classes or not b.classes:
        return
    if "unknown" in (a.pg, b.pg) and {a.pg, b.pg} & {"text", *DATE_TYPES} and a.form == b.form:
        return
    if {a.pg, b.pg} <= {"text", "unknown"}:
        return
    if not isinstance(node, exp.Union) and not (a.classes & b.classes):
        raise Rejected("INTERSECT or EXCEPT of columns of different types")
    for side in (node.left, node.right):
        select = side.unnest() if isinstance(side, exp.Subquery) else side
        if not isinstance(select, exp.Select) or position >= len(select.expressions):
            raise Rejected("set operation over columns of different types")
        projection = select.expressions[position]
        inner = projection.unalias()
        if isinstance(inner, exp.Star) or (isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star)):
            raise Rejected("set operation over columns of different types")
        both_numbers = all(t.numeric or t.pg == "boolean" for t in (a, b))
        unified = cast(inner, "integer") if both_numbers and type_of(inner).pg == "boolean" else inner
        unified = unified if both_numbers else text_of(inner)
        if unified is inner:
            continue
        if isinstance(projection, exp.Alias):
            projection.set("this", unified.copy())
        else:
            named = inner.name if isinstance(inner, exp.Column) else ""
            projection.replace(exp.alias_(unified.copy(), identifier(lower(named))) if named else unified.copy())


def _order_by_first_names(node: exp.SetOperation) -> None:
    first = node.left
    while not isinstance(first, exp.Select):
        first = first.this if isinstance(first, exp.Subquery | exp.SetOperation) else first.left
    names = [lower(p.alias_or_name) for p in first.expressions]
    for item in node.args["order"].expressions:
        column = item.this
        if isinstance(column, exp.Literal):
            continue
        if not isinstance(column, exp.Column):
            raise Rejected("a set operation sorted by an expression")
        wanted = lower(column.name)
        if column.args.get("table"):
            column.set("table", None)
        if wanted not in names:
            position = _position(node, wanted)
            item.set("this", number(position))
            item.this.meta["type"] = type_of(column)


def _position(node: exp.SetOperation, name: str) -> int:
    """The place of a column that only a later side calls `name`."""
    for side in node.find_all(exp.Select):
        for place, projection in enumerate(side.expressions, start=1):
            if lower(projection.alias_or_name) == name:
                return place
    raise Rejected("a set operation sorted by a column that it does not return")


def limits(tree: exp.Expression) -> exp.Expression:
    """A negative LIMIT is none, a negative OFFSET is 0, and either may be written as a text."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if not isinstance(node, exp.Limit | exp.Offset):
            return None
        value = literal_number(node.expression)
        if value is None and isinstance(node.expression, exp.Literal):
            value = int(node.expression.this) if node.expression.this.lstrip("-").isdigit() else None
        if value is None:
            if any(own(node, exp.Column)):
                raise Rejected("LIMIT by a column")
            return None
        if value != int(value):
            raise Rejected("LIMIT that is no integer")
        owner = node.parent
        if value < 0 or (isinstance(node, exp.Offset) and value == 0):
            owner.set("limit" if isinstance(node, exp.Limit) else "offset", None)
            return None
        node.set("expression", number(int(value)))
        return None

    return rewrite(tree, change)


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
