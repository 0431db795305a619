"""Queries that people wrote, in the one spelling that decoding accepts.

Constrained decoding writes a query in one way only: names as the prompt has them, keywords in capitals, tables by
their names and not by aliases (text2sql/model/constraint.py). An answer that is spelled in another way teaches a
model tokens that it may never write. So a pair's query is written anew, and taken if it has the same result.
"""

from __future__ import annotations

import itertools

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError

from text2sql.conversion.dialect.tree import ATOMS, identifier
from text2sql.conversion.dialect.writer import Writer
from text2sql.data.pairs import drop_schemas
from text2sql.postgres.alternatives import Execute
from text2sql.postgres.compare import Result, strict
from text2sql.schema import Schema, needs_quotes
from text2sql.sql import parse_one, shallow, written_name


class _Speller(Writer):
    """PostgreSQL's text as the grammar has it, from a tree that was read from PostgreSQL's text."""

    bracket_sql = Postgres.Generator.bracket_sql
    TRANSFORMS = {  # noqa: RUF012 (sqlglot's)
        **Writer.TRANSFORMS,
        exp.Round: lambda self, node: self.func("round", node.this, node.args.get("decimals")),
        exp.Substring: lambda self, node: self.func(
            "substring", node.this, node.args.get("start"), node.args.get("length")
        ),
        exp.TimestampTrunc: lambda self, node: self.func(
            "date_trunc", exp.Literal.string(node.unit.name.lower()), node.this, node.args.get("zone")
        ),
    }

    def not_sql(self, expression: exp.Not) -> str:
        """NOT in front of what SQLite lacks: `a NOT LIKE ANY (...)` is no opposite of `a LIKE ANY (...)`."""
        inner = expression.this.unnest()
        if inner.args.get("symmetric") or isinstance(inner.args.get("expression"), exp.Any | exp.All):
            return Postgres.Generator.not_sql(self, expression)
        return super().not_sql(expression)

    def cast_sql(self, expression: exp.Cast, safe_prefix: str | None = None) -> str:
        """`x::type`, in small letters as conversions write it; `::` binds closer than what CAST has inside."""
        inner, type_ = self.sql(expression, "this"), self.sql(expression, "to")
        if not isinstance(expression.this, ATOMS) or isinstance(expression.this, exp.Binary):
            inner = f"({inner})"
        type_ = type_ if '"' in type_ else type_.lower().replace("decimal", "numeric")
        return f"{inner}::{type_}"

    def filter_sql(self, expression: exp.Filter) -> str:
        """FILTER(WHERE ...)."""
        return f"{self.sql(expression, 'this')} FILTER({self.sql(expression, 'expression').strip()})"


def spelled(sql: str, schema: Schema, execute: Execute, result: Result) -> str:
    """`sql` in the one spelling; as it is where that cannot be written or does not give `result`."""
    try:
        with shallow():
            text = _written(parse_one(sql), schema)
    except SqlglotError:
        return sql
    return text if text == sql or strict(result, execute(text), sql).correct else sql


def _written(tree: exp.Expression, schema: Schema) -> str:
    _plain_names(tree, schema)
    for select in list(tree.find_all(exp.Select)):
        _sorted_by_values(select, schema)  # first, as a name of the output may be one that USING has, too
        _plain_joins(select, schema)
    for count in tree.find_all(exp.Count):
        if isinstance(count.this, exp.Literal):
            count.set("this", exp.Star())
    for fetch in list(tree.find_all(exp.Fetch)):
        if not fetch.args["limit_options"].args.get("with_ties"):
            fetch.replace(exp.Limit(expression=fetch.args.get("count") or exp.Literal.number(1)))
    for item in tree.expressions if isinstance(tree, exp.Select) else ():  # nobody refers to the outermost names
        if isinstance(item, exp.Alias) and needs_quotes(item.alias):
            item.replace(item.this)
    return _Speller(dialect="postgres", normalize_functions="lower", comments=False).generate(tree)


