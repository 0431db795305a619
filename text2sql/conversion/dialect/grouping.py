"""Aggregates, and what SQLite lets stand beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import arithmetic_value, number_or_null, stays_text, text_of
from text2sql.conversion.dialect.scope import Bound, NameScope, Origin
from text2sql.conversion.dialect.tree import call, cast, identifier, number, rewrite, selects, string, with_type
from text2sql.conversion.dialect.types import DOUBLE, TEXT, in_group, type_of

AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max, exp.GroupConcat)
MADE = "aggregate"  # marks a PostgreSQL aggregate that a rule has written


def is_aggregate(node: exp.Expression) -> bool:
    """Whether `node` is an aggregate function over the rows of a group (not a window function)."""
    aggregates_rows = (
        isinstance(node, AGGREGATES) or bool(node.meta.get(MADE)) or _named(node) in ("total", "group_concat")
    )
    parent = node.parent
    while isinstance(parent, exp.Filter):
        parent = parent.parent
    return aggregates_rows and not isinstance(parent, exp.Window)


def _named(node: exp.Expression) -> str:
    return node.name.lower() if isinstance(node, exp.Anonymous) and "type" not in node.meta else ""


def own(root: exp.Expression, kinds: type | tuple[type, ...] = exp.Expression) -> Iterable[exp.Expression]:
    """The nodes below `root`, without those of queries inside it."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, exp.Query) and node is not root:
            continue
        if isinstance(node, kinds):
            yield node
        stack.extend(reversed(list(node.iter_expressions())))


def clauses(select: exp.Select) -> list[exp.Expression]:
    """Where aggregates and the columns beside them may stand."""
    parts = [*select.expressions, select.args.get("having"), select.args.get("order")]
    return [part for part in parts if part is not None]


def grouped(select: exp.Select) -> bool:
    """Whether it returns a row for each group (or a single one)."""
    if select.args.get("group"):
        return True
    return any(is_aggregate(node) for part in clauses(select) for node in own(part))


