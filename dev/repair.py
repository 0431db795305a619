"""What a second query gains where the server refuses the first one, and what it costs (`Engine.repair`).

    python dev/repair.py                # models/release, data/predictions/test.jsonl
    python dev/repair.py models/kept/qwen2.5-coder-0.5b-spider

Each predicted query is executed; those that the server refuses are asked again with its message, and both are judged.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

from text2sql.ask.engine import REFUSALS, Answer, Engine
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.progress import track
from text2sql.schema import read_index
from text2sql.scoring.predictions import judge_predictions, read_predictions
from text2sql.scoring.versus import PREDICTIONS, difference

SPLIT, POSTGRES = Path("data/splits/test.jsonl"), Path("data/postgres")
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="models/release", help="that made the predictions")
    model = parser.parse_args().model
    rows = read_predictions(PREDICTIONS, SPLIT)
    schemas, names = read_index(POSTGRES / "schema_index.json"), sorted({row["db_id"] for row in rows})
    with loaded_sandbox(names, POSTGRES / "databases", Limits(), WORKERS) as sandbox:
        refusals = [sandbox.execute(row["db_id"], row["predicted"]) for row in rows]
        pairs = zip(rows, refusals, strict=True)
        refused = [(row, refusal) for row, refusal in pairs if (refusal.sqlstate or "")[:2] in REFUSALS]
        print(f"{len(refused)} of {len(rows)} predicted queries are refused")
        if not refused:
            return
        engine, second, started = Engine.load(model), [], time.perf_counter()
        for row, refusal in track(refused, "asking again", len(refused)):
            first = Answer(row["question"], row["predicted"])
            execute = functools.partial(sandbox.execute, row["db_id"])
            answer = engine.repair(first, refusal, schemas[row["db_id"]], execute)
            second.append({**row, "predicted": answer.sql})
        seconds = time.perf_counter() - started
        before, after = (judge_predictions(sandbox, part, WORKERS)[0] for part in ([r for r, _ in refused], second))
    run = sum(row["predicted"] != again["predicted"] for row, again in zip(before, after, strict=True))
    gained = len(difference(after, before, "verdict_suite").gained)
    print(f"{run} of them run after a second query, {gained} are right: {gained / len(rows):+.2%} accuracy")
    print(f"{seconds / len(refused):.1f} s for each that was refused")


if __name__ == "__main__":
    main()
