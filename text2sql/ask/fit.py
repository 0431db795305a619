"""The model's SQL, rewritten for the server: table names with their schema, the server's version, whole last days.

The model sees bare table names and learned on one version of PostgreSQL. Each change is made on the parsed query; a
query that needs none stays as it was written.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Callable, Mapping

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.ask.catalog import Relations, Target
from text2sql.schema import Schema, needs_quotes
from text2sql.sql import parse_one, shallow, table_names, written_name

#: from this version on, a subquery in FROM needs no alias, and there is any_value()
VERSION_16 = 160000
#: from this version on, EXTRACT is numeric; of double precision, there is no round() to some places
VERSION_14 = 140000
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z")
#: schema (or None) and name of a table
TableName = tuple[str | None, str]


def fit_query(sql: str, schema: Schema, target: Target) -> tuple[str, list[str]]:
    """`sql` as it can run on `target`, and a sentence for each change of its meaning.

    >>> from text2sql.schema import Column, Table
    >>> visits = Schema("s", (Table("visits", "visits", (Column("at", "at", "timestamp"),)),))
    >>> fit_query("select 1 from visits where at between '2024-01-01' and '2024-12-31'", visits, Target())[0]
    "SELECT 1 FROM visits WHERE (at >= '2024-01-01' AND at < '2025-01-01')"
    """
    notes: list[str] = []

    def fit(tree: exp.Expression) -> None:
        notes.extend(_include_last_days(tree, schema))
        if target.version is not None and target.version < VERSION_16:
            _write_for_15(tree)
        if target.version is not None and target.version < VERSION_14:
            for call in list(tree.find_all(exp.Extract)):
                call.replace(exp.cast(call.copy(), exp.DataType.Type.DECIMAL))
        _rename_tables(tree, _real_names(target.relations))

    return _rewritten(sql, fit), notes


def with_real_names(sql: str, relations: Relations) -> str:
    """`sql` with the tables' schemas where the server wants them, as `fit_query` writes them, for a user's query."""
    return _rewritten(sql, lambda tree: _rename_tables(tree, _real_names(relations)))


def _real_names(relations: Relations) -> dict[TableName, TableName]:
    return {(None, shown): name for shown, name in relations.items()}


def with_shown_names(sql: str, relations: Relations) -> str:
    """`sql` with the tables' shown names instead of those with a schema, for a copy: `with_real_names` undone."""
    names = {name: (None, shown) for shown, name in relations.items()}
    return _rewritten(sql, lambda tree: _rename_tables(tree, names))


def _rewritten(sql: str, change: Callable[[exp.Expression], None]) -> str:
    """`sql` with its tree changed; as it was written where nothing changes, or where it is no query."""
    try:
        with shallow():
            tree = parse_one(sql)
            before = tree.copy()
            if isinstance(tree, exp.Query):
                change(tree)
            return sql if tree == before else tree.sql("postgres")
    except SqlglotError:
        return sql


def _rename_tables(tree: exp.Expression, names: Mapping[TableName, TableName]) -> None:
    """Give tables other names; columns go on naming the old one, which becomes the alias where it was none."""
    defined = {cte.alias_or_name for cte in tree.find_all(exp.CTE)}
    for table in list(tree.find_all(exp.Table)):
        name = written_name(table.this)
        key = (written_name(table.args["db"]) if table.args.get("db") else None, name)
        if key not in names or (key[0] is None and name in defined):
            continue
        schema, new = names[key]
        if new != name and not table.alias:
            table.set("alias", exp.TableAlias(this=_identifier(name)))
        table.set("this", _identifier(new))
        table.set("db", _identifier(schema) if schema else None)


def _identifier(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=needs_quotes(name))


def _write_for_15(tree: exp.Expression) -> None:
    """Aliases for subqueries and VALUES in FROM, and no any_value()."""
    aliases = {alias.name for alias in tree.find_all(exp.TableAlias)}
    free = (name for number in itertools.count(1) if (name := f"subquery_{number}") not in aliases)
    for subquery in list(tree.find_all(exp.Subquery, exp.Values)):
        if isinstance(subquery.parent, exp.From | exp.Join | exp.Lateral) and not subquery.alias:
            subquery.set("alias", exp.TableAlias(this=exp.to_identifier(next(free))))
    for call in list(tree.find_all(exp.AnyValue)):
        value = call.this
        while isinstance(value, exp.Distinct | exp.Order):
            value = value.expressions[0] if isinstance(value, exp.Distinct) else value.this
        counts: exp.Expression = value.copy().is_(exp.null()).not_()  # as any_value() takes no NULL where it may
        whole: exp.Expression = call
        if isinstance(call.parent, exp.Filter):
            whole, counts = call.parent, exp.and_(call.parent.expression.this.copy(), counts)
        values = exp.Filter(this=exp.func("array_agg", call.this.copy()), expression=exp.Where(this=counts))
        whole.replace(exp.Bracket(this=exp.Paren(this=values), expressions=[exp.Literal.number(0)], offset=0))


def _include_last_days(tree: exp.Expression, schema: Schema) -> list[str]:
    """`at BETWEEN day AND day` on timestamps ends at midnight and loses the last day: the bound becomes the next day.

    Returns a sentence for each.
    """
    used = table_names(tree)
    notes = []
    for between in list(tree.find_all(exp.Between)):
        column, day = between.this, _day(between.args["high"])
        if not isinstance(column, exp.Column) or day is None or between.args.get("symmetric"):
            continue
        name = written_name(column.this)
        types = {c.type for t in schema.tables if t.name in used for c in t.columns if c.name == name}
        if not types or not types <= {"timestamp", "timestamptz"}:
            continue
        following = exp.Literal.string((day + datetime.timedelta(days=1)).isoformat())
        at_least = exp.GTE(this=column.copy(), expression=between.args["low"].copy())
        before = exp.LT(this=column.copy(), expression=following)
        between.replace(exp.Paren(this=exp.And(this=at_least, expression=before)))
        notes.append(f"{name} has times: BETWEEN was extended over the whole of {day}")
    return notes


def _day(value: exp.Expression) -> datetime.date | None:
    """The day that a literal names, without a time; None if it names none."""
    if isinstance(value, exp.Cast) and value.to.this == exp.DataType.Type.DATE:
        value = value.this
    if not (isinstance(value, exp.Literal) and value.is_string and _DAY.match(value.name)):
        return None
    try:
        day = datetime.date.fromisoformat(value.name)
    except ValueError:
        return None
    return day if day < datetime.date.max else None  # 9999-12-31, an open end: no day follows it
