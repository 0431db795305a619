"""`data=custom`: one's own database, and questions on it that people wrote, that are generated, or both.

    server, SQLite or schema file  --copy-->  dump, schema index      as the stage databases writes them
    pairs of question and SQL      --try-->   examples, each with a status and a reason    as convert writes them
    the shapes of the embedded data on this schema  --try-->  more examples

SQL is PostgreSQL's from the start, so there is nothing to convert; the stages databases and convert pass on what lies
in `FOLDER`. Every query is executed in the sandbox on the copy before it may be trained on. A schema file is loaded
into a server of ours and gets made-up rows (text2sql/data/made); from there on it is a database like any other.

Privacy: hidden tables and columns are left out of the copy, so neither their names nor their values can get into a
prompt, a metric or a model. Sample values are kept apart in the index and dropped by the stage databases unless
`data.databases.samples` asks for some. The DSN is taken from the environment and written nowhere.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psycopg
from sqlglot.errors import SqlglotError

from text2sql.config import Seconds, require
from text2sql.conversion.databases import describe, open_source
from text2sql.conversion.databases.dump import copy_lines, script, write_lines
from text2sql.conversion.databases.names import database_name, lower
from text2sql.data.made.made_rows import fill_tables
from text2sql.data.mini.dataset import write_training_part
from text2sql.data.mini.graph import from_schema
from text2sql.data.mini.questions import generate_questions
from text2sql.data.pairs import Pair, read_pairs, same_spelling, without_own_names
from text2sql.data.spelling import spelled
from text2sql.data.spider.examples import FILES, GENERATED, PAIRS
from text2sql.errors import UserError
from text2sql.files import read_jsonl, write_json, write_jsonl
from text2sql.postgres.alternatives import Execute
from text2sql.postgres.compare import Result
from text2sql.postgres.load import load_dump
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.postgres.server import Server, server
from text2sql.progress import track
from text2sql.schema import OTHER_SAMPLES, Column, Schema, Table, kind_of, quote, read_index, write_index
from text2sql.scoring.hardness import hardness_of_gold
from text2sql.sql import parse, table_names
from text2sql.workspace import EXAMPLES, INDEX, SOURCE

if TYPE_CHECKING:
    from text2sql.ask.catalog import Relations

# What the room ask gives is imported where it is used: the stages databases and convert, which pass on what lies here,
# need no model.
Lines = Callable[[Table], Iterable[str]]
Row = dict[str, Any]
#: below data/source; there is one only if the data are one's own
FOLDER = "postgres"
#: values kept of each column, of which the stage databases takes as many as are asked for
SAMPLES = 1000
#: rows whose values the question generator knows; a longer value is not looked at
KNOWN_ROWS, LONGEST_VALUE = 2000, 500
#: why no query is verified on the rows of a schema file: nobody knows its right answer
MADE_UP = "the rows are made up"
#: notices shown on the terminal, of each sort
SHOWN = 20
#: fewer usable questions than this make no training, validation and test split
FEWEST = 10


@dataclass(frozen=True)
class Custom:
    """data.source of kind custom; conf/data/custom.yaml explains each key."""

    kind: str
    database: str | None
    dsn_variable: str
    pairs: str | None
    questions: int
    embedded: int
    hidden: tuple[str, ...]
    rows: int
    timeout_seconds: Seconds

    def __post_init__(self) -> None:
        require(self.questions >= 0, "questions must not be negative")
        require(
            self.pairs is not None or self.questions >= FEWEST, f"questions must be at least {FEWEST} without pairs"
        )
        require(self.embedded >= 0, "embedded must not be negative")
        require(self.rows > 0, "rows must be positive")

    def make(self, seed: int, target: Path = SOURCE) -> dict[str, Any]:
        """Write dump, index and examples to `FOLDER` of `target`; returns the report.

        Raises:
            UserError: database or pairs cannot be read, or hardly any question is left.
        """
        pairs = list(read_pairs(Path(self.pairs))) if self.pairs else []
        shutil.rmtree(target, ignore_errors=True)
        folder = target / FOLDER
        folder.mkdir(parents=True)
        with server() as running:
            with open_own(self, running, seed) as own:
                schema = copied(own.schema, own.lines, running, folder)
            with Sandbox(running, Limits(timeout_seconds=self.timeout_seconds)) as sandbox:
                execute = functools.partial(sandbox.execute, schema.db_id)
                rows = list(tried(pairs, schema, execute, own.doubt, own.relations))
                if self.questions:
                    rows += generated(schema, running, execute, seed, self.questions, own.doubt)
        write_own(target, {schema.db_id: schema}, rows, seed, self.embedded)
        return custom_report(rows, schema, self)


# --- The database -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnDatabase:
    """A schema without what is hidden, the lines of COPY for each of its tables, and why these rows prove nothing."""

    schema: Schema
    lines: Lines
    doubt: str = ""
    relations: Relations = field(default_factory=dict)


def open_own(options: Custom, running: Server, seed: int) -> AbstractContextManager[OwnDatabase]:
    """The user's database: a server, an SQLite file, or a schema file on a server of ours.

    Raises:
        UserError: there is no database, or it cannot be read.
    """
    from text2sql.ask.place import is_sqlite

    if options.database is None:
        if not (dsn := os.environ.get(options.dsn_variable)):
            remedy = f"set data.source.database to a schema file or SQLite database, or {options.dsn_variable} to a DSN"
            raise UserError("no database is given", remedy)
        return from_server(options, dsn)
    path = Path(options.database)
    return from_sqlite(options, path) if is_sqlite(path) else from_file(options, path, running, seed)


@contextmanager
def from_server(options: Custom, dsn: str) -> Iterator[OwnDatabase]:
    """A server that is read through `dsn`; a note names each table that cannot be read, and is left out."""
    from text2sql.ask.catalog import leave_out
    from text2sql.ask.servers import Remote, server_message

    with Remote(dsn, seconds=options.timeout_seconds) as remote, TemporaryDirectory() as folder:
        catalog = remote.catalog(hidden=options.hidden)
        relations, tables, notes, unread = catalog.target.relations, [], list(catalog.schema.notes), []
        copies = {table.name: Path(folder) / f"{number}" for number, table in enumerate(catalog.schema.tables)}

        def lines(table: Table) -> Iterator[str]:
            with copies[table.name].open(encoding="utf-8", newline="\n") as copy:
                yield from copy

        for table in catalog.schema.tables:
            alone = replace(catalog.schema, tables=(table,), notes=())
            try:
                with remote.transaction() as connection:
                    alone = with_castable_types(alone, connection, relations)
                    write_lines(copies[table.name], copied_lines(connection, *alone.tables, options.rows, relations))
                notes += alone.notes
            except psycopg.Error as error:
                if error.sqlstate is None:  # nothing the server said: it is gone
                    raise
                unread.append(table.name)
                notes.append(f"{table.name} is left out: it cannot be read ({server_message(error)})")
            tables += alone.tables
        if len(unread) == len(tables):
            raise UserError(f"no table can be read: {notes[-1]}", "use a role that may read them")
        schema = replace(catalog.schema, tables=tuple(tables), notes=tuple(notes))
        yield OwnDatabase(leave_out(schema, unread), lines, relations=relations)


@contextmanager
def from_sqlite(options: Custom, path: Path) -> Iterator[OwnDatabase]:
    """An SQLite database as the stage databases describes it."""
    from text2sql.ask.catalog import hide

    with open_source(path) as opened:
        whole = describe(opened, path.stem, 0)
        by_name = {table.name: table for table in opened.tables()}

        def lines(table: Table) -> Iterator[str]:
            names = [column.name for t in whole.tables if t.name == table.name for column in t.columns]
            kept = [names.index(column.name) for column in table.columns]
            rows = islice(opened.rows(by_name[table.source]), options.rows)
            return copy_lines(table.columns, (tuple(row[i] for i in kept) for row in rows))

        yield OwnDatabase(hide(whole, [lower(name) for name in options.hidden]), lines)


@contextmanager
def from_file(options: Custom, path: Path, running: Server, seed: int) -> Iterator[OwnDatabase]:
    """A schema file, loaded into a database of ours as far as PostgreSQL takes it, with made-up rows."""
    from text2sql.ask.catalog import hide
    from text2sql.ask.schema_file import loaded_schema, schema_text

    with loaded_schema(schema_text(path), running, path.stem, str(path), rows=True) as (catalog, connection):
        schema, relations = catalog.schema, catalog.target.relations
        filled, notes = fill_tables(connection, random.Random(seed))
        shown = hide(replace(schema, notes=(*schema.notes, *notes)), options.hidden)
        castable = with_castable_types(shown, connection, relations)
        doubt = MADE_UP if filled else ""

        def lines(table: Table) -> Iterator[str]:
            return copied_lines(connection, table, options.rows, relations)

        yield OwnDatabase(castable, lines, doubt, relations)


def copied_lines(
    connection: psycopg.Connection, table: Table, limit: int | None = None, relations: Relations | None = None
) -> Iterator[str]:
    """The first rows of a table (all without a limit) as the server's own COPY writes them, as the types of `table`.

    Args:
        relations: tables whose schema SQL must name.
    """
    from text2sql.ask.catalog import relation

    names = ", ".join(f"{quote(column.name)}::{column.type}" for column in table.columns)
    with connection.cursor() as cursor:
        query = f"copy (select {names} from {relation(table.name, relations or {})} limit {limit or 'all'}) to stdout"
        with cursor.copy(query.encode()) as copy:
            pending = b""
            for block in copy:
                *whole, pending = (pending + bytes(block)).split(b"\n")
                yield from (line.decode(errors="replace") + "\n" for line in whole)  # no UTF-8: of SQL_ASCII


def with_columns(schema: Schema, change: Callable[[Table, Column], Column]) -> Schema:
    """`schema` with each column changed."""
    tables = (replace(t, columns=tuple(change(t, column) for column in t.columns)) for t in schema.tables)
    return replace(schema, tables=tuple(tables))


def with_types(schema: Schema, right: Callable[[Table, Column], bool]) -> Schema:
    """`schema` with text for the columns whose types are not right, and a note on each."""
    notes = list(schema.notes)

    def typed(table: Table, column: Column) -> Column:
        if right(table, column):
            return column
        plain = "text[]" if column.type.endswith("[]") else "text"
        notes.append(f"{table.name}.{column.name} is {plain} here, not {column.type}")
        return replace(column, type=plain)

    return replace(with_columns(schema, typed), notes=tuple(notes))


def with_castable_types(schema: Schema, connection: psycopg.Connection, relations: Relations | None = None) -> Schema:
    """`schema` with text for columns that the server cannot cast to the type in a prompt (bit(8) to boolean)."""
    from text2sql.ask.catalog import relation

    def runs(what: str, table: Table) -> bool:
        try:
            with connection.transaction():
                connection.execute(f"select {what} from {relation(table.name, relations or {})} limit 0".encode())
        except psycopg.Error:
            return False
        return True

    def castable(column: Column) -> str:
        return f"{quote(column.name)}::{column.type}"

    whole = {t.name for t in schema.tables if runs(", ".join(map(castable, t.columns)), t)}
    return with_types(schema, lambda table, column: table.name in whole or runs(castable(column), table))


def loadable(schema: Schema, running: Server) -> Schema:
    """`schema` as a server of ours can hold it: under a name that is free there, with text for types that it does not
    know, as those of extensions, and keys that are shown but not enforced.

    Keys may point to rows beyond the limit of rows, or to columns that are unique only on the user's server.
    """
    with psycopg.connect(running.dsn(), autocommit=True) as connection:
        ask = "select to_regtype(%s) is not null"
        known = functools.cache(lambda type_: connection.execute(ask, [type_]).fetchone()[0])
        schema = with_types(schema, lambda _, column: known(column.type))
    if (name := database_name(schema.db_id)) != schema.db_id:
        schema = replace(schema, db_id=name, notes=(*schema.notes, f"database {schema.db_id}: named {name} here"))
    keys = {table.name: tuple(replace(key, enforced=False) for key in table.foreign_keys) for table in schema.tables}
    return replace(schema, tables=tuple(replace(table, foreign_keys=keys[table.name]) for table in schema.tables))


def copied(schema: Schema, lines: Lines, running: Server, folder: Path) -> Schema:
    """Write a database's dump to `folder` and load it into a server of ours; returns its schema there, with the keys
    that its names speak of where it declares none, the numbers of rows, and sample values.

    Raises:
        UserError: the dump cannot be loaded.
    """
    from text2sql.ask.inferred_keys import with_inferred_keys

    schema = loadable(with_inferred_keys(schema), running)
    dump = folder / f"{schema.db_id}.sql"
    write_lines(dump, script(schema, lines))
    try:
        load_dump(running, dump, schema.db_id)
    except psycopg.Error as error:
        what = f"the copy of the database cannot be loaded: {str(error).splitlines()[0]}"
        raise UserError(what, "hide the table or column with data.source.hidden") from None
    with psycopg.connect(running.dsn(schema.db_id), autocommit=True) as connection:
        return with_samples(schema, connection)


def with_samples(schema: Schema, connection: psycopg.Connection) -> Schema:
    """`schema` with the numbers of rows and some values of each column."""

    def rows(table: Table) -> int:
        return connection.execute(f"select count(*) from {quote(table.name)}".encode()).fetchone()[0]

    schema = with_columns(schema, lambda t, column: replace(column, samples=distinct_values(t, column, connection)))
    return replace(schema, tables=tuple(replace(table, rows=rows(table)) for table in schema.tables))


def distinct_values(table: Table, column: Column, connection: psycopg.Connection) -> tuple[str, ...]:
    """The first distinct values of a column, as those of `values_of`."""
    every = f'select {short_text(column)} collate "C" as value, row_number() over () as place from {quote(table.name)}'
    query = (
        f"select value from ({every}) as every where value is not null "
        f"group by value order by min(place) limit {SAMPLES if kind_of(column.type) == 'text' else OTHER_SAMPLES}"
    )
    return tuple(row[0] for row in connection.execute(query.encode()))


def values_of(table: Table, connection: psycopg.Connection) -> dict[str, list[str | None]]:
    """The values of the first rows, by column."""
    query = f"select {', '.join(map(short_text, table.columns))} from {quote(table.name)} limit {KNOWN_ROWS}"
    rows = connection.execute(query.encode()).fetchall()
    return {column.name: [row[i] for row in rows] for i, column in enumerate(table.columns)}


def short_text(column: Column) -> str:
    """SQL for a column's value as text; of an array as JSON; NULL for a longer one than LONGEST_VALUE."""
    name = quote(column.name)
    value = f"to_json({name})::text" if column.type.endswith("[]") else f"{name}::text"
    return f"case when length({value}) <= {LONGEST_VALUE} then {value} end"


