"""Which column each name of a query means, by SQLite's rules of resolution, and what is known of it.

`bind` goes through a parsed query once and leaves on each `Column` node a `Bound` (in its `meta`), and on each
`Select` its `NameScope`. The rules then ask `types.type_of`; they never look a name up again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sqlglot import exp

from text2sql.conversion.databases.names import lower
from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.types import Type, type_of, type_of_column, union_type
from text2sql.schema import Schema, Table

ROWID = {"rowid", "oid", "_rowid_"}


class _Shared:
    """Nodes are copied with what hangs on them; these objects are shared by the copies."""

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


@dataclass(eq=False)
class Bound(_Shared):
    """What a column name refers to: a column of `origin` called `name` in PostgreSQL."""

    name: str
    type: Type
    origin: Origin


@dataclass(eq=False)
class Origin(_Shared):
    """An item of FROM: a table, or a derived table (`table` is None).

    `alias` is what the query calls it, in lower case; `name` what PostgreSQL does.
    """

    alias: str
    name: str = ""
    columns: dict[str, Bound] = field(default_factory=dict)
    table: Table | None = None

    def bounds(self, names: Iterable[str]) -> list[Bound]:
        """The columns of these PostgreSQL names."""
        by_name = {bound.name: bound for bound in self.columns.values()}
        return [by_name[name] for name in names]

    def identifying(self) -> list[tuple[str, ...]]:
        """The column sets (PostgreSQL names) that identify a row of it."""
        if self.table is None:
            return []
        single = [(column.name,) for column in self.table.columns if column.unique and not column.has_nulls]
        primary = [self.table.primary_key] if self.table.primary_key else []
        return primary + single


@dataclass(eq=False)
class NameScope(_Shared):
    """The names that a SELECT can see."""

    schema: Schema
    parent: NameScope | None = None
    ctes: dict[str, list[tuple[str, Type]]] = field(default_factory=dict)
    origins: list[Origin] = field(default_factory=list)
    aliases: dict[str, exp.Expression] = field(default_factory=dict)
    #: columns that USING or NATURAL merged: not ambiguous
    merged: set[str] = field(default_factory=set)

    def find(self, name: str, table: str) -> tuple[Bound | None, bool]:
        """The column of that (lower-case) name in this SELECT or an enclosing one; and whether it is this one's."""
        origins = [o for o in self.origins if name in o.columns and (not table or o.alias == table)]
        candidates = [origin.columns[name] for origin in origins]
        if len(candidates) > 1 and not table and name not in self.merged:
            raise Rejected(f"column {name} is ambiguous")
        if candidates:
            return candidates[0], True
        if self.parent is not None:
            return self.parent.find(name, table)[0], False
        return None, False

    def cte(self, name: str) -> list[tuple[str, Type]] | None:
        """The columns of the common table expression of that name."""
        return self.ctes.get(name) or (self.parent.cte(name) if self.parent else None)


Columns = list[tuple[str, Type]]


def bind(query: exp.Query, schema: Schema) -> None:
    """Resolve every name of `query`.

    Raises:
        Rejected: a table or column that the schema does not have, or an ambiguous name.
    """
    _query(query, NameScope(schema))


def _query(node: exp.Expression, parent: NameScope) -> Columns:
    """Bind a SELECT, a set operation, VALUES, or either in parentheses; returns its columns."""
    if isinstance(node, exp.Subquery):
        return _query(node.this, parent)
    if isinstance(node, exp.SetOperation):
        return _set_operation(node, parent)
    return _values(node, parent) if isinstance(node, exp.Values) else _select(node, parent)


def _values(node: exp.Values, parent: NameScope) -> Columns:
    _walk(node, parent)
    columns = zip(*(row.expressions for row in node.expressions), strict=True)
    return [(f"column{i}", union_type([*map(type_of, column)])) for i, column in enumerate(columns, start=1)]


