"""`data=sql_eval`: a test bed in PostgreSQL as people write it, scored only, never trained on.

sql-eval (defog-ai, Apache-2.0) has 190 questions on seven databases of defog-data. A question may have several golds,
separated by semicolons; of a list of columns in braces, `SELECT {author.name, author.aid}`, any may be returned; some
questions depend on today, so the clock is pinned; some come with instructions, which follow the question in the prompt.

The files are fetched from their addresses, checked by their hashes, and stay in `data.source.folder`: none is part of
this repository. What is trained on are the embedded data; to score an adapter that was trained elsewhere:
`python -m benchmarks.sql_eval --model models/release`.
"""

from __future__ import annotations

import csv
import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import psycopg
from sqlglot import exp

from text2sql.ask.catalog import read_catalog
from text2sql.ask.loading import scratch_database
from text2sql.config import Seconds, require
from text2sql.data.custom import FOLDER, Row, copied, copied_lines, example, with_castable_types, write_own
from text2sql.data.spider.archive import download
from text2sql.data.spider.examples import TEST_FILE
from text2sql.errors import UserError
from text2sql.files import read_beside, sha256
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.postgres.script import execute_statement, script_statements
from text2sql.postgres.server import Server, server
from text2sql.progress import track
from text2sql.schema import Schema
from text2sql.sql import tree_of
from text2sql.workspace import SOURCE

QUESTIONS = "questions_gen_postgres.csv"
#: sha256 of the questions, and of each database's script
HASHES: dict[str, str] = read_beside(__file__)


@dataclass(frozen=True)
class SqlEval:
    """data.source of kind sql_eval; conf/data/sql_eval.yaml explains each key."""

    kind: str
    folder: str
    questions_url: str
    databases_url: str
    today: str
    embedded: int
    timeout_seconds: Seconds

    def __post_init__(self) -> None:
        require(
            bool(re.fullmatch(r"\d{4}-\d\d-\d\d", self.today)), f"today must be a day as 2024-05-31, not {self.today}"
        )
        require(self.embedded > 0, "embedded must be positive: something must be trained on")

    def make(self, seed: int, target: Path = SOURCE) -> dict[str, Any]:
        """Fetch the files, and write dumps, index and examples; returns the report.

        Raises:
            UserError: a file cannot be fetched or is another one, or a database cannot be loaded.
        """
        root = Path(self.folder)
        fetch_files(root, self.questions_url, self.databases_url)
        shutil.rmtree(target, ignore_errors=True)
        folder = target / FOLDER
        folder.mkdir(parents=True)
        questions = read_eval_questions(root / QUESTIONS)
        with server() as running:
            schemas = load_databases(root, running, folder)
            with Sandbox(running, Limits(timeout_seconds=self.timeout_seconds)) as sandbox:
                shown = track(questions, "golds", len(questions))
                rows = [example_of(question, sandbox, self.today) for question in shown]
        write_own(target, schemas, rows, seed, self.embedded)
        rejected = [row["id"] for row in rows if row["status"] == "rejected"]
        counts = {"examples": {TEST_FILE: len(rows)}, "databases": len(schemas)}
        return {"kind": self.kind, **counts, "today": self.today, "rejected": rejected}


def fetch_files(root: Path, questions_url: str, databases_url: str) -> None:
    """Download what is missing below `root`, and check every file by its hash.

    Raises:
        UserError: a file cannot be downloaded, or has another hash.
    """
    for name, pinned in HASHES.items():
        path = root / name
        if not path.exists():
            db_id = path.stem
            url = questions_url if name == QUESTIONS else databases_url.format(name=db_id)
            partial = path.with_suffix(".part")
            download(url, partial)
            partial.replace(path)
        if (actual := sha256(path)) != pinned:
            raise UserError(f"{path} has sha256 {actual}, not the pinned {pinned}", "remove it, and run this again")


@dataclass(frozen=True)
class EvalQuestion:
    """A question with its golds; `category` is the authors': group_by, order_by, ratio, table_join, instruct ..."""

    id: str
    db_id: str
    question: str
    category: str
    golds: tuple[str, ...]


def read_eval_questions(path: Path) -> list[EvalQuestion]:
    """The questions of the authors' file, with their instructions behind them and their golds written out."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        EvalQuestion(
            f"{Path(TEST_FILE).stem}-{number}",
            row["db_name"],
            " ".join(f"{row['question']} {row['instructions'] or ''}".split()),
            row["query_category"],
            tuple(golds_of(row["query"])),
        )
        for number, row in enumerate(rows)
    ]


def golds_of(query: str) -> Iterator[str]:
    """The queries that the authors' notation stands for: one for each choice of columns in braces.

    >>> list(golds_of("SELECT {a, b}, count(*) FROM t GROUP BY {}; SELECT 1"))[:2]
    ['SELECT a, count(*) FROM t GROUP BY a', 'SELECT b, count(*) FROM t GROUP BY b']
    """
    for part in filter(None, map(str.strip, query.split(";"))):
        head, opened, rest = part.partition("{")
        inner, _, tail = rest.partition("}")
        if not opened:
            yield part
            continue
        columns = [column.strip() for column in inner.split(",")]
        for chosen in chain.from_iterable(combinations(columns, n) for n in range(1, len(columns) + 1)):
            text = ", ".join(chosen)
            yield head + text + tail.replace("{}", text)


def pinned(sql: str, today: str) -> str:
    """`sql` with that day in place of CURRENT_DATE, now() and the like, so that its answer is the same every day."""
    moments = (exp.CurrentTimestamp, exp.CurrentDatetime, exp.Localtimestamp)
    if (tree := tree_of(sql)) is None:
        return sql
    clock = list(tree.find_all(exp.CurrentDate, *moments))
    for node in clock:
        type_ = "date" if isinstance(node, exp.CurrentDate) else "timestamptz"
        literal = exp.cast(exp.Literal.string(today if type_ == "date" else f"{today} 12:00:00+00"), type_)
        if node is tree:
            tree = literal
        else:
            node.replace(literal)
    return tree.sql("postgres") if clock else sql


def load_databases(root: Path, running: Server, folder: Path) -> dict[str, Schema]:
    """Load each database's script into a server of ours, and a dump of it as for one's own; returns the schemas."""
    schemas = {}
    for name in HASHES:
        path = root / name
        if path.suffix != ".sql":
            continue
        with scratch_database(running) as connection:
            for statement, data in script_statements(path.read_text(encoding="utf-8")):
                try:
                    execute_statement(connection, statement, data)
                except psycopg.Error as error:
                    raise UserError(f"{path}: {error}", "remove the file, and run this again") from None
            connection.execute(b"reset all")
            schema = with_castable_types(read_catalog(connection, path.stem).schema, connection)
            schemas[path.stem] = copied(schema, functools.partial(copied_lines, connection), running, folder)
    return schemas


def example_of(question: EvalQuestion, sandbox: Sandbox, today: str) -> Row:
    """A line of examples.jsonl: the first gold that runs, and all of them under `golds`."""
    golds = [pinned(gold, today) for gold in question.golds]
    results = ((gold, sandbox.execute(question.db_id, gold)) for gold in golds)
    gold, result = next(((gold, result) for gold, result in results if not result.error), ("", None))
    reason = "no gold runs" if result is None else None
    doubt = "" if result is None or result.rows else "no rows"
    row = example(question.id, question.db_id, question.question, gold, reason, doubt)
    return row | {"golds": golds, "category": question.category}
