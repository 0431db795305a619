"""Writes the embedded data set in Spider's layout: train_*.json, dev.json, tables.json and SQLite databases.

The bytes depend on the seed alone: not on the platform, hash order or the version of SQLite. The demo domains (the
dev part) do not even depend on the seed, because their questions are written by hand for their rows.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any

from text2sql.data.mini.domain import Domain, TableSpec, load_folder
from text2sql.data.mini.english import spoken
from text2sql.data.mini.graph import from_domain
from text2sql.data.mini.questions import generate_questions
from text2sql.data.mini.rows import Rows, make_rows
from text2sql.data.mini.sql_parts import quoted
from text2sql.data.spider.examples import EMBEDDED_FILE
from text2sql.errors import UserError
from text2sql.files import read_json, write_json, write_text

#: the version that SQLite files bear instead of that of the library which happened to write them (bytes 96 to 99)
SQLITE_VERSION = 3040000


def generate_dataset(target: Path, seed: int, questions_per_domain: int) -> None:
    """Write the data set to the folder `target`.

    Args:
        target: made if it is not there; files of an earlier run are replaced.
        seed: decides rows and questions of the training domains.
        questions_per_domain: generated for each training domain; the demo domains keep their ten.
    """
    train, tables = write_training_part(target, seed, questions_per_domain)
    dev = []
    for domain in load_folder("demo"):
        write_database(target, domain, make_rows(domain, "demo")).close()
        dev += [{"db_id": domain.db_id, "query": sql, "question": text} for text, sql in domain.questions]
        tables.append(spider_tables(domain))
    write_json(target / "train_spider.json", train)
    write_json(target / "train_others.json", [])
    write_json(target / "dev.json", dev)
    write_json(target / "tables.json", sorted(tables, key=lambda t: t["db_id"]))


def write_training_part(
    target: Path, seed: int, questions_per_domain: int, others: Collection[str] = (), ratios: float = 0.0
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Write the databases of the training domains; returns their examples, and their entries of tables.json.

    Raises:
        UserError: one of the `others`, databases that will lie beside them, has the name of a domain.
    """
    domains = load_folder("domains")
    if both := sorted({*others} & {domain.db_id for domain in domains}):
        what = f"{', '.join(both)}: a database of this name is in the embedded data as well"
        raise UserError(what, "give the database another name, or set embedded to 0")
    examples, tables = [], []
    for domain in domains:
        rows = make_rows(domain, seed)
        connection = write_database(target, domain, rows)
        rng = random.Random(f"{seed}/{domain.db_id}/questions")
        graph = from_domain(domain, rows)
        asked = generate_questions(
            graph, lambda sql, c=connection: c.execute(sql).fetchall(), rng, questions_per_domain, ratios
        )
        examples += [{"db_id": domain.db_id, "query": one.sql, "question": one.question} for one in asked]
        connection.close()
        tables.append(spider_tables(domain))
    return examples, tables


def add_embedded(target: Path, seed: int, questions_per_domain: int, ratios: float) -> None:
    """Write the training domains, and generated examples on them as embedded.json, into a data set in Spider's layout.

    Args:
        ratios: the share of questions on ratios and on days between two dates.

    Raises:
        UserError: the data set has a database of the name of a domain.
    """
    described = read_json(target / "tables.json")
    others = {entry["db_id"] for entry in described} | {path.name for path in (target / "database").iterdir()}
    examples, tables = write_training_part(target, seed, questions_per_domain, others, ratios)
    write_json(target / "tables.json", [*described, *tables])
    write_json(target / EMBEDDED_FILE, examples)


def write_database(target: Path, domain: Domain, rows: Rows) -> sqlite3.Connection:
    """Write schema.sql and the SQLite file of a domain; returns a connection to the same content in memory."""
    folder = target / "database" / domain.db_id
    ddl = "\n\n".join(create_sqlite_table(table) for table in domain.tables) + "\n"
    write_text(folder / "schema.sql", ddl)
    connection = sqlite3.connect(":memory:")
    connection.executescript(f"PRAGMA page_size = 4096; PRAGMA encoding = 'UTF-8'; PRAGMA foreign_keys = ON; {ddl}")
    for table in domain.tables:
        marks = ", ".join("?" * len(table.columns))
        connection.executemany(f"INSERT INTO {quoted(table.name)} VALUES ({marks})", rows[table.name])
    connection.commit()
    image = bytearray(connection.serialize())
    image[24:28] = image[92:96] = (1).to_bytes(4, "big")  # change counter, and the version that it is valid for
    image[96:100] = SQLITE_VERSION.to_bytes(4, "big")
    path = folder / f"{domain.db_id}.sqlite"
    path.write_bytes(image)
    return connection


def create_sqlite_table(table: TableSpec) -> str:
    """A table's CREATE statement."""
    lines = []
    for column in table.columns:
        inline = " PRIMARY KEY" if table.key == (column.name,) else ""
        lines.append(f"{quoted(column.name)} {column.type}{inline}")
    if len(table.key) > 1:
        lines.append(f"PRIMARY KEY ({', '.join(map(quoted, table.key))})")
    for column in table.columns:
        if column.ref:
            parent, parent_column = map(quoted, column.ref)
            lines.append(f"FOREIGN KEY ({quoted(column.name)}) REFERENCES {parent} ({parent_column})")
    body = ",\n".join(f"  {line}" for line in lines)
    return f"CREATE TABLE {quoted(table.name)} (\n{body}\n);"


def spider_tables(domain: Domain) -> dict[str, Any]:
    """A domain's entry of tables.json. Column 0 is `*`; keys are positions in the list of columns."""
    columns = [(t, table, column) for t, table in enumerate(domain.tables) for column in table.columns]
    position = {(table.name, column.name): i for i, (_, table, column) in enumerate(columns, start=1)}
    return {
        "column_names": [[-1, "*"], *([t, spoken(c.name)] for t, _, c in columns)],
        "column_names_original": [[-1, "*"], *([t, c.name] for t, _, c in columns)],
        "column_types": ["text", *(_spider_type(c.type) for _, _, c in columns)],
        "db_id": domain.db_id,
        "foreign_keys": [[position[t.name, c.name], position[c.ref]] for _, t, c in columns if c.ref],
        "primary_keys": [position[t.name, k] for t in domain.tables for k in t.key],
        "table_names": [spoken(t.name) for t in domain.tables],
        "table_names_original": [t.name for t in domain.tables],
    }


def _spider_type(declared: str) -> str:
    """Spider knows text, number, time, boolean and others."""
    name = declared.partition("(")[0].upper()
    if "BOOL" in name:
        return "boolean"
    if "DATE" in name or "TIME" in name:
        return "time"
    return "text" if "CHAR" in name or name == "TEXT" else "number"