def _set_operation(node: exp.SetOperation, parent: NameScope) -> Columns:
    scope = NameScope(parent.schema, parent)
    _with(node, scope)
    left, right = _query(node.left, scope), _query(node.right, scope)
    columns = [(name, union_type([a, b])) for (name, a), (_, b) in zip(left, right, strict=True)]
    node.meta["sides"] = ([t for _, t in left], [t for _, t in right])
    # ORDER BY of a set operation sees the result's columns, by the names that any side gives them.
    result = Origin("")
    for (name, type_), (other, _) in zip(columns, right, strict=True):
        bound = Bound(lower(name), type_, result)
        for side in (name, other):
            result.columns.setdefault(lower(side), bound)
    order = NameScope(parent.schema, None, origins=[result])
    for key in ("order", "limit", "offset"):
        if node.args.get(key):
            _walk(node.args[key], order)
    return columns


def _with(node: exp.Expression, scope: NameScope) -> None:
    clause = node.args.get("with_")
    for cte in clause.expressions if clause else ():
        name = lower(cte.alias)
        names = [column.name for column in cte.args["alias"].args.get("columns") or ()]
        if clause.args.get("recursive") and isinstance(cte.this, exp.SetOperation):
            first = _query(cte.this.left.copy(), scope)
            scope.ctes[name] = [(n, replace(t, nullable=True)) for n, t in _renamed(first, names)]
        scope.ctes[name] = _renamed(_query(cte.this, scope), names)


def _renamed(columns: Columns, names: list[str]) -> Columns:
    return [(name, type_) for name, (_, type_) in zip(names, columns, strict=True)] if names else columns


def _select(node: exp.Select, parent: NameScope) -> Columns:
    scope = NameScope(parent.schema, parent)
    node.meta["scope"] = scope
    _with(node, scope)
    if source := node.args.get("from_"):
        _add(source.this, scope)
    joins = node.args.get("joins") or []
    for join in joins:
        _join(join, scope)
    for join in joins:
        if join.args.get("on") is not None:  # it may name tables that come later
            _walk(join.args["on"], scope, aliases=True)
    for projection in node.expressions:
        if isinstance(projection, exp.Alias):
            scope.aliases.setdefault(lower(projection.alias), projection.this)
    for projection in node.expressions:
        _walk(projection, scope)
    for key in ("where", "group", "having", "order", "windows", "limit", "offset"):
        part = node.args.get(key)
        for one in part if isinstance(part, list) else [] if part is None else [part]:
            _walk(one, scope, aliases=True)
    node.meta["outputs"] = [p.alias_or_name for p in node.expressions]
    return list(_outputs(node, scope))


def _join(join: exp.Join, scope: NameScope) -> None:
    before = list(scope.origins)
    _add(join.this, scope)
    added = scope.origins[len(before) :]
    side = (join.side or "").upper()
    if side in ("LEFT", "FULL"):
        _make_outer(added)
    if side in ("RIGHT", "FULL"):
        _make_outer(before)
    shared = [lower(i.name) for i in join.args.get("using") or ()]
    if (join.method or "").upper() == "NATURAL":
        known = {name for origin in before for name in origin.columns}
        shared = [name for origin in added for name in origin.columns if name in known]
    join.meta["shared"] = shared
    join.meta["origins"] = added
    scope.merged.update(shared)


def _make_outer(origins: list[Origin]) -> None:
    for bound in (bound for origin in origins for bound in origin.columns.values()):
        bound.type = replace(bound.type, nullable=True)


def _add(item: exp.Expression, scope: NameScope) -> None:
    """Add an item of FROM to the scope."""
    if isinstance(item, exp.Table):
        _add_table(item, scope)
    elif isinstance(item, exp.Subquery) and isinstance(item.this, exp.Table):
        _add(item.this, scope)  # a join in parentheses
    elif isinstance(item, exp.Subquery | exp.Values):
        inner = item.this if isinstance(item, exp.Subquery) else item
        alias = item.args.get("alias")
        names = [c.name for c in alias.args.get("columns") or ()] if alias else []
        columns = _renamed(_query(inner, NameScope(scope.schema, scope.parent, scope.ctes)), names)
        scope.origins.append(_derived(lower(item.alias), columns))
        item.meta["origin"] = scope.origins[-1]
    else:
        raise Rejected(f"{type(item).__name__} in FROM")
    for join in item.args.get("joins") or ():
        _join(join, scope)
        if join.args.get("on") is not None:
            _walk(join.args["on"], scope, aliases=True)


