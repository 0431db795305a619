"""What the wrong answers got wrong: each is sorted under the first thing in which it differs from the gold query.

    python dev/errors.py [FOLDER] [--first 100] [--examples 3]

FOLDER has run the pipeline (the working directory, unless said otherwise): its data/predictions/verdicts.jsonl and
schema index are read. The causes are tried in the order of `CAUSES`; a query with several mistakes is counted under
the first.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.files import read_jsonl
from text2sql.model.qualifiers import by_table
from text2sql.schema import Schema, read_index
from text2sql.sql import parse_one

CAUSES = {
    "failed": "PostgreSQL refuses it, or it was cut at the limit of tokens",
    "tables missing": "a table of the gold query is not in it",
    "tables too many": "it has a table that the gold query has not",
    "set operation or subquery": "one has UNION, INTERSECT, EXCEPT or a subquery, the other not",
    "selected": "other columns or aggregates are selected",
    "grouped": "GROUP BY or HAVING differ",
    "condition on another column": "WHERE names other columns",
    "value": "the columns of WHERE are the same, a value is not",
    "comparison": "columns and values of WHERE are the same, their comparison is not",
    "ordered": "ORDER BY or LIMIT differ",
    "joined": "the same tables are joined along other columns",
    "other": "DISTINCT, the order of columns, or nothing that this script sees",
}


def tables(tree: exp.Expression) -> Counter[str]:
    return Counter({table.name for table in tree.find_all(exp.Table)})


def parts(tree: exp.Expression, *kinds: type[exp.Expression]) -> list[exp.Expression]:
    return [part for kind in kinds for part in tree.find_all(kind)]


def columns(nodes: list[exp.Expression]) -> Counter[str]:
    return Counter(column.name for node in nodes for column in node.find_all(exp.Column))


def values(nodes: list[exp.Expression]) -> Counter[str]:
    return Counter(literal.name.strip("%").lower() for node in nodes for literal in node.find_all(exp.Literal))


def selected(tree: exp.Expression) -> Counter[str]:
    items = [item.unalias() for select in tree.find_all(exp.Select) for item in select.expressions]
    for item in items:
        for column in item.find_all(exp.Column):
            column.set("table", None)
    return Counter(item.sql() for item in items)


def cause(verdict: dict[str, Any], schema: Schema) -> str:
    """The first of `CAUSES` that a wrong answer shows."""
    if verdict["error"] or not verdict["finished"]:
        return "failed"
    try:
        gold, made = (parse_one(by_table(verdict[side], schema)) for side in ("gold", "predicted"))
    except SqlglotError:
        return "failed"
    if tables(gold) - tables(made):
        return "tables missing"
    if tables(made) - tables(gold):
        return "tables too many"
    nested = (exp.SetOperation, exp.Subquery, exp.In)
    if bool(parts(gold, *nested)) != bool(parts(made, *nested)):
        return "set operation or subquery"
    if selected(gold.copy()) != selected(made.copy()):
        return "selected"
    for name, kinds in (("grouped", (exp.Group, exp.Having)), ("condition on another column", (exp.Where,))):
        if columns(parts(gold, *kinds)) != columns(parts(made, *kinds)):
            return name
    conditions = parts(gold, exp.Where, exp.Having), parts(made, exp.Where, exp.Having)
    if values(conditions[0]) != values(conditions[1]):
        return "value"
    if sorted(type(p).__name__ for c in conditions[0] for p in c.find_all(exp.Predicate)) != sorted(
        type(p).__name__ for c in conditions[1] for p in c.find_all(exp.Predicate)
    ):
        return "comparison"
    ends = [[p.sql() for p in parts(tree, exp.Order, exp.Limit)] for tree in (gold, made)]
    if ends[0] != ends[1]:
        return "ordered"
    if columns(parts(gold, exp.Join)) != columns(parts(made, exp.Join)):
        return "joined"
    return "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--first", type=int, default=100, help="so many of the wrong answers; 0: all")
    parser.add_argument("--examples", type=int, default=3, help="shown of each cause")
    arguments = parser.parse_args()
    schemas = read_index(arguments.folder / "data/postgres/schema_index.json")
    verdicts = read_jsonl(arguments.folder / "data/predictions/verdicts.jsonl")
    wrong = [v for v in verdicts if v["verdict_suite"] is False]
    wrong = wrong[: arguments.first or None]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for verdict in wrong:
        found[cause(verdict, schemas[verdict["db_id"]])].append(verdict)
    console = Console()
    table = Table("cause", "answers", "which means", title=f"{len(wrong)} wrong answers")
    for name, meaning in CAUSES.items():
        table.add_row(name, str(len(found[name])), meaning)
    console.print(table)
    for name in CAUSES:
        for verdict in found[name][: arguments.examples]:
            console.print(f"\n[b]{name}[/b] {verdict['id']} {verdict['db_id']}: ", end="")
            console.print(verdict["question"], markup=False)
            console.print(f"  gold      {by_table(verdict['gold'], schemas[verdict['db_id']])}", markup=False)
            console.print(f"  predicted {verdict['predicted']}", markup=False)


if __name__ == "__main__":
    main()
