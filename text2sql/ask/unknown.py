"""Which names in a query the schema does not have: told without a server, for people who read the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.scope import Scope, traverse_scope

from text2sql.schema import Schema, quote
from text2sql.sql import parse_one, shallow

#: columns that every PostgreSQL table has
SYSTEM = {"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"}


def query_scopes(sql: str) -> list[Scope]:
    """The scopes of a query with the names that PostgreSQL reads, inner ones first; none where `sql` is no query."""
    try:
        with shallow():
            tree = normalize_identifiers(parse_one(sql), dialect="postgres")
            return list(traverse_scope(tree)) if isinstance(tree, exp.Query) else []
    except SqlglotError:
        return []


def unknown_names(scopes: Iterable[Scope], schema: Schema) -> list[str]:
    """Sentences on tables and columns of a query that are not in `schema`, each once, in the order of the query.

    >>> unknown_names(query_scopes("select nme from shops"), Schema("s", ()))
    ['there is no table shops']
    """
    tables = {t.name: {c.name for c in t.columns} for t in schema.tables}
    sentences: dict[str, None] = {}
    for scope in scopes:
        for source in scope.sources.values():
            if isinstance(source, exp.Table) and source.name and source.name not in tables:
                sentences[f"there is no table {quote(source.name)}"] = None
        # a scope's columns include those of its subqueries that may come from outside: they are judged in theirs
        for column in (c for c in scope.columns if c.find_ancestor(exp.Query) is scope.expression):
            sentences |= dict.fromkeys(problems(column, scope, tables))
    return list(sentences)


def problems(column: exp.Column, scope: Scope, tables: dict[str, set[str]]) -> Iterator[str]:
    """A sentence if `column` is in none of the sources that it can come from; a whole row (`t.*`) is fine."""
    name = column.name
    if isinstance(column.this, exp.Star) or name in SYSTEM:
        return
    if column.table:
        source = next((s.sources[column.table] for s in outward(scope) if column.table in s.sources), None)
        if source is None:
            yield f"there is no {quote(column.table)} that {quote(name)} could belong to"
        elif (known := columns_of(source, tables)) is not None and name not in known:
            of = source.name if isinstance(source, exp.Table) else column.table
            yield f"{quote(of)} has no column {quote(name)}"
        return
    sources = [(alias, columns_of(s, tables)) for level in outward(scope) for alias, s in level.sources.items()]
    # an alias of the select list may be named in ORDER BY and GROUP BY, a table's alias stands for its row
    union = isinstance(scope.expression, exp.SetOperation)  # its ORDER BY knows nothing but its columns' names
    aliases = {e.alias_or_name if union else e.alias for e in scope.expression.selects} - {""}
    names = {name for _, known in sources if known is not None for name in known} | aliases | {a for a, _ in sources}
    if name not in names and all(known is not None for _, known in sources):
        yield f"no table of the query has a column {quote(name)}"


def outward(scope: Scope | None) -> Iterator[Scope]:
    """The scope and those around it, whose columns a subquery may use."""
    while scope is not None:
        yield scope
        scope = scope.parent


def columns_of(source: exp.Expression | Scope, tables: dict[str, set[str]]) -> set[str] | None:
    """The columns that a source offers; None where that cannot be told (unknown table, function, `select *`)."""
    if isinstance(source, exp.Table):
        return tables.get(source.name) if source.name else None
    if not isinstance(source, Scope) or not isinstance(source.expression, exp.Query):
        return None
    names = source.expression.named_selects
    alias = source.expression.parent.args.get("alias") if source.expression.parent else None
    if isinstance(alias, exp.TableAlias) and alias.columns:
        return {c.name for c in alias.columns}
    return None if "*" in names or "" in names else set(names)