def _derived(alias: str, columns: Columns) -> Origin:
    origin = Origin(alias, alias)
    for name, type_ in columns:
        origin.columns.setdefault(lower(name), Bound(lower(name), type_, origin))
    return origin


def _add_table(item: exp.Table, scope: NameScope) -> None:
    if not isinstance(item.this, exp.Identifier):
        raise Rejected(f"table function {item.this.name or item.this.sql()}")
    name, alias = lower(item.name), lower(item.alias)
    columns = None if item.args.get("db") else scope.cte(name)
    if columns is not None:
        scope.origins.append(_derived(alias or name, columns))
        item.meta["origin"] = scope.origins[-1]
        return
    table = next((t for t in scope.schema.tables if lower(t.source) == name), None)
    if table is None or lower(item.text("db")) not in ("", "main"):
        raise Rejected(f"no such table: {item.name}")
    item.meta["table"] = table
    explicit = item.args.get("alias") is not None
    origin = Origin(alias or name, alias if explicit else table.name, table=table)
    for column in table.columns:
        origin.columns[lower(column.source)] = Bound(column.name, type_of_column(column), origin)
    scope.origins.append(origin)


def _walk(node: exp.Expression, scope: NameScope, aliases: bool = False) -> None:
    """Bind the columns below `node`; queries below it get scopes of their own."""
    if isinstance(node, exp.Query):
        node.meta["columns"] = _query(node, scope)
        return
    if isinstance(node, exp.Column):
        _column(node, scope, aliases)
        return
    if isinstance(node, exp.In) and isinstance(node.args.get("field"), exp.Column):  # x IN t: all that t holds
        table = exp.Table(this=node.args["field"].this)
        node.set("field", None)
        node.set("query", exp.Subquery(this=exp.Select(expressions=[exp.Star()]).from_(table)))
    for child in list(node.iter_expressions()):
        _walk(child, scope, aliases)


def _column(node: exp.Column, scope: NameScope, aliases: bool) -> None:
    name, table = lower(node.name), lower(node.table)
    if node.is_star:
        node.meta["origin"] = next(origin for origin in scope.origins if origin.alias == table)
        return
    is_alias = aliases and not table and name in scope.aliases
    is_sorted_by = isinstance(node.parent, exp.Ordered) and isinstance(node.parent.parent.parent, exp.Select)
    # ORDER BY looks at the result's names first
    bound, own = (None, False) if is_alias and is_sorted_by else scope.find(name, table)
    if bound is not None:
        node.meta.update(bound=bound, own=own)
    elif is_alias:
        node.meta["alias"] = scope.aliases[name]
    elif node.this.quoted and not table:
        node.meta["text"] = node.name
    elif name in ROWID:
        node.meta.update(bound=_rowid(table, scope), own=True)
    else:
        raise Rejected(f"no such column: {node.name}")


def _rowid(alias: str, scope: NameScope) -> Bound:
    """The integer primary key that rowid is another name of. That it was declared INTEGER, and not INT, the schema does
    not tell: the proof does."""
    origins = [o for o in scope.origins if o.table is not None and alias in ("", o.alias)]
    keys = origins[0].bounds(origins[0].table.primary_key) if len(origins) == 1 else []
    if len(keys) != 1 or keys[0].type.affinity != "integer" or not keys[0].type.integral:
        raise Rejected("rowid: PostgreSQL's rows have no number, and it is no other name of a key here")
    return keys[0]


def _outputs(node: exp.Select, scope: NameScope) -> Iterator[tuple[str, Type]]:
    """Names and types of the result's columns, `*` expanded."""
    for projection in node.expressions:
        if isinstance(projection, exp.Star):
            seen: set[str] = set()
            for origin in scope.origins:
                for name, bound in origin.columns.items():
                    if name not in seen or name not in scope.merged:
                        yield bound.name, bound.type
                    seen.add(name)
        elif isinstance(projection, exp.Column) and projection.is_star:
            yield from ((bound.name, bound.type) for bound in projection.meta["origin"].columns.values())
        else:
            yield projection.alias_or_name or "?", type_of(projection.unalias())
