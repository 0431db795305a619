"""Exact match: whether two queries are the same tree once what means nothing is taken away."""

from __future__ import annotations

import functools

import sqlglot
from sqlglot import exp

from text2sql.sql import parse_one, shallow, write


@functools.lru_cache(maxsize=1024)  # several questions have one gold query
def normal_form(sql: str) -> str:
    """A PostgreSQL query in one spelling: comments, letter case, table aliases, output names, the order of conditions
    joined by AND, the sides of an equation and redundant parentheses do not show.

    >>> normal_form("select T1.Name AS n from Singer as T1 where (T1.id) = 3 and 2 < age")
    'SELECT t0.name FROM singer AS t0 WHERE 2 < age AND 3 = t0.id'

    Raises:
        sqlglot.errors.SqlglotError: it is not a query.
    """
    tree = parse_one(sql)
    for identifier in tree.find_all(exp.Identifier):
        name = identifier.this if identifier.quoted else identifier.this.lower()
        identifier.replace(exp.to_identifier(name, quoted=not name.replace("_", "a").isalnum() or name != name.lower()))
    for function in tree.find_all(exp.Anonymous):  # one that sqlglot does not know; others have one spelling
        if isinstance(function.this, str):
            function.set("this", function.this.lower())
    _name_tables(tree)
    for select in tree.find_all(exp.Select):
        select.set("expressions", [column.unalias() for column in select.expressions])
    for group in list(tree.find_all(exp.Paren)):
        if not isinstance(group.this, exp.Binary | exp.Not) or not isinstance(
            group.parent, exp.Binary | exp.Unary | exp.Predicate
        ):
            group.replace(group.this)
    _sort(tree)
    return write(tree)


def exact_match(gold: str, predicted: str) -> bool:
    """Whether two queries have one normal form; false if one has none."""
    if gold == predicted:
        return True
    try:
        with shallow():
            return normal_form(gold) == normal_form(predicted)
    except sqlglot.errors.SqlglotError:
        return False


def _name_tables(tree: exp.Expression) -> None:
    """Call the tables t0, t1 ... in the order in which they stand, in their own query and in references to them."""
    names: dict[str, str] = {}
    for source in tree.find_all(exp.Table, exp.Subquery, bfs=False):
        if source.alias_or_name and isinstance(source.parent, exp.From | exp.Join):
            new = names.setdefault(source.alias_or_name, f"t{len(names)}")
            source.set("alias", exp.TableAlias(this=exp.to_identifier(new)))
    for column in tree.find_all(exp.Column):
        if column.table in names:
            column.set("table", exp.to_identifier(names[column.table]))


def _operands(node: exp.Expression, connector: type[exp.Expression]) -> list[exp.Expression]:
    """What a chain of one connector joins, through parentheses around parts of the chain; others are needed."""
    inner = node.unnest()
    if not isinstance(inner, connector):
        return [node]
    return [*_operands(inner.left, connector), *_operands(inner.right, connector)]


def _sort(tree: exp.Expression) -> None:
    """Put the operands of AND, OR and = in the order of their text, the inner ones first."""
    for node in reversed(list(tree.find_all(exp.And, exp.Or, exp.EQ, exp.NEQ))):
        if isinstance(node, exp.EQ | exp.NEQ):
            left, right = sorted((node.left, node.right), key=write)
            node.set("this", left)
            node.set("expression", right)
        elif not isinstance(node.parent, type(node)):
            operands = sorted(_operands(node, type(node)), key=write)
            node.replace(functools.reduce(lambda left, right: type(node)(this=left, expression=right), operands))
