"""What `data=custom` brings on a database of one's own: accuracy with 0 to 20 pairs, and with generated questions only.

    python -m benchmarks.own_database --databases advising yelp --init models/release --runs own_database

Databases and questions are those of sql-eval, written by other people for PostgreSQL. The 25 to 30 questions of a
database are dealt into three folds: each fold is answered by adapters that were trained on pairs of the other two, so
that each setting is asked every question once. Settings: no training on the database, generated questions only, and 10
or 20 pairs mixed with generated questions. Verdicts are those of sql-eval's authors. A training is a run of the
pipeline in a folder of its own; arguments behind `--` are more overrides (`-- model=tiny train.epochs=1.0`). It takes
seven trainings for a database, half an hour to an hour on two cores: what was interrupted goes on in the same --runs,
as long as code, configuration, overrides and release are what they were.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.sql_eval import configured, judge_sql_eval, read_whole
from text2sql.config import compose
from text2sql.data.custom import FOLDER
from text2sql.errors import UserError, exits
from text2sql.files import digest, read_json, read_jsonl, write_json, write_jsonl
from text2sql.model.checkpoint import fingerprint
from text2sql.schema import Schema, read_index
from text2sql.scoring.figures import wilson

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("source", "databases", "convert", "split", "base_model", "prompts", "train", "predict", "score", "release")
FOLDS = 3
#: name of a setting -> pairs of the other folds
SETTINGS = {"generated only": 0, "10 pairs": 10, "20 pairs": 20}
Row = dict[str, Any]


def deal(rows: Sequence[Row]) -> list[list[Row]]:
    """The questions in folds, in an order that depends on their text only."""
    order = sorted(rows, key=lambda row: hashlib.sha256(row["question"].encode()).hexdigest())
    return [order[i::FOLDS] for i in range(FOLDS)]


def train(work: Path, script: Path, pairs: Sequence[Row], overrides: Sequence[str]) -> Path:
    """Run the pipeline on a database and some pairs in the folder `work`; returns the release."""
    custom = work / "data/custom"
    custom.mkdir(parents=True, exist_ok=True)
    shutil.copy(script, custom / "schema.sql")
    own = ["data.source.pairs=null"]
    if pairs:
        rows = ({"question": row["question"], "sql": row["postgres"]} for row in pairs)
        write_jsonl(custom / "pairs.jsonl", rows)
        own = []
    (work / "params.yaml").write_text(compose(["data=custom", "tracking=none", *own, *overrides], ROOT / "conf"))
    shutil.copy(ROOT / "dvc.yaml", work)
    for stage in STAGES:
        command = [sys.executable, "-m", f"stages.{stage}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(work)}
        subprocess.run(command, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    return work / "models/release"


def answer(release: Path, schema: Schema, rows: Sequence[Row]) -> dict[str, str]:
    """The SQL of a release for each question; empty where the model takes none."""
    from text2sql.ask import Engine

    engine, given = Engine.load(str(release)), {}
    for row in rows:
        try:
            given[row["id"]] = engine.ask(row["question"], read_whole(schema)).sql
        except UserError as error:
            print(f"{row['id']}: {error.what}", file=sys.stderr)
            given[row["id"]] = ""
    return given


def trained_answers(
    script: Path, schema: Schema, pairs: Sequence[Row], rows: Sequence[Row], overrides: Sequence[str], work: Path
) -> dict[str, str]:
    """The SQL for each question of a release that is trained on `pairs`, in the folder `work`."""
    return answer(train(work, script, pairs, overrides), schema, rows)


def once(path: Path, answers: Callable[[Path], dict[str, str]]) -> dict[str, str]:
    """What `answers` gives, from `path` where an earlier run left it; it is called with a folder to work in."""
    if not path.exists():
        work = path.with_suffix("")
        work.mkdir(parents=True, exist_ok=True)
        write_json(path, answers(work))
        shutil.rmtree(work)
    return read_json(path)


def run_database(script: Path, schema: Schema, rows: Sequence[Row], options: argparse.Namespace) -> dict[str, Any]:
    """The answers of each setting to all questions of one database."""
    given: dict[str, dict[str, str]] = {}
    overrides = [*([f"train.init={options.init}"] if options.init else []), *options.overrides]
    if options.init:
        path = options.runs / f"{schema.db_id}-0-pairs.json"
        given["0 pairs"] = once(path, lambda _: answer(Path(options.init), schema, rows))
    for name in options.settings:
        given[name] = {}
        # without pairs nothing is held back: one training answers all questions
        folds = deal(rows) if SETTINGS[name] else [list(rows)]
        for i, fold in enumerate(folds):
            others = [row for j, other in enumerate(folds) if j != i for row in other][: SETTINGS[name]]
            path = options.runs / f"{schema.db_id}-{name}-{i}.json".replace(" ", "-")
            given[name] |= once(path, partial(trained_answers, script, schema, others, fold, overrides))
            print(f"{schema.db_id}, {name}: fold {i + 1} of {len(folds)}", file=sys.stderr, flush=True)
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", nargs="+", default=["advising", "yelp"], help="of sql-eval")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--init", type=os.path.abspath, help="the release that trainings start from: 0 pairs")
    parser.add_argument("--runs", type=Path, default=Path("own_database"), help="folder of the runs and their answers")
    parser.add_argument("--folder", help="where the files of sql-eval are (default: as in conf/data/sql_eval.yaml)")
    parser.add_argument("overrides", nargs="*", help="more overrides of the configuration, behind --")
    options = parser.parse_args()
    files = [*(ROOT / name for name in ("stages", "text2sql", "conf")), *([Path(options.init)] if options.init else [])]
    made_of = {"overrides": options.overrides, "files": [digest(path) for path in files]}
    options.runs = options.runs.resolve() / fingerprint(made_of)[:16]
    data = configured(options.folder)
    with tempfile.TemporaryDirectory() as temporary:
        data.make(1, Path(temporary))
        folder = Path(temporary) / FOLDER
        rows, schemas = list(read_jsonl(folder / "examples.jsonl")), read_index(folder / "schema_index.json")
        print(f"{'database':14}{'setting':18}{'right':>7}{'of':>5}{'accuracy':>10}   95 %")
        for db_id in options.databases:
            asked = [row for row in rows if row["db_id"] == db_id]
            script = (Path(data.folder) / "databases" / f"{db_id}.sql").resolve()
            for name, given in run_database(script, schemas[db_id], asked, options).items():
                right = sum(row["authors"] for row in judge_sql_eval(folder, given, data.today))
                low, high = wilson(right, len(given))
                share = f"{100 * right / len(given):.1f} %"
                print(f"{db_id:14}{name:18}{right:7}{len(given):5}{share:>10}   {100 * low:.0f} to {100 * high:.0f}")


if __name__ == "__main__":
    with exits("own_database"):
        main()