def _plain_names(tree: exp.Expression, schema: Schema) -> None:
    """Names as PostgreSQL reads them, quoted only where they must be; tables without their schema; t1, t2 ... as the
    aliases of tables."""
    for name in tree.find_all(exp.Identifier):
        name.set("this", written_name(name))
        name.set("quoted", needs_quotes(name.this))
    drop_schemas(tree, {table.name for table in schema.tables})
    # A name that is an alias here may be a table's there: such an alias stays, and none gets such a name.
    bare = {table.name for table in tree.find_all(exp.Table) if not table.alias}
    aliases = [a for a in tree.find_all(exp.TableAlias, bfs=False) if a.this and not isinstance(a.parent, exp.CTE)]
    free = (name for n in itertools.count(1) if not schema.table(name := f"t{n}") and name not in bare)
    called = dict(zip(dict.fromkeys(a.name for a in aliases if a.name not in bare), free, strict=False))
    named = [alias.this for alias in aliases] + [c.args["table"] for c in tree.find_all(exp.Column) if c.table]
    for name in named:
        if name.name in called:
            name.replace(exp.to_identifier(called[name.name]))


def _plain_joins(select: exp.Select, schema: Schema) -> None:
    """JOIN for INNER JOIN, and ON for USING where one table before has the column."""
    sources = _sources(select)
    for place, join in enumerate(select.args.get("joins") or (), start=1):
        if join.kind in ("INNER", "OUTER"):
            join.set("kind", None)
        names = [name.name for name in join.args.get("using") or () if join.side in ("", "LEFT")]
        lefts = [[source for source in sources[:place] if _has(schema, source, name)] for name in names]
        if not names or any(len(left) != 1 for left in lefts) or not all(_has(schema, join.this, n) for n in names):
            continue
        for name, (left,) in zip(names, lefts, strict=True):
            for column in select.find_all(exp.Column):
                if not column.table and column.name == name and column.parent_select is select:
                    column.set("table", identifier(left.alias_or_name))
            one, other = (exp.column(identifier(name), identifier(s.alias_or_name)) for s in (left, join.this))
            join.set("on", exp.and_(join.args.get("on"), exp.EQ(this=one, expression=other)))
        join.set("using", None)


def _sources(select: exp.Select) -> list[exp.Expression]:
    """The items of FROM."""
    items = [select.args.get("from_"), *(select.args.get("joins") or ())]
    return [item.this for item in items if item is not None]


def _has(schema: Schema, source: exp.Expression, column: str) -> bool:
    table = schema.table(source.name) if isinstance(source, exp.Table) else None
    return table is not None and any(c.name == column for c in table.columns)


def _sorted_by_values(select: exp.Select, schema: Schema) -> None:
    """The expressions of output columns in ORDER BY and GROUP BY in place of their names and numbers."""
    named = {item.alias: item.this for item in select.expressions if isinstance(item, exp.Alias)}
    numbered = {} if select.is_star else {str(n): item.unalias() for n, item in enumerate(select.expressions, start=1)}

    def replace(nodes: list[exp.Expression], names: dict[str, exp.Expression]) -> None:
        for node in nodes:
            known = numbered if node.is_int else names if isinstance(node, exp.Column) and not node.table else {}
            value = known.get(node.name)
            # There, a number would be another column's place, and a column's name may be another one's alias.
            is_name = isinstance(value, exp.Column) and not value.table
            taken = isinstance(value, exp.Literal) or (is_name and named.get(value.name, value) != value)
            if value is not None and not taken:
                node.replace(value.copy())

    order, group = select.args.get("order"), select.args.get("group")
    replace([ordered.this for ordered in order.expressions] if order else [], named)
    # GROUP BY takes a column of FROM before one of the output; a query in FROM may have any.
    sources = _sources(select)
    known = all(isinstance(source, exp.Table) and schema.table(source.name) for source in sources)
    unlike = {n: value for n, value in named.items() if known and not any(_has(schema, s, n) for s in sources)}
    replace(list(group.expressions) if group else [], unlike)
