"""How many of the tables that gold queries read `choose_tables` finds in a part of the prompt's tokens, on Spider.

    python -m benchmarks.tables                 # dev
    python -m benchmarks.tables --split train   # what the weights were fitted to
    python -m benchmarks.tables --fit           # fits them: WEIGHTS and CONSTANT of relevant_tables
    python -m benchmarks.tables --release models/release   # and the accuracy on whole schemas and on the chosen tables

Needs the outputs of the stages databases and convert for `data=spider`. Tokens are those of models/base. A part of the
tokens is meant over all questions together, as a query that reads two tables of three cannot be answered from half of
their tokens. How probable a chosen table must be beside the most probable one is set so that the
tokens come to that part.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from text2sql.ask import Engine
from text2sql.config import compose, parse_yaml
from text2sql.errors import UserError, exits
from text2sql.files import read_jsonl
from text2sql.model.base import load_tokenizer
from text2sql.model.prompt import PromptOptions, ddl, evenly_taken, read_questions
from text2sql.model.relevant_tables import LEAST, WEIGHTS, choose_tables, evidence
from text2sql.progress import track
from text2sql.release.export import compare_answers
from text2sql.schema import Column, Schema, Table, read_index
from text2sql.sql import parse_one, table_names
from text2sql.workspace import BASE, EXAMPLES, INDEX

#: questions that are answered together
BATCH = 16
#: questions of a database to which the weights are fitted, at most: none should decide alone
FITTED = 60


class Case(NamedTuple):
    """A question, its schema, the tokens of each table, and the tables of its gold query."""

    question: str
    schema: Schema
    sizes: Mapping[str, int]
    gold: set[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("dev", "train"), default="dev")
    parser.add_argument("--share", type=float, default=0.5, help="of all schemas' tokens (0.5)")
    parser.add_argument("--release", help="an adapter that answers questions of data/splits/test.jsonl both ways")
    parser.add_argument("--questions", type=int, default=160, help="so many of them, evenly taken")
    parser.add_argument("--fit", action="store_true", help="fit the weights to the training questions")
    options = parser.parse_args()
    if not EXAMPLES.is_file():
        raise UserError("there are no examples", "run `dvc exp run convert -S data=spider` first")
    cases = read_cases("train" if options.fit else options.split)
    if options.fit:
        fit(cases)
        return
    print(f"{options.split}: {len(cases):,} questions on schemas of two tables and more")
    low, high = 0.0, 1.0  # of `least`: the higher, the fewer tokens
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if chosen(cases, middle)["tokens"] <= options.share else (middle, high)
    for least in (LEAST, high):
        shares = chosen(cases, least)
        print(
            f"tables at least {least:.3f} times as probable as the first, {shares['tokens']:.1%} of the tokens: "
            f"{shares['tables']:.1%} of the gold queries' tables, {shares['questions']:.1%} of questions with all"
        )
    if options.release:
        print(compare(options.release, options.questions, cases, high))
    print(f"a schema of 500 tables: {seconds_for(500):.2f} s the first time, {seconds_for(500):.2f} s then")


def read_cases(split: str) -> list[Case]:
    """The questions of a split with a PostgreSQL query, on schemas of two tables and more."""
    schemas, form = read_index(INDEX), PromptOptions("ddl", 0, comments=True)
    tokenizer = load_tokenizer(BASE)
    sizes = {
        db_id: {table.name: len(tokenizer(ddl(table, form))["input_ids"]) for table in schema.tables}
        for db_id, schema in schemas.items()
    }
    cases = []
    for example in read_jsonl(EXAMPLES):
        size = sizes.get(example["db_id"], {})
        if example["id"].startswith(split) and example["postgres"] and len(size) > 1:
            gold = table_names(parse_one(example["postgres"])) & size.keys()
            cases.append(Case(example["question"], schemas[example["db_id"]], size, gold))
    return cases


def chosen(cases: Sequence[Case], least: float) -> dict[str, float]:
    """Shares: of the schemas' tokens that are chosen, of the gold tables among them, of questions that have all."""
    counts: Counter[str] = Counter()
    for case in cases:
        part = choose_tables(case.question, case.schema, case.sizes, sum(case.sizes.values()), least)
        names = {table.name for table in part.tables}
        counts["tokens"] += sum(case.sizes[name] for name in names)
        counts["tables"] += len(case.gold & names)
        counts["questions"] += case.gold <= names
    whole = {
        "tokens": sum(sum(case.sizes.values()) for case in cases),
        "tables": sum(len(case.gold) for case in cases),
        "questions": len(cases),
    }
    return {name: counts[name] / total for name, total in whole.items()}


def compare(release: str, count: int, cases: Sequence[Case], least: float) -> str:
    """How many questions the adapter answers right on whole schemas, and how many on the chosen tables."""
    sizes = {case.schema.db_id: case.sizes for case in cases}
    questions = evenly_taken(read_questions(), count)
    rows = [{**row, "gold": row["sql"]} for row in questions if row["db_id"] in sizes]
    engine, schemas = Engine.load(release), read_index(INDEX)
    texts: dict[bool, list[str]] = {}
    for whole in (True, False):
        prompts = []
        for row in rows:
            schema, size = schemas[row["db_id"]], sizes[row["db_id"]]
            part = schema if whole else choose_tables(row["question"], schema, size, sum(size.values()), least)
            prompts.append(engine.prepare(row["question"], part))
        texts[whole] = []
        for at in track(range(0, len(prompts), BATCH), "whole schemas" if whole else "chosen tables"):
            texts[whole] += [written[0].text for written in engine.generate_batch(prompts[at : at + BATCH])]
    score = parse_yaml(compose(["data=spider"]))["score"]
    change = compare_answers(rows, texts[True], texts[False], score)
    return f"{release}: {change.in_words('on whole schemas')}"


def fit(cases: list[Case]) -> None:
    """Print the weights of a logistic regression: which tables of a schema does the gold query read?"""
    from sklearn.linear_model import LogisticRegression

    random.Random(0).shuffle(cases)
    count: Counter[str] = Counter()
    rows, labels = [], []
    for case in cases:
        count[case.schema.db_id] += 1
        if count[case.schema.db_id] <= FITTED:
            for name, values in evidence(case.question, case.schema).items():
                rows.append(values)
                labels.append(name in case.gold)
    model = LogisticRegression(max_iter=1000).fit(rows, labels)
    for name, weight in zip(WEIGHTS, model.coef_[0], strict=True):
        print(f"    {name!r}: {weight:.2f},")
    print(f"CONSTANT = {model.intercept_[0]:.2f}")


def seconds_for(count: int) -> float:
    """Seconds to choose among so many tables."""
    columns = tuple(Column(f"column_{i}", f"column_{i}", "text") for i in range(20))
    schema = Schema("large", tuple(Table(f"table_{i}", f"table_{i}", columns) for i in range(count)))
    started = time.perf_counter()
    choose_tables("How many rows does table 17 have?", schema, {t.name: 100 for t in schema.tables}, 2000)
    return time.perf_counter() - started


if __name__ == "__main__":
    with exits("tables"):
        main()
