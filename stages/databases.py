"""Stage databases: every SQLite database to a PostgreSQL dump, and an index of all schemas.

PostgreSQL is stricter than SQLite: types, keys and names are settled here once, from the declarations and the values,
and each dump is loaded into a real PostgreSQL and compared with its source, row by row, before the stage ends.

Reads data/source/database/. Writes data/postgres/databases/<db_id>.sql and data/postgres/schema_index.json.
"""

from __future__ import annotations

import functools
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from text2sql.config import read_params, require, section
from text2sql.conversion.databases import describe, open_source, write_dump
from text2sql.conversion.engines import connect_as_text
from text2sql.conversion.rows_check import differences
from text2sql.data import custom
from text2sql.errors import UserError
from text2sql.postgres.load import loaded
from text2sql.postgres.server import Server, server
from text2sql.progress import in_parallel
from text2sql.schema import Schema, write_index
from text2sql.stage import run
from text2sql.workspace import DUMPS, INDEX, SOURCE


@dataclass(frozen=True)
class Params:
    """data.databases."""

    samples: int

    def __post_init__(self) -> None:
        require(self.samples >= 0, "samples must not be negative")


def convert_database(path: Path, running: Server, samples: int) -> tuple[str, Schema | str]:
    """Dump, load and compare one database; returns its name and its schema, or why it cannot be read.

    Raises:
        RuntimeError: the loaded rows differ from SQLite's, which is a defect of ours.
    """
    db_id, dump = path.stem, DUMPS / f"{path.stem}.sql"
    try:
        with open_source(path) as source:
            schema = describe(source, db_id, samples)
            write_dump(source, schema, dump)
            with (
                connect_as_text(running.dsn()) as connection,
                dump.open(encoding="utf-8", newline="\n") as lines,
                loaded(connection, db_id, lines),
            ):
                if different := differences(source, schema, connection):
                    raise RuntimeError(f"{db_id}: PostgreSQL holds other rows than SQLite: {different}")
            schema = replace(schema, notes=tuple(source.notes))
    except UserError as error:
        dump.unlink(missing_ok=True)
        return db_id, str(error)
    return db_id, schema


def read_options(params: dict[str, Any]) -> Params:
    """data.databases."""
    return section(Params, "data.databases", params)


def main() -> str:
    params = read_options(read_params())
    shutil.rmtree(DUMPS, ignore_errors=True)
    DUMPS.mkdir(parents=True)
    schemas = custom.own_databases(SOURCE, DUMPS, params.samples)
    files = sorted(path for path in (SOURCE / "database").glob("*/*.sqlite") if path.stem == path.parent.name)
    if schemas and not files:
        write_index(INDEX, schemas)
        return "one's own database, passed on"
    if not files:
        raise UserError(
            f"{SOURCE} holds no database/<db_id>/<db_id>.sqlite", "run the stage source first: dvc repro source"
        )
    # The largest first, so that no worker is left alone with one at the end.
    files.sort(key=lambda path: -path.stat().st_size)
    with server() as running:
        convert = functools.partial(convert_database, running=running, samples=params.samples)
        for db_id, result in in_parallel(convert, files, "databases"):
            if isinstance(result, str):
                print(f"{db_id}: left out: {result}", file=sys.stderr)
            else:
                schemas[db_id] = result
    write_index(INDEX, schemas)
    tables = [table for schema in schemas.values() for table in schema.tables]
    notes = sum(len(schema.notes) for schema in schemas.values())
    rows = sum(table.rows for table in tables)
    left_out = f", {len(files) - len(schemas)} left out" if len(files) > len(schemas) else ""
    return f"{len(schemas)} databases{left_out}, {len(tables)} tables, {rows:,} rows equal on both sides, {notes} notes"


if __name__ == "__main__":
    run(main)
