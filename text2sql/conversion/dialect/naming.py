"""Names and literals: what a name is, how PostgreSQL has it written, and where an alias is known."""

from __future__ import annotations

from sqlglot import exp

from text2sql.conversion.databases.names import lower
from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.comparisons import COMPARISONS
from text2sql.conversion.dialect.scope import Bound, Origin
from text2sql.conversion.dialect.tree import identifier, rule, selects, string, wrap


@rule(exp.Column)
def string_literals(node: exp.Column) -> exp.Expression | None:
    """A name in double quotes that is no column is a text literal for SQLite; for PostgreSQL it is always a name."""
    return string(node.meta["text"]) if "text" in node.meta else None


@rule(exp.Column, exp.Table, exp.Alias, exp.TableAlias, exp.Join)
def names(node: exp.Expression) -> None:
    """Names have no case in SQLite, whatever the quotes; PostgreSQL folds unquoted ones to lower case. All are written
    in lower case and unquoted, unless PostgreSQL must have quotes."""
    if isinstance(node, exp.Column) and node.is_star:
        node.set("table", identifier(node.meta["origin"].name))
    elif isinstance(node, exp.Column):
        bound = node.meta.get("bound")
        node.set("this", identifier(bound.name if bound else lower(node.name)))
        node.set("db", None)
        if node.args.get("table"):
            node.set("table", identifier(bound.origin.name if bound else lower(node.table)))
    elif isinstance(node, exp.Table):
        table = node.meta.get("table")
        node.set("this", identifier(table.name if table else lower(node.name)))
        node.set("db", None)
        node.set("indexed", None)
    elif isinstance(node, exp.Alias):
        node.set("alias", identifier(lower(node.alias)))
    elif isinstance(node, exp.TableAlias):
        if node.this is not None:
            node.set("this", identifier(lower(node.name)))
        node.set("columns", [identifier(lower(c.name)) for c in node.args.get("columns") or ()])
    elif node.args.get("using"):
        node.set("using", [_shared(node, i) for i in node.args["using"]])


def _shared(join: exp.Join, name: exp.Expression) -> exp.Identifier:
    table = join.this.meta.get("table")
    columns = table.columns if table else ()
    return identifier(next((c.name for c in columns if lower(c.source) == lower(name.name)), lower(name.name)))


@rule(exp.Column)
def aliases(node: exp.Column) -> exp.Expression | None:
    """SQLite knows the result's names in WHERE, GROUP BY, HAVING and inside expressions of ORDER BY; PostgreSQL only
    as a whole item of GROUP BY or ORDER BY. Elsewhere the expression itself is written."""
    alias, parent = node.meta.get("alias"), node.parent
    if alias is None or isinstance(parent, exp.Group):
        return None
    if isinstance(parent, exp.Ordered) and isinstance(parent.parent.parent, exp.Select):
        return None
    plain = isinstance(parent, (exp.Func, *COMPARISONS, exp.Ordered)) and not isinstance(alias, exp.Predicate)
    return alias.copy() if plain else wrap(alias)


def joins(tree: exp.Expression) -> exp.Expression:
    """A JOIN without ON pairs all rows, a comma binds like a JOIN, and ON may name tables that are joined later;
    PostgreSQL wants CROSS JOIN, a comma binds less there, and ON sees what stands before it. INNER and OUTER say
    nothing."""
    for select in selects(tree):
        _move_conditions(select.args.get("joins") or [])
    for join in reversed(list(tree.find_all(exp.Join))):
        _plain(join)
    for select in selects(tree):
        if all(join.kind == "CROSS" for join in select.args.get("joins") or ()):
            for join in select.args.get("joins") or ():
                join.set("kind", None)  # pairs throughout: commas, as they are mostly written
    return tree


def _move_conditions(joined: list[exp.Join]) -> None:
    """Move conditions that name a table joined later to the join of that table."""
    for place, join in enumerate(joined):
        condition = join.args.get("on")
        if condition is None:
            continue
        later = {o: n for n in range(place + 1, len(joined)) for o in joined[n].meta["origins"]}
        parts = list(condition.flatten()) if isinstance(condition, exp.And) else [condition]
        targets = [max((later.get(b.origin, place) for b in _bounds(part)), default=place) for part in parts]
        if all(target == place for target in targets):
            continue
        if any(j.side for j in joined):
            raise Rejected("an outer join whose condition names a table that is joined later")
        kept = [part for part, target in zip(parts, targets, strict=True) if target == place]
        for part, target in zip(parts, targets, strict=True):
            if target != place:
                there = joined[target].args.get("on")
                joined[target].set("on", part.copy() if there is None else exp.and_(there, part.copy(), copy=False))
        join.set("on", exp.and_(*kept) if kept else None)


def _bounds(node: exp.Expression) -> list[Bound]:
    return [column.meta["bound"] for column in node.find_all(exp.Column) if "bound" in column.meta]


def _plain(join: exp.Join) -> None:
    on, method = join.args.get("on"), (join.method or "").upper()
    if isinstance(on, exp.Boolean) and on.this and not join.side:  # what the parser adds
        join.set("on", None)
    conditional = join.args.get("on") is not None or join.args.get("using")
    if join.kind.upper() in ("INNER", "OUTER") or (join.kind.upper() == "CROSS" and conditional):
        join.set("kind", None)
    if not conditional and not join.side and not method:
        join.set("kind", "CROSS")
    if not method and not join.args.get("using"):
        return
    # USING and NATURAL compare columns without a place for a cast
    scope = join.find_ancestor(exp.Select).meta["scope"]
    for name in join.meta.get("shared", ()):
        types = {origin.columns[name].type.pg for origin in scope.origins if name in origin.columns}
        if len(types) > 1 and not types <= {"integer", "bigint", "numeric", "double precision"}:
            raise Rejected(f"USING or NATURAL JOIN over columns of different types: {name}")


def derived_names(tree: exp.Expression) -> exp.Expression:
    """A column of a derived table keeps its name whatever expression it has become, where the query refers to it."""
    used: dict[Origin, set[str]] = {}
    for bound in _bounds(tree):
        used.setdefault(bound.origin, set()).add(bound.name)
    for item in tree.find_all(exp.Subquery, exp.CTE):
        readers = [t for t in tree.find_all(exp.Table) if t.name == item.alias] if isinstance(item, exp.CTE) else [item]
        names = {name for reader in readers for name in used.get(reader.meta.get("origin"), ())}
        first = item.this
        while isinstance(first, exp.SetOperation | exp.Subquery):
            first = first.this
        listed = item.args.get("alias") and item.args["alias"].args.get("columns")
        if listed or not isinstance(first, exp.Select):
            continue
        for name, projection in zip(first.meta.get("outputs", ()), list(first.expressions), strict=False):
            if lower(name) in names and projection.alias_or_name != lower(name) and not projection.is_star:
                projection.replace(exp.alias_(projection.copy(), identifier(lower(name))))
    return tree


@rule(exp.Paren, typed=True)
def parentheses(node: exp.Paren) -> exp.Expression | None:
    """Parentheses around a whole condition, argument or item say nothing."""
    around = exp.Where | exp.Having | exp.Paren | exp.Select | exp.Ordered | exp.Alias | exp.Group
    whole = isinstance(node.parent, around) or (isinstance(node.parent, exp.Join) and node.arg_key == "on")
    part = isinstance(node.parent, exp.Connector) and isinstance(node.this, COMPARISONS)
    return node.this.copy() if whole or part else None
