"""SQLite queries as PostgreSQL queries with the same results.

`convert_tree` parses a query, refuses what no rule knows (`allowed`), resolves every name against the schema
(`scope`), applies `RULES` in order, and writes the tree (`writer`). A rule is a small transform of the tree: its
docstring says which difference between the engines it stands for, and its cases are a table in
tests/conversion/dialect_cases.py. What cannot be converted is rejected with a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.conversion.dialect import comparisons, dates, expressions, grouping, naming, ordering
from text2sql.conversion.dialect.allowed import Defect, Rejected, check_nodes
from text2sql.conversion.dialect.scope import bind
from text2sql.conversion.dialect.writer import postgres_text
from text2sql.schema import Schema
from text2sql.sql import parse

__all__ = ["DEFECT", "RULES", "Conversion", "Defect", "Rejected", "convert_tree", "parse_query"]

#: how the reason of an example begins on which a rule failed
DEFECT = "defect: "
Rule = Callable[[exp.Expression], exp.Expression]
#: in the order in which they are applied: names first, then values, then rows and their order
RULES: Sequence[Rule] = (
    naming.string_literals,
    comparisons.blanks,
    naming.names,
    naming.aliases,
    naming.joins,
    expressions.collations,
    dates.dates,
    expressions.functions,
    expressions.casts,
    expressions.arithmetic,
    expressions.concatenation,
    expressions.branches,
    grouping.aggregates,
    grouping.distinct_without_case,
    comparisons.like,
    comparisons.glob,
    comparisons.affinities,
    comparisons.conditions,
    ordering.distinct_order,
    grouping.bare_columns,
    ordering.set_operations,
    ordering.order_values,
    ordering.null_order,
    ordering.limits,
    naming.derived_names,
    naming.parentheses,
)
#: the rules for a query that PostgreSQL has refused because a subquery used as a value has several rows
RULES_FOR_FIRST_ROWS: Sequence[Rule] = (*RULES, ordering.first_rows)


def parse_query(sql: str) -> exp.Query:
    """The tree of one SQLite query.

    Raises:
        Rejected: a syntax error, several statements, or a statement that is no query.
    """
    try:
        statements = [s for s in parse(sql, "sqlite") if not isinstance(s, exp.Semicolon)]
    except SqlglotError as error:
        raise Rejected(f"syntax error: {str(error).splitlines()[0]}") from None
    if len(statements) != 1:
        raise Rejected(f"{len(statements) or 'no'} statements, where one query is wanted")
    (tree,) = statements
    if not isinstance(tree, exp.Query):
        raise Rejected(f"not a query: {type(tree).__name__.upper()}")
    return tree


@dataclass(frozen=True)
class Conversion:
    """A converted query: its text, its tree, the (SQLite) names of the tables that it reads, and those of their columns
    whose empty texts are NULL in PostgreSQL."""

    sql: str
    tree: exp.Expression
    tables: frozenset[str]
    blanks: tuple[str, ...] = ()


def convert_tree(sql: str, schema: Schema, rules: Sequence[Rule] = RULES) -> Conversion:
    """The PostgreSQL query that returns what the SQLite query `sql` returns, on the database that `schema` describes.

    Args:
        rules: a part of RULES, to see what each is good for.

    Raises:
        Rejected: it cannot be converted; with the reason.
        Defect: a rule failed on it; the traceback is logged.
    """
    tree: exp.Expression = parse_query(sql)
    check_nodes(tree)
    step = "names"
    try:
        bind(tree, schema)
        tables = frozenset(t.meta["table"].source for t in tree.find_all(exp.Table) if "table" in t.meta)
        blanks = _blank_columns(tree, schema)
        for rule in rules:
            step = rule.__name__
            tree = rule(tree)
        return Conversion(postgres_text(tree), tree, tables, blanks)
    except RecursionError:
        raise Rejected("nested too deeply") from None
    except Rejected:
        raise
    except Exception as error:
        # The query is left out rather than guessed at; the traceback tells us what to mend.
        logging.getLogger(__name__).exception("defect in the rule %s, on the query %s", step, sql)
        raise Defect(f"{DEFECT}the rule {step} failed: {type(error).__name__}: {error}") from error


def _blank_columns(tree: exp.Expression, schema: Schema) -> tuple[str, ...]:
    """The columns that a bound query reads and whose empty texts are NULL in PostgreSQL."""
    tables = {id(t.meta["table"]) for t in tree.find_all(exp.Table) if "table" in t.meta}
    bounds = [c.meta["bound"] for c in tree.find_all(exp.Column) if "bound" in c.meta]
    read = {(id(bound.origin.table), bound.name) for bound in bounds}
    all_read = any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star))
    return tuple(
        f"{table.source}.{column.source}"
        for table in schema.tables
        for column in table.columns
        if column.blanks_are_null and id(table) in tables and (all_read or (id(table), column.name) in read)
    )


def with_blanks_as_null(sql: str, schema: Schema) -> str:
    """The SQLite query that asks for NULL where `sql` asks for an empty text that is NULL in PostgreSQL."""
    tree: exp.Expression = parse_query(sql)
    bind(tree, schema)
    tree = naming.string_literals(tree)
    before = tree.copy()
    tree = comparisons.blanks(tree)
    return sql if tree == before else tree.sql("sqlite")
