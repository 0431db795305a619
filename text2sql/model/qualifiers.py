"""The same query with its columns called by their tables' names instead of by aliases.

`SELECT t1.name FROM singer AS t1 JOIN song AS t2 ON ...` becomes `SELECT singer.name FROM singer JOIN song ON ...`. A
model that writes SELECT before FROM has to know at `t1` what t1 will be; a table's name it can copy from the schema,
and a grammar can hold the column to it. RESDSQL (Li et al., AAAI 2023) trains on such queries, for the same reasons.

Where FROM has one table only, its columns stand without a qualifier. What could change its meaning stays as it is: a
table that occurs twice, a derived table, a name that an output column has too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

from text2sql.schema import Schema, Table
from text2sql.sql import parse_one, shallow

#: a change of the text: from, to, what comes there
Edit = tuple[int, int, str]


@dataclass(frozen=True)
class _Source:
    """An item of FROM: `node` of the tree, what the query calls it, and what it is called from now on."""

    node: exp.Expression
    alias: str
    name: str
    table: Table | None
    renamed: bool

    def has(self, column: str) -> bool:
        return self.table is not None and any(c.name == column for c in self.table.columns)


def by_table(sql: str, schema: Schema) -> str:
    """`sql` (PostgreSQL) with tables' names in place of aliases; as it is where that cannot be done."""
    try:
        with shallow():
            tree = parse_one(sql)
            scopes = {id(s.expression): s for s in traverse_scope(tree) if isinstance(s.expression, exp.Select)}
    except SqlglotError:
        return sql
    sources = {key: _sources(scope, schema) for key, scope in scopes.items()}
    renamed = {s.alias for of_query in sources.values() for s in of_query if s.renamed}
    edits = [
        (s.node.this.meta["end"] + 1, s.node.args["alias"].this.meta["end"] + 1, "")
        for of_query in sources.values()
        for s in of_query
        if s.renamed
    ]
    for column in tree.find_all(exp.Column):
        # A whole row by its alias, or one that we cannot follow: nothing is renamed then.
        if (column.table or column.name) in renamed and not _resolved(column, scopes, sources):
            return sql
        edits += _edits(column, scopes, sources)
    for start, end, text in sorted(edits, reverse=True):
        sql = sql[:start] + text + sql[end:]
    return sql


def _sources(scope: Scope, schema: Schema) -> list[_Source]:
    nodes = [node for node, _ in scope.selected_sources.values()]
    names = [node.name if isinstance(node, exp.Table) else node.alias for node in nodes]
    # A query within another one on the same table keeps its alias if it speaks of both.
    outer = _outer(scope) if scope.external_columns else ()
    around = [node.name for level in outer for node, _ in level.selected_sources.values()]
    listed = []
    for node in nodes:
        table = schema.table(node.name) if isinstance(node, exp.Table) else None
        free = table is not None and names.count(node.name) == 1 and node.name not in around
        free = free and not _hidden(node, scope)
        renamed = free and bool(node.alias) and not node.args["alias"].columns
        name = node.args["alias"].this if node.alias and not renamed else node.this
        listed.append(_Source(node, node.alias_or_name, name.sql(dialect="postgres") if table else "", table, renamed))
    return listed


def _hidden(node: exp.Expression, scope: Scope) -> bool:
    """Whether a query within `scope` that speaks of `node` by its alias calls a source of its own as that table."""
    return any(
        node.name in inner.selected_sources and any(column.table == node.alias for column in inner.external_columns)
        for inner in scope.traverse()
        if inner is not scope
    )


def _outer(scope: Scope) -> Iterator[Scope]:
    """The scopes whose sources a subquery may name besides its own."""
    while scope.parent is not None and not scope.is_derived_table:
        scope = scope.parent
        yield scope


def _resolved(column: exp.Column, scopes: dict[int, Scope], sources: dict[int, list[_Source]]) -> _Source | None:
    """The source that the qualifier of `column` names, in its own query or in one around it."""
    query = column.find_ancestor(exp.Select)
    if not column.table or id(query) not in scopes:
        return None
    visible = [sources[id(query)], *(sources.get(id(outer.expression), []) for outer in _outer(scopes[id(query)]))]
    return next((s for level in visible for s in level if s.alias == column.table), None)


def _edits(column: exp.Column, scopes: dict[int, Scope], sources: dict[int, list[_Source]]) -> Iterator[Edit]:
    """How `column` is to be written: `table.column`, or `column` where there is one table."""
    query = column.find_ancestor(exp.Select, exp.SetOperation)
    if id(query) not in scopes:
        return  # ORDER BY of a union, say: its output columns
    start, name = column.this.meta["start"], column.name
    near = sources[id(query)]
    outputs = {item.alias for item in query.expressions if isinstance(item, exp.Alias)}
    if column.table:
        qualifier = column.args["table"]
        source = _resolved(column, scopes, sources)
        if source is None:
            return
        alone = source in near and len(near) == 1 and source.table is not None
        if alone and not isinstance(column.this, exp.Star) and name not in outputs:
            yield qualifier.meta["start"], start, ""
        elif source.renamed:
            yield qualifier.meta["start"], qualifier.meta["end"] + 1, source.name
    elif len(near) > 1 and not isinstance(column.this, exp.Star) and name not in outputs:
        having = [s for s in near if s.has(name)]
        if len(having) == 1 and all(s.table is not None for s in near):
            yield start, start, f"{having[0].name}."