# --- The questions ----------------------------------------------------------------------------------------------------


def tried(pairs: Sequence[Pair], schema: Schema, execute: Execute, doubt: str, relations: Relations) -> Iterator[Row]:
    """An example for each pair, rejected with line and reason if its query does not run.

    Args:
        doubt: why no rows can show that a query is right; else those of its result are asked.
        relations: tables that queries name with their schema, and the copy without.
    """
    from text2sql.ask.fit import with_shown_names

    named = Counter(table.source for table in schema.tables)
    tables = {table.name for table in schema.tables if named[table.source] == 1}
    types = {column.type for table in schema.tables for column in table.columns}
    first: dict[str, str] = {}
    for pair in track(pairs, "pairs", len(pairs)):
        problem, query, unsure = pair.problem, pair.sql, doubt
        if problem is None:
            result = execute(query)
            if result.error:
                query = without_own_names(with_shown_names(query, relations), tables, types)
                result = execute(query) if query != pair.sql else result
            problem = f"{result.error}: {result.message}" if result.error else None
            unsure = doubt or unproven(query, result, schema)
        if problem is None:
            query = spelled(query, schema, execute, result)
            before = first.setdefault(pair.question.lower(), query)
            if same_spelling(before) != same_spelling(query):
                problem = "the same question has another query further up"
            query = before
        reason = f"line {pair.line}: {problem}" if problem else None
        yield example(f"{PAIRS}-{pair.line}", schema.db_id, pair.question, query, reason, unsure)


