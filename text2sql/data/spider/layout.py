"""Check a folder in Spider's layout, file by file: what is there, what is missing, what does not fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from text2sql.conversion.databases.names import SERVER_DATABASES
from text2sql.conversion.databases.sqlite import open_source
from text2sql.data.spider.examples import FILES, check_name, database_file, example_files, read_file
from text2sql.errors import UserError
from text2sql.files import read_json
from text2sql.progress import track

#: examples in the official release, for the report to compare with
OFFICIAL_COUNTS = {"train_spider.json": 7000, "train_others.json": 1659, "dev.json": 1034}


def verify_layout(root: Path) -> dict[str, Any]:
    """A report on the layout below `root`.

    Keys: `examples` (by file), `databases` (number present), `missing_databases` ({db_id: examples that use it}),
    `without_rows` (db_ids), `table_mismatches` ({db_id: what differs from tables.json}), `not_in_tables_json`.

    Raises:
        UserError: a file of the layout is absent or no valid JSON, or a database is damaged or called as one of
            PostgreSQL's own.
    """
    described = {entry["db_id"]: entry for entry in _read_tables(root / "tables.json")}
    examples = {name: read_file(_must_exist(root / name)) for name in example_files(root)}
    used = Counter(row["db_id"] for rows in examples.values() for row in rows)
    present = {db_id: database_file(root, db_id) for db_id in sorted({*described, *used})}
    present = {db_id: path for db_id, path in present.items() if path.exists()}
    if not present:
        raise UserError(f"{root} has no database/<db_id>/<db_id>.sqlite", "use an archive that holds the databases")
    if taken := sorted(SERVER_DATABASES & set(present)):
        what = f"database {taken[0]} cannot be scored under this name: every PostgreSQL server has one of that name"
        raise UserError(what, "rename it in the archive: in database/, tables.json and the examples")
    without_rows, mismatches = [], {}
    for db_id, path in track(present.items(), "checking databases", len(present)):
        tables = filled_tables(path)
        if not any(tables.values()):
            without_rows.append(db_id)
        if db_id in described and (difference := _differs(tables, described[db_id])):
            mismatches[db_id] = difference
    return {
        "examples": {name: len(rows) for name, rows in examples.items()},
        "databases": len(present),
        "missing_databases": {db_id: n for db_id, n in sorted(used.items()) if db_id not in present},
        "without_rows": without_rows,
        "table_mismatches": mismatches,
        "not_in_tables_json": sorted(set(used) - set(described)),
    }


def filled_tables(path: Path) -> dict[str, bool]:
    """The tables of a SQLite file that can be read, and whether they have rows, after its own integrity check.

    Raises:
        UserError: the file is no database or is damaged.
    """
    with open_source(path) as source:
        tables = [table for table in source.tables() if table.kind != "view"]
        return {table.name: next(source.rows(table), None) is not None for table in tables}


def _must_exist(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path.name} is missing", "use an archive in Spider's layout: " + ", ".join(FILES))
    return path


def _read_tables(path: Path) -> list[dict[str, Any]]:
    entries = read_json(_must_exist(path))
    if not isinstance(entries, list) or not all(_is_schema(entry) for entry in entries):
        what = f"{path} is not a list of schemas with db_id, table_names_original and column_names_original"
        raise UserError(what, "use the official file")
    for index, entry in enumerate(entries):
        check_name(entry["db_id"], f"{path}, schema {index}")
    return entries


def _is_schema(entry: Any) -> bool:
    """Whether an entry has names of tables, and columns as pairs of a table's number and a name."""
    if not isinstance(entry, dict) or "db_id" not in entry:
        return False
    tables, columns = entry.get("table_names_original"), entry.get("column_names_original")
    if not isinstance(tables, list) or not all(isinstance(name, str) for name in tables):
        return False
    return isinstance(columns, list) and all(isinstance(column, list) and len(column) == 2 for column in columns)


def _differs(tables: Iterable[str], described: dict[str, Any]) -> str:
    """How the tables of a database differ from its entry of tables.json, in words; empty if they do not."""
    found = {name.lower() for name in tables}
    expected = {name.lower() for name in described["table_names_original"]} - {"sqlite_sequence"}
    parts = [f"lacks {', '.join(sorted(expected - found))}"] if expected - found else []
    surplus = found - expected
    parts += [f"also has {', '.join(sorted(surplus))}"] if surplus else []
    return "; ".join(parts)
