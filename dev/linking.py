"""What a perfect choice of tables would be worth: prompts that show the gold query's tables only.

    python -m dev.linking            # where the pipeline has run: its adapter, test split and schema index

An upper bound for schema linking, and no result: the gold query tells which tables there are. The adapter is the
pipeline's, which has learned on whole schemas. Both are predicted as params.yaml says, and scored, in scratch folders.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

from benchmarks.scratch import run, workspace
from text2sql.config import read_params, section
from text2sql.files import read_jsonl, write_jsonl
from text2sql.model.prompt import PromptOptions, render
from text2sql.schema import Schema, read_index
from text2sql.sql import parse_one, table_names
from text2sql.workspace import INDEX, PROMPTS, SPLITS

INPUTS = ("data/postgres", "data/splits", "models")


def narrowed(schema: Schema, names: set[str]) -> Schema:
    """`schema` with the tables of these names, and the keys between them."""
    tables = (
        dataclasses.replace(t, foreign_keys=tuple(k for k in t.foreign_keys if k.referred_table in names))
        for t in schema.tables
        if t.name in names
    )
    return dataclasses.replace(schema, tables=tuple(tables))


def main() -> None:
    params = read_params()
    options, template = section(PromptOptions, "prompt", params), params["model"]["template"]
    schemas = read_index(INDEX)
    rows, fewer = [], 0
    for row in read_jsonl(SPLITS / "test.jsonl"):
        schema = schemas[row["db_id"]]
        tables = table_names(parse_one(row["sql"]))
        shown = narrowed(schema, tables)
        fewer += len(shown.tables) < len(schema.tables)
        prompt = render(shown, row["question"], options, template)
        rows.append({"id": row["id"], "db_id": row["db_id"], "prompt": prompt})
    print(f"{len(rows)} questions, {fewer} of which see fewer tables than there are")
    prompts = {"whole schemas": list(read_jsonl(PROMPTS / "test.jsonl")), "gold's tables only": rows}
    for what, shown_prompts in prompts.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = workspace(Path(scratch), INPUTS)
            write_jsonl(folder / "data/prompts/test.jsonl", shown_prompts)
            run(folder, "predict", "score")
            figures = json.loads((folder / "metrics/score.json").read_text())
        low, high = figures["ci95"]
        print(
            f"{what:20} {figures['execution_accuracy']:.3f} [{low:.3f}, {high:.3f}] of {figures['n']}, "
            + ", ".join(f"{k} {v['execution_accuracy']:.3f}" for k, v in figures["by_hardness"].items())
        )


if __name__ == "__main__":
    main()
