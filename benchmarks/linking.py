"""What a perfect choice of tables would be worth: prompts that show the gold query's tables only.

    python benchmarks/linking.py            # where the pipeline has run: its adapter, test split and schema index

An upper bound for schema linking, and no result: the gold query tells which tables there are. The adapter is the
pipeline's, which has learned on whole schemas. Predicts and scores in a scratch folder; the real one stays as it is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sqlglot import exp

from text2sql.files import read_jsonl, write_jsonl
from text2sql.model.prompt import PromptOptions, render
from text2sql.schema import Schema, read_index
from text2sql.sql import parse_one
from text2sql.stage import read_params, section

LINKED = ("stages", "text2sql", "conf", "dvc.yaml", "params.yaml", "data/postgres", "data/splits", "models")


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
    schemas = read_index(Path("data/postgres/schema_index.json"))
    rows, fewer = [], 0
    for row in read_jsonl(Path("data/splits/test.jsonl")):
        schema = schemas[row["db_id"]]
        tables = {table.name for table in parse_one(row["postgres"]).find_all(exp.Table)}
        shown = narrowed(schema, tables)
        fewer += len(shown.tables) < len(schema.tables)
        prompt = render(shown, row["question"], options, template)
        rows.append({"id": row["id"], "db_id": row["db_id"], "prompt": prompt})
    print(f"{len(rows)} questions, {fewer} of which see fewer tables than there are")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in LINKED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(Path(name).resolve())
        (folder / ".dvc").mkdir()
        write_jsonl(folder / "data/prompts/test.jsonl", rows)
        environment = {**os.environ, "DVC_ROOT": str(folder), "PYTHONPATH": str(Path.cwd())}
        for stage in ("predict", "score"):
            if subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment).returncode:
                sys.exit(f"{stage} failed")
        score = json.loads((folder / "metrics/score.json").read_text())
    before = json.loads(Path("metrics/score.json").read_text())
    for what, figures in (("whole schemas", before), ("gold's tables only", score)):
        low, high = figures["ci95"]
        print(
            f"{what:20} {figures['execution_accuracy']:.3f} [{low:.3f}, {high:.3f}] of {figures['n']}, "
            + ", ".join(f"{k} {v['execution_accuracy']:.3f}" for k, v in figures["by_hardness"].items())
        )


if __name__ == "__main__":
    main()