def aggregates(tree: exp.Expression) -> exp.Expression:
    """sum and avg take texts for numbers and conditions for 1 and 0, total is 0.0 where sum is NULL, group_concat
    makes texts of its values."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if "type" in node.meta:
            return None
        if isinstance(node, exp.Sum | exp.Avg):
            return _sum(node)
        if isinstance(node, exp.Min | exp.Max):
            return _extreme(node)
        if isinstance(node, exp.GroupConcat):
            return _concatenated(node)
        if isinstance(node, exp.Count):
            return _count(node)
        if _named(node) == "total":
            return _total(node)
        return None

    return rewrite(tree, change)


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
                keys.append(call("lower", text_of(value), type_=replace(type_of(value), collation="")))
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
    inner = _sum(exp.Sum(this=node.expressions[0].copy())) or exp.Sum(this=node.expressions[0].copy())
    inner.parent = node.parent
    total = exp.Coalesce(this=cast(inner, "double precision"), expressions=[number(0)])
    return with_type(total, replace(DOUBLE, nullable=False))


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
    if isinstance(node, exp.Min):
        texts = exp.Min(this=argument.copy())
        extreme = exp.Coalesce(this=numbers, expressions=[texts])
    else:
        texts = exp.Filter(this=exp.Max(this=argument.copy()), expression=exp.Where(this=stays_text(argument)))
        extreme = exp.Coalesce(this=texts, expressions=[numbers])
    return with_type(extreme, replace(type_, nullable=True, affinity=""))


def _count(node: exp.Count) -> exp.Expression | None:
    if node.this is None:
        return exp.Count(this=exp.Star(), big_int=True)
    if isinstance(node.this, exp.Distinct) and len(node.this.expressions) > 1:
        raise Rejected("count(DISTINCT ...) of several columns")
    return None


def _concatenated(node: exp.GroupConcat) -> exp.Expression:
    inner, order = node.this, None
    if isinstance(inner, exp.Order):
        order, inner = inner, inner.this
    distinct = isinstance(inner, exp.Distinct)
    value = text_of(inner.expressions[0] if distinct else inner)
    separator = node.args.get("separator")
    separator = string(",") if separator is None else text_of(separator)
    first: exp.Expression = exp.Distinct(expressions=[value.copy()]) if distinct else value.copy()
    last: exp.Expression = separator.copy()
    if order is not None:
        last = exp.Order(this=last, expressions=[o.copy() for o in order.expressions])
    joined = exp.Anonymous(this="string_agg", expressions=[first, last])
    joined.meta[MADE] = True
    if order is None and isinstance(separator, exp.Literal):
        joined.meta["separator"] = separator.this
    return with_type(joined, replace(TEXT, nullable=type_of(value).nullable or not in_group(node)))


# --- bare columns ----------------------------------------------------------------------------------------------------


def bare_columns(tree: exp.Expression) -> exp.Expression:
    """SQLite lets a column that is neither grouped nor aggregated stand beside aggregates: its value comes from the row
    of the one MIN or MAX, or else from any row of the group. PostgreSQL allows it only where a key decides it."""
    for select in selects(tree):
        if grouped(select):
            _mend(select)
    return tree


def _mend(select: exp.Select) -> None:
    group = select.args.get("group")
    if group is not None:
        _drop_constants(select, group)
        group = select.args.get("group")
    for part in select.expressions:
        if any(isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count) for node in own(part)):
            expand_star(select)
            break
    if group is None and not any(is_aggregate(n) for part in clauses(select) for n in own(part)):
        return
    bare = _bare(select)
    if not bare:
        return
    if group is None and _as_first_row(select):
        return
    extreme = _the_extreme(select)
    if group is not None:
        bare = _extend(select, group, bare)
    for node in bare:
        node.replace(_from_group(node, extreme))


def _drop_constants(select: exp.Select, group: exp.Group) -> None:
    """GROUP BY 'x' makes one group, if there are rows; PostgreSQL takes no constants other than places."""
    kept = []
    for item in group.expressions:
        if isinstance(item, exp.Literal) and not item.is_string:
            place = int(item.this)
            if not 1 <= place <= len(select.expressions):
                raise Rejected("GROUP BY place out of range")
            kept.append(item)
        elif not isinstance(item, exp.Literal | exp.Null):
            kept.append(item)
    if len(kept) == len(group.expressions):
        return
    if kept:
        group.set("expressions", kept)
        return
    select.set("group", None)
    some = exp.GT(this=exp.Count(this=exp.Star(), big_int=True), expression=number(0))
    clause = select.args.get("having")
    select.set("having", exp.Having(this=some if clause is None else exp.and_(clause.this, some)))


def expand_star(select: exp.Select) -> None:
    """`*` beside a GROUP BY as the columns that it stands for."""
    scope: NameScope = select.meta["scope"]
    columns: list[exp.Expression] = []
    for projection in select.expressions:
        origins: list[Origin] = []
        if isinstance(projection, exp.Star):
            origins = scope.origins
        elif isinstance(projection, exp.Column) and isinstance(projection.this, exp.Star):
            origins = [projection.meta["origin"]]
        if not origins:
            columns.append(projection)
        for origin in origins:
            columns += [_column(select, bound) for bound in origin.columns.values()]
    select.set("expressions", columns)


def _group_keys(select: exp.Select) -> tuple[list[exp.Expression], set[int]]:
    """The grouped expressions, with aliases and places followed, and the bounds (by id) that are grouped columns."""
    group = select.args.get("group")
    items = []
    for item in group.expressions if group else ():
        if isinstance(item, exp.Literal):
            item = select.expressions[int(item.this) - 1].unalias()
        elif isinstance(item, exp.Column) and item.meta.get("alias") is not None:
            item = next((p.unalias() for p in select.expressions if p.alias == item.name), item)
        items.append(item.unnest() if isinstance(item, exp.Paren) else item)
    columns = {id(item.meta["bound"]) for item in items if isinstance(item, exp.Column) and "bound" in item.meta}
    return items, columns


def _bare(select: exp.Select) -> list[exp.Column]:
    """Columns outside aggregates that the groups do not determine for PostgreSQL."""
    items, columns = _group_keys(select)
    known = _determined(select, columns, by_joins=False)
    bare = []
    for part in clauses(select):
        for node in own(part, exp.Column):
            bound = node.meta.get("bound")
            if bound is None or not node.meta.get("own") or id(bound) in columns or id(bound.origin) in known:
                continue
            if not _inside(node, select, items):
                bare.append(node)
    bare += [node for node in _outer_references(select) if id(node.meta["bound"]) not in columns
              and id(node.meta["bound"].origin) not in known]  # fmt: skip
    return bare


def _outer_references(select: exp.Select) -> list[exp.Column]:
    """Columns of `select` that queries inside its result or HAVING refer to."""
    origins = {id(origin) for origin in select.meta["scope"].origins}
    references = []
    for part in clauses(select):
        for query in part.find_all(exp.Select):
            for column in query.find_all(exp.Column):
                bound = column.meta.get("bound")
                if bound is not None and id(bound.origin) in origins:
                    references.append(column)
    return references


def _inside(node: exp.Expression, select: exp.Select, items: list[exp.Expression]) -> bool:
    """Whether `node` stands in an aggregate, or in an expression that is grouped by."""
    while node is not None and node is not select:
        if is_aggregate(node) or isinstance(node, exp.Filter) or node in items:
            return True
        if isinstance(node, exp.Window) and is_aggregate(node.this):
            return False
        node = node.parent
    return False


def _determined(select: exp.Select, columns: set[int], by_joins: bool) -> set[int]:
    """The origins (by id) of which a group holds one row only, because a key of theirs is grouped by.

    With `by_joins`, equalities between columns count too, which PostgreSQL does not see.
    """
    scope: NameScope = select.meta["scope"]
    known = set(columns)
    if by_joins:
        known = _equal_columns(select, known)
    determined: set[int] = set()
    for origin in scope.origins:
        keys = origin.keys() if by_joins else [origin.table.primary_key] if origin.table else []
        by_name = {bound.name: bound for bound in origin.columns.values()}
        if any(key and all(id(by_name[name]) in known for name in key) for key in keys):
            determined.add(id(origin))
    return determined


def _conditions(select: exp.Select) -> Iterable[exp.Expression]:
    """What every row of the query fulfils: the parts of WHERE and of the conditions of inner joins."""
    conditions = [select.args["where"].this] if select.args.get("where") else []
    for join in select.args.get("joins") or ():
        if join.args.get("on") is not None and not join.side:
            conditions.append(join.args["on"])
    for condition in conditions:
        yield from condition.flatten() if isinstance(condition, exp.And) else [condition]


def _equalities(select: exp.Select) -> list[tuple[int, int]]:
    """Pairs of bounds (by id) that are equal in every row."""
    pairs = []
    for part in _conditions(select):
        sides = (part.this, part.expression) if isinstance(part, exp.EQ) else ()
        if sides and all(isinstance(s, exp.Column) and s.meta.get("bound") for s in sides):
            pairs.append((id(sides[0].meta["bound"]), id(sides[1].meta["bound"])))
    return pairs


def _equal_columns(select: exp.Select, columns: set[int]) -> set[int]:
    """`columns` and those that are equal to them, or constant, or in a row that they determine."""
    scope: NameScope = select.meta["scope"]
    pairs = _equalities(select)
    for part in _conditions(select):
        if isinstance(part, exp.EQ) and isinstance(part.this, exp.Column) and isinstance(part.expression, exp.Literal):
            columns = columns | {id(part.this.meta.get("bound"))}
    known, before = set(columns), -1
    keys = {id(origin): origin.keys() for origin in scope.origins}
    while len(known) != before:
        before = len(known)
        for a, b in pairs:
            if a in known or b in known:
                known |= {a, b}
        for origin in scope.origins:
            by_name = {bound.name: bound for bound in origin.columns.values()}
            if any(all(id(by_name[name]) in known for name in key) for key in keys[id(origin)]):
                known |= {id(bound) for bound in origin.columns.values()}
    return known


def _extend(select: exp.Select, group: exp.Group, bare: list[exp.Column]) -> list[exp.Column]:
    """Add to GROUP BY the bare columns that the groups determine; returns the others."""
    _, columns = _group_keys(select)
    known = _equal_columns(select, columns)
    rest, added = [], []
    for node in bare:
        if id(node.meta["bound"]) not in known:
            rest.append(node)
        elif node not in group.expressions and node not in added:
            added.append(node)
    for origin in {id(n.meta["bound"].origin): n.meta["bound"].origin for n in added}.values():
        if not _swap_key(select, group, origin, added):
            _by_primary_key(select, group, origin, added)
    for node in added:
        group.append("expressions", node.copy())
    return rest


def _swap_key(select: exp.Select, group: exp.Group, origin: Origin, added: list[exp.Column]) -> bool:
    """Group by the primary key of `origin` instead of a column that equals it and stands nowhere else."""
    key = origin.table.primary_key if origin.table else ()
    if len(key) != 1:
        return False
    wanted = next(bound for bound in origin.columns.values() if bound.name == key[0])
    for item in group.expressions:
        bound = item.meta.get("bound")
        if bound is None or id(wanted) not in _same_column(select, bound):
            continue
        if any(c.meta.get("bound") is bound for part in clauses(select) for c in part.find_all(exp.Column)):
            continue
        item.replace(_column(select, wanted))
        added[:] = [n for n in added if n.meta["bound"].origin is not origin]
        return True
    return False


def _same_column(select: exp.Select, bound: Bound) -> set[int]:
    """The bounds (by id) that an equality of the query makes equal to `bound`."""
    pairs = [pair for pair in _equalities(select) if id(bound) in pair]
    return {other for pair in pairs for other in pair}


def _column(select: exp.Select, bound: Bound) -> exp.Column:
    several = len(select.meta["scope"].origins) > 1
    column = exp.Column(this=identifier(bound.name), table=identifier(bound.origin.name) if several else None)
    column.meta.update(bound=bound, own=True)
    return column


def _by_primary_key(select: exp.Select, group: exp.Group, origin: Origin, added: list[exp.Column]) -> None:
    """Group by the primary key of `origin` instead of several columns of it."""
    key = origin.table.primary_key if origin.table else ()
    if not key or len(key) >= sum(n.meta["bound"].origin is origin for n in added):
        return
    added[:] = [n for n in added if n.meta["bound"].origin is not origin]
    by_name = {bound.name: bound for bound in origin.columns.values()}
    added += [_column(select, by_name[name]) for name in key]


def _the_extreme(select: exp.Select) -> exp.Expression | None:
    """The one MIN or MAX of the query, whose row the bare columns come from."""
    extremes = [n for part in clauses(select) for n in own(part, exp.Min | exp.Max) if is_aggregate(n)]
    distinct = []
    for node in extremes:
        if node not in distinct:
            distinct.append(node)
    return distinct[0] if len(distinct) == 1 else None


def _from_group(node: exp.Column, extreme: exp.Expression | None) -> exp.Expression:
    """A bare column's value: of the row with the least or greatest value, or of any row.

    `any_of` in its meta are the arrays of what the value could as well be, and of what those are sorted by.
    """
    type_ = replace(type_of(node), nullable=True)
    if extreme is not None and node == extreme.this:
        return extreme.copy()
    if extreme is None:
        value: exp.Expression = exp.Anonymous(this="any_value", expressions=[node.copy()])
        value.meta["any_of"] = (_array(node.copy()), None)
        type_ = replace(type_, nullable=type_of(node).nullable)
    else:
        ordered = exp.Ordered(this=_argument(extreme).copy(), desc=isinstance(extreme, exp.Max) or None)
        ordered.meta["nulls_last"] = True
        array = _array(exp.Order(this=node.copy(), expressions=[ordered]))
        sorted_by = _array(exp.Order(this=_argument(extreme).copy(), expressions=[ordered.copy()]))
        value = exp.Bracket(this=exp.Paren(this=array), expressions=[number(1)])
        value.meta["any_of"] = (array.copy(), sorted_by)
    value.meta[MADE] = True
    return with_type(value, type_)


def _array(node: exp.Expression) -> exp.Expression:
    array = exp.Anonymous(this="array_agg", expressions=[node])
    array.meta[MADE] = True
    return with_type(array, TEXT)


def _as_first_row(select: exp.Select) -> bool:
    """`SELECT name, max(age) FROM t` as `SELECT name, age FROM t ORDER BY age DESC LIMIT 1`, if that is the same:
    with rows for certain, and no other aggregate, HAVING, ORDER or LIMIT."""
    extreme = _the_extreme(select)
    if extreme is None or any(select.args.get(k) for k in ("having", "order", "limit", "offset", "distinct")):
        return False
    if isinstance(extreme.this, exp.Distinct) or isinstance(extreme.parent, exp.Filter):
        return False
    if any(is_aggregate(n) and n != extreme for part in clauses(select) for n in own(part)):
        return False
    argument = extreme.this
    if type_of(argument).mixed or isinstance(select.parent, exp.SetOperation):
        return False
    if select.args.get("where") or select.args.get("joins") or not _has_rows(select):
        return False
    order = exp.Ordered(this=argument.copy(), desc=isinstance(extreme, exp.Max) or None)
    for part in list(select.expressions):
        for node in list(own(part, type(extreme))):
            if node == extreme:
                node.replace(argument.copy())
    select.set("order", exp.Order(expressions=[order]))
    select.set("limit", exp.Limit(expression=number(1)))
    order.meta["nulls_last"] = True
    return True


def _has_rows(select: exp.Select) -> bool:
    scope: NameScope = select.meta["scope"]
    return all(origin.table is not None and origin.table.rows > 0 for origin in scope.origins)


def having(tree: exp.Expression) -> exp.Expression:
    """HAVING without GROUP BY filters the one group of all rows, and without an aggregate SQLite refuses it or not,
    by its version; PostgreSQL takes it with aggregates only, as does this rule."""
    for select in selects(tree):
        clause = select.args.get("having")
        if clause is None or select.args.get("group"):
            continue
        if not any(is_aggregate(n) for part in clauses(select) for n in own(part)):
            raise Rejected("HAVING without GROUP BY and without an aggregate")
    return tree
