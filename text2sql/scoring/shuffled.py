"""Predictions on other rows: the same tables, types and keys, with the values of each column in another order.

A query may be right by chance on the rows that a database happens to have: `ORDER BY id DESC LIMIT 1` for the newest,
a join that pairs the right rows for the wrong reason. Public test suites (Zhong et al., EMNLP 2020) generate rows that
tell such queries apart; shuffled values do the same without inventing any, so that every literal of a question still
occurs. A prediction counts as right here if it is right on the original rows and on each of `SETS` shuffled ones.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from text2sql.postgres.load import END_OF_DATA, sandbox_with
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.progress import track
from text2sql.scoring.judge import judge

#: sets of shuffled rows for each database
SETS = 8
NULL = "\\N"
# the lines of a dump (text2sql/conversion/databases/dump.py) that name a table's columns and its keys of several
_NAME = r'"(?:[^"]|"")*"|[^\s,()"]+'
_LIST = r"\((.*)\)"
_CREATE = re.compile(rf"CREATE TABLE ({_NAME}) \($")
_COPY = re.compile(rf"COPY ({_NAME}) {_LIST} FROM stdin;$")
_KEY = re.compile(rf"    (?:PRIMARY KEY|UNIQUE) {_LIST},?$")
_REFERENCE = re.compile(rf"ALTER TABLE ({_NAME}) ADD FOREIGN KEY \((.*)\) REFERENCES ")


def judge_on_shuffled(rows: Sequence[dict[str, Any]], dumps: Path, limits: Limits, workers: int) -> None:
    """Give each judged row its `verdict_shuffled`: None if it is excluded, False if it was wrong already.

    A set of rows on which the gold query fails says nothing and is passed over.
    """
    from text2sql.postgres.server import server

    for row in rows:
        row["verdict_shuffled"] = row["verdict_suite"]
    with server() as running, tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(workers) as pool:
        for number in track(range(SETS), "on shuffled rows"):
            left = [row for row in rows if row["verdict_shuffled"]]
            databases = sorted({row["db_id"] for row in left})
            for db_id in databases:
                write_shuffled(dumps / f"{db_id}.sql", number, Path(name) / f"{db_id}.sql")
            with sandbox_with(running, databases, Path(name), limits, workers) as sandbox:
                for row, right in zip(left, pool.map(lambda row: _is_right(sandbox, row), left), strict=True):
                    row["verdict_shuffled"] = right


def _is_right(sandbox: Sandbox, row: Mapping[str, Any]) -> bool:
    judged = judge(sandbox, row["db_id"], row["gold"], row["predicted"])
    return judged.excluded or judged.suite.correct


def write_shuffled(dump: Path, number: int, target: Path) -> None:
    """Write a dump with shuffled rows; `number` says which of the sets, the same on every machine."""
    with dump.open(encoding="utf-8", newline="\n") as lines:
        text = list(lines)
    with target.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(shuffled_lines(text, random.Random(f"{dump.stem} {number}")))


def shuffled_lines(dump: Sequence[str], chance: random.Random) -> Iterator[str]:
    """A dump's lines with the values of each column in another order. NULLs stay where they are, and columns that form
    a key together are moved together, so that every key and reference holds as before."""
    keys = keys_of_several(dump)
    lines = iter(dump)
    for line in lines:
        yield line
        header = _COPY.match(line)
        if header is None:
            continue
        rows = [data[:-1].split("\t") for data in iter(lambda: next(lines), END_OF_DATA)]
        for unit in units(_names(header[2]), keys.get(header[1], [])):
            movable = [row for row in rows if all(row[column] != NULL for column in unit)]
            values = [[row[column] for column in unit] for row in movable]
            chance.shuffle(values)
            for row, new in zip(movable, values, strict=True):
                for column, value in zip(unit, new, strict=True):
                    row[column] = value
        yield from ("\t".join(row) + "\n" for row in rows)
        yield END_OF_DATA


def keys_of_several(dump: Iterable[str]) -> dict[str, list[list[str]]]:
    """By table, the primary, unique and foreign keys of several columns; names as the dump writes them."""
    keys: dict[str, list[list[str]]] = {}
    table = ""
    for line in dump:
        if created := _CREATE.match(line):
            table = created[1]
        elif key := _KEY.match(line):
            keys.setdefault(table, []).append(_names(key[1]))
        elif reference := _REFERENCE.match(line):
            keys.setdefault(reference[1], []).append(_names(reference[2]))
    keys = {table: [key for key in of_table if len(key) > 1] for table, of_table in keys.items()}
    return {table: of_table for table, of_table in keys.items() if of_table}


def units(columns: list[str], keys: Iterable[list[str]]) -> list[list[int]]:
    """The places of columns that are moved together: those of one key, and of keys that share a column.

    >>> units(["a", "b", "c", "d"], [["a", "c"], ["c", "d"]])
    [[1], [0, 2, 3]]
    """
    groups = [{name} for name in columns]
    for key in keys:
        together = [group for group in groups if group & set(key)]
        groups = [group for group in groups if group not in together] + [set().union(*together)]
    return [sorted(columns.index(name) for name in group) for group in groups]


def _names(text: str) -> list[str]:
    return re.findall(_NAME, text)