def unproven(query: str, result: Result, schema: Schema) -> str:
    """Why the rows cannot show that a query that runs is right: it found none. Else an empty text."""
    try:
        names = {name for tree in parse(query) for name in table_names(tree)}
    except SqlglotError:
        names = {table.name for table in schema.tables}
    without = [table.name for table in schema.tables if not table.rows and table.name in names]
    if without or not any(table.rows for table in schema.tables):
        return f"no rows in {', '.join(without) or 'the database'}"
    return "" if result.rows else "no rows in the result"


def generated(schema: Schema, running: Server, execute: Execute, seed: int, count: int, doubt: str) -> Iterator[Row]:
    """Examples of the embedded data's shapes on this schema, kept only where their answer says something."""
    with psycopg.connect(running.dsn(schema.db_id)) as connection:
        values = {(t.name, name): column for t in schema.tables for name, column in values_of(t, connection).items()}
    graph, rng = from_schema(schema, values), random.Random(seed)
    asked = generate_questions(graph, lambda sql: list(execute(sql).rows), rng, count)
    for number, question in enumerate(asked, start=1):
        query = spelled(question.sql, schema, execute, execute(question.sql))
        yield example(f"{GENERATED}-{number}", schema.db_id, question.question, query, None, doubt)


def example(id_: str, db_id: str, question: str, sql: str, reason: str | None, doubt: str) -> Row:
    """A line of examples.jsonl: rejected for a `reason`, or unverifiable for a `doubt`."""
    status = "rejected" if reason else "unverifiable" if doubt else "verified"
    return {
        "id": id_, "db_id": db_id, "question": question, "sqlite": None,
        "postgres": sql if not reason else None, "status": status,
        "reason": reason or doubt,
        # what only PostgreSQL can parse is no easy query
        "hardness": None if reason else hardness_of_gold(sql) or "extra",
    }  # fmt: skip


