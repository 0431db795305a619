"""The examples of a data set in Spider's layout, each with the id that follows it through the pipeline.

Every example file is a list of objects with at least `db_id`, `question` and `query`; for instance

    {"db_id": "concert_hall", "question": "How many singers are there?", "query": "SELECT count(*) FROM singer"}

The id is the file's stem and the place in it: `train_spider-17`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import read_json

#: example files in the order in which the pipeline goes through them; those of `TEST_FILE` are the test split
FILES = ("train_spider.json", "train_others.json", "dev.json")
TEST_FILE = "dev.json"
#: generated examples on the embedded domains, trained on among the others, where there are any (not of Spider's layout)
EMBEDDED_FILE = "embedded.json"
#: stems of the ids of examples on one's own database: pairs that people wrote, and generated ones
PAIRS, GENERATED = "custom", "generated"
#: of a database of PostgreSQL, in bytes
LONGEST_NAME = 63
KEYS = ("db_id", "question", "query")


@dataclass(frozen=True)
class Example:
    """A question on a database with its gold SQLite query."""

    id: str
    db_id: str
    question: str
    sqlite: str


def read_file(path: Path) -> list[dict[str, Any]]:
    """The objects of one example file, checked for their keys.

    Raises:
        UserError: not a list of objects, or one without a text under `db_id`, `question` or `query` (with its place).
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} is not a list of examples", "put the file of the official release there")
    for index, row in enumerate(rows):
        for key in KEYS:
            if not isinstance(row, dict) or not is_text(row.get(key)):
                raise UserError(f"{path}, example {index}: no text under {key!r}", "mend or remove that example")
        check_name(row["db_id"], f"{path}, example {index}")
    return rows


def is_text(value: Any) -> bool:
    """Whether this is a text that a file and PostgreSQL can hold: no NUL, no half of a character."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def check_name(db_id: Any, where: str) -> None:
    """Refuse a db_id that cannot name a file and a database.

    Raises:
        UserError: saying `where` it stands.
    """
    if not is_text(db_id) or db_id in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", db_id):
        raise UserError(f"{where}: {db_id!r:.80} cannot name a database", "use letters, digits and _")
    if len(db_id.encode()) > LONGEST_NAME:
        raise UserError(f"{where}: the db_id {db_id[:40]}... is longer than {LONGEST_NAME} bytes", "shorten it")


def example_files(root: Path) -> tuple[str, ...]:
    """The names of the example files that must be below `root`: `FILES`, and the embedded examples if there are any."""
    return (*FILES, EMBEDDED_FILE) if (root / EMBEDDED_FILE).exists() else FILES


def source_examples(root: Path) -> Iterator[Example]:
    """All examples below `root`, in source order."""
    for name in example_files(root):
        stem = Path(name).stem
        for index, row in enumerate(read_file(root / name)):
            yield Example(f"{stem}-{index}", row["db_id"], row["question"], row["query"])


def database_file(root: Path, db_id: str) -> Path:
    """Where Spider's layout keeps the SQLite file of `db_id`; it may be absent."""
    return root / "database" / db_id / f"{db_id}.sqlite"
