"""How many of the gold queries' tables `choose_tables` finds in a part of the prompt's tokens, on Spider.

    python -m benchmarks.tables                 # dev
    python -m benchmarks.tables --split train   # what the weights were chosen on

Needs the outputs of the stages databases and convert for `data=spider`. Tokens are those of models/base. A question
counts as complete when each table of its gold query is among the chosen ones; where these tables alone take more than
the given share of the tokens, no choice could be complete, and the question is only counted.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from sqlglot import exp

from text2sql.errors import UserError
from text2sql.files import read_jsonl
from text2sql.model.base import load_tokenizer
from text2sql.model.prompt import PromptOptions, ddl
from text2sql.model.relevant_tables import choose_tables
from text2sql.schema import Column, Schema, Table, read_index
from text2sql.sql import parse_one

DATA = Path("data/postgres")


def gold_tables(sql: str, schema: Schema) -> set[str]:
    """The tables of the schema that a query reads."""
    names = {table.name for table in parse_one(sql).find_all(exp.Table)}
    return names & {table.name for table in schema.tables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("dev", "train"), default="dev")
    parser.add_argument("--share", type=float, default=0.5, help="of the whole schema's tokens (0.5)")
    options = parser.parse_args()
    if not (DATA / "examples.jsonl").is_file():
        raise UserError("there are no examples", "run `dvc exp run convert -S data=spider` first")
    schemas = read_index(DATA / "schema_index.json")
    tokenizer = load_tokenizer(Path("models/base"))
    form = PromptOptions("ddl", 0, comments=True)
    sizes = {
        db_id: {table.name: len(tokenizer(ddl(table, form))["input_ids"]) for table in schema.tables}
        for db_id, schema in schemas.items()
    }
    figures: Counter[str] = Counter()
    for example in read_jsonl(DATA / "examples.jsonl"):
        schema, size = schemas.get(example["db_id"]), sizes.get(example["db_id"], {})
        if not example["id"].startswith(options.split) or not example["postgres"] or schema is None or len(size) < 2:
            continue
        budget = int(options.share * sum(size.values()))
        gold = gold_tables(example["postgres"], schema)
        chosen = {table.name for table in choose_tables(example["question"], schema, size, budget).tables}
        fits = sum(size[name] for name in gold) <= budget
        figures += Counter(questions=1, fit=fits, complete=fits and gold <= chosen)
        if fits:
            figures += Counter(tables=len(gold), chosen=len(gold & chosen))
    print(f"{options.split}: {figures['questions']:,} questions on schemas of two tables and more")
    print(f"the gold query's tables fit {options.share:.0%} of the schema's tokens: {figures['fit']:,} questions")
    print(f"of these, tables among the chosen: {figures['chosen'] / figures['tables']:.1%}")
    print(f"of these, questions with all their tables: {figures['complete'] / figures['fit']:.1%}")
    print(f"a schema of 500 tables: {seconds_for(500):.2f} s the first time, {seconds_for(500):.2f} s then")


def seconds_for(count: int) -> float:
    """Seconds to choose among so many tables."""
    columns = tuple(Column(f"column_{i}", f"column_{i}", "text") for i in range(20))
    schema = Schema("large", tuple(Table(f"table_{i}", f"table_{i}", columns) for i in range(count)))
    started = time.perf_counter()
    choose_tables("How many rows does table 17 have?", schema, {t.name: 100 for t in schema.tables}, 2000)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