def write_own(target: Path, schemas: dict[str, Schema], rows: list[Row], seed: int, embedded: int) -> None:
    """Write index and examples, and beside them the embedded data's training part, `embedded` questions a database, so
    that an adapter does not forget what it knew."""
    write_index(target / FOLDER / "schema_index.json", schemas)
    write_jsonl(target / FOLDER / "examples.jsonl", rows)
    if embedded:
        examples, tables = write_training_part(target, seed, embedded, set(schemas))
        for name in FILES:
            write_json(target / name, examples if name == FILES[0] else [])
        write_json(target / "tables.json", tables)


def custom_report(rows: list[Row], schema: Schema, options: Custom) -> dict[str, Any]:
    """What metrics/source.json says; bad pairs and what is not as declared are shown.

    Raises:
        UserError: hardly any question is left.
    """
    bad = [row["reason"] for row in rows if row["status"] == "rejected"]
    show_notices([f"{options.pairs}, {reason}" for reason in bad], EXAMPLES)
    show_notices(schema.notes, INDEX)
    usable = [row for row in rows if row["status"] != "rejected"]
    unverifiable = Counter(row["reason"] for row in usable if row["status"] == "unverifiable")
    show_notices([f"{n} examples are unverifiable: {reason}" for reason, n in unverifiable.items()], "the same file")
    pairs = [row for row in usable if row["id"].startswith(PAIRS)]
    if options.pairs and len(pairs) < FEWEST:
        what = f"{len(pairs)} of {len(rows) - len(usable) + len(pairs)} pairs can be used: at least {FEWEST} are needed"
        raise UserError(what, f"mend or add pairs in {options.pairs}, or set data.source.pairs=null")
    if len(usable) < FEWEST:
        what = f"only {len(usable)} questions could be generated: at least {FEWEST} are needed"
        raise UserError(what, "give a database with more rows and keys, or pairs of your own")
    return {
        "kind": options.kind,
        "examples": {PAIRS: len(rows) - len(usable) + len(pairs), GENERATED: len(usable) - len(pairs)},
        "databases": 1,
        "tables": len(schema.tables),
        "rows": sum(table.rows for table in schema.tables),
        "made_up": options.pairs is None,
        "rejected": len(bad),
        "unverifiable": dict(sorted(unverifiable.items())),
        "reasons": dict(sorted(Counter(reason.split(": ")[1] for reason in bad).items())),
        "notes": list(schema.notes),
    }


def show_notices(lines: Sequence[str], where: str | Path) -> None:
    """Print the first notices, and where the rest is."""
    for line in lines[:SHOWN]:
        print(f"notice: {line}")
    if len(lines) > SHOWN:
        print(f"notice: and {len(lines) - SHOWN} more, in {where}")


# --- What the stages databases and convert pass on --------------------------------------------------------------------


def own_databases(source: Path, dumps: Path, samples: int) -> dict[str, Schema]:
    """Copy the dumps to `dumps`; returns the schemas with as many sample values as asked for, none without `FOLDER`."""
    folder = source / FOLDER
    if not folder.is_dir():
        return {}
    for dump in folder.glob("*.sql"):
        shutil.copyfile(dump, dumps / dump.name)

    index = read_index(folder / "schema_index.json")
    cut = functools.partial(with_columns, change=lambda _, column: replace(column, samples=column.samples[:samples]))
    return {db_id: cut(schema) for db_id, schema in index.items()}


def own_examples(source: Path) -> list[Row]:
    """The lines of examples.jsonl; none if the data are not one's own."""
    path = source / FOLDER / "examples.jsonl"
    return list(read_jsonl(path)) if path.exists() else []
