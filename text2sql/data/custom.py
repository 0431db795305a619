"""`data=custom`: one's own database, and questions on it that people wrote or, where there are none, that are made up.

    server, SQLite or schema file  --copy-->  dump, schema index      as the stage databases makes them
    pairs of question and SQL      --try-->   examples, each with a status and a reason    as convert does
    or: the shapes of the embedded data on this schema  --try-->  examples

SQL is PostgreSQL's from the start, so there is nothing to convert; the stages databases and convert pass on what lies
in `FOLDER`. Every query is executed in the sandbox on the copy before it may be trained on.

Privacy: hidden tables and columns are left out of the copy, so neither their names nor their values can get into a
prompt, a metric or a model. Sample values are kept apart in the index and dropped by the stage databases unless
`data.databases.samples` asks for some. The DSN is taken from the environment and written nowhere.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.files import read_jsonl, write_jsonl
from text2sql.postgres.compare import Result
from text2sql.progress import track
from text2sql.schema import OTHER_SAMPLES, Schema, Table, kind_of, quote, read_index, write_index
from text2sql.scoring.hardness import hardness

if TYPE_CHECKING:
    import psycopg

Execute = Callable[[str], Result]
Lines = Callable[[Table], Iterable[str]]
#: below data/source; there is one only if the data are one's own
FOLDER = "postgres"
#: values kept of each column, of which the stage databases takes as many as are asked for
SAMPLES = 1000
#: rows whose values the question generator knows
KNOWN_ROWS = 2000
#: bad pairs shown on the terminal; all are in examples.jsonl
SHOWN = 20
#: fewer usable questions than this make no training, validation and test split
FEWEST = 10
#: rows made up for a table of a schema file
MADE_ROWS = 40
#: what values are made of, by the type of their column
MADE_VALUES = {
    "integer": "1..100", "bigint": "1..1000", "double precision": "0.50..900.00", "numeric": "0.50..900.00",
    "boolean": "flag", "date": "2021-01-01..2024-12-31",
}  # fmt: skip
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Custom:
    """data.source of kind custom; conf/data/custom.yaml explains each key."""

    kind: str
    database: str | None
    dsn_variable: str
    pairs: str | None
    questions: int
    hidden: tuple[str, ...]
    rows: int
    timeout_seconds: float

    def __post_init__(self) -> None:
        require(self.questions >= FEWEST, f"questions must be at least {FEWEST}")
        require(self.rows > 0, "rows must be positive")
        require(self.timeout_seconds > 0, "timeout_seconds must be positive")

    def make(self, seed: int, target: Path = Path("data/source")) -> dict[str, Any]:
        """Write dump, index and examples to `FOLDER` of `target`; returns the report.

        Raises:
            UserError: database or pairs cannot be read, or hardly any question is left.
        """
        pairs = list(read_pairs(Path(self.pairs))) if self.pairs else []
        shutil.rmtree(target, ignore_errors=True)
        folder = target / FOLDER
        folder.mkdir(parents=True)
        with source(self, seed) as (schema, lines, real):
            dump = folder / f"{schema.db_id}.sql"
            write_dump(dump, schema, lines)
        with copy(dump, schema.db_id, self.timeout_seconds) as (connection, execute):
            schema = described(schema, connection)
            if self.pairs:
                rows = list(tried(pairs, schema, execute, real))
            else:
                rows = list(made_up(schema, connection, execute, seed, self.questions, real))
        write_index(folder / "schema_index.json", {schema.db_id: schema})
        write_jsonl(folder / "examples.jsonl", rows)
        return report(rows, schema, self)


# --- The database -----------------------------------------------------------------------------------------------------


@contextmanager
def source(options: Custom, seed: int) -> Iterator[tuple[Schema, Lines, bool]]:
    """The schema without what is hidden, the lines of a COPY for each table, and whether the rows are real ones.

    Raises:
        UserError: there is no database, or it cannot be read.
    """
    from text2sql.ask.place import is_sqlite
    from text2sql.ask.servers import Remote, hide

    dsn = os.environ.get(options.dsn_variable)
    if options.database is None and not dsn:
        remedy = f"set data.source.database to a schema file or SQLite database, or {options.dsn_variable} to a DSN"
        raise UserError("no database is given", remedy)
    if options.database is None:
        with Remote(dsn or "", seconds=options.timeout_seconds) as remote:
            # Keys may point to rows beyond the limit: they are shown in prompts, but not enforced in the copy.
            schema = unenforced(remote.schema(hidden=options.hidden))
            yield schema, lambda table: remote_lines(remote, table, options.rows), True
        return
    path = Path(options.database)
    if is_sqlite(path):
        with ExitStack() as stack:
            yield *sqlite(path, options, stack), True
        return
    from text2sql.ask.schema_file import read

    schema = hide(read(path), options.hidden)
    yield schema, made_lines(schema, seed), False


def unenforced(schema: Schema) -> Schema:
    """`schema` with foreign keys that are not enforced."""

    def loose(table: Table) -> Table:
        keys = tuple(dataclasses.replace(key, enforced=False) for key in table.foreign_keys)
        return dataclasses.replace(table, foreign_keys=keys)

    return dataclasses.replace(schema, tables=tuple(loose(table) for table in schema.tables))


def remote_lines(remote: Any, table: Table, limit: int) -> Iterator[str]:
    """The first rows of a table as the server's own COPY writes them."""
    names = ", ".join(quote(column.name) for column in table.columns)
    with remote.transaction() as connection, connection.cursor() as cursor:
        query = f"copy (select {names} from {quote(table.name)} limit {limit}) to stdout"
        with cursor.copy(query.encode()) as copy:
            pending = b""
            for block in copy:
                *whole, pending = (pending + bytes(block)).split(b"\n")
                yield from (line.decode() + "\n" for line in whole)


def sqlite(path: Path, options: Custom, stack: ExitStack) -> tuple[Schema, Lines]:
    """An SQLite database as the stage databases describes it, without what is hidden."""
    from itertools import islice

    from text2sql.ask.servers import hide
    from text2sql.conversion.databases import describe, open_source
    from text2sql.conversion.databases.dump import copy_lines

    opened = stack.enter_context(open_source(path))
    whole = describe(opened, path.stem, 0)
    schema = unenforced(hide(whole, options.hidden))
    by_name = {table.name: table for table in opened.tables()}

    def lines(table: Table) -> Iterator[str]:
        names = [column.name for t in whole.tables if t.name == table.name for column in t.columns]
        kept = [names.index(column.name) for column in table.columns]
        rows = islice(opened.rows(by_name[table.source]), options.rows)
        return copy_lines(table.columns, (tuple(row[i] for i in kept) for row in rows))

    return schema, lines


def made_lines(schema: Schema, seed: int) -> Lines:
    """Rows for a schema that has none, so that queries have something to work on; their values mean nothing."""
    from text2sql.conversion.databases.dump import copy_lines
    from text2sql.data.mini.domain import ColumnSpec, Domain, TableSpec
    from text2sql.data.mini.english import spoken
    from text2sql.data.mini.rows import make_rows

    specs: dict[str, TableSpec] = {}
    pending = list(schema.tables)
    while pending:
        # Parents first; in a circle of keys, one is left out.
        table = next((t for t in pending if parents(t) - {t.name} <= set(specs)), pending[0])
        pending.remove(table)
        single_keys = [key for key in table.foreign_keys if len(key.columns) == 1]
        references = {key.columns[0]: (key.referred_table, key.referred_columns[0]) for key in single_keys}
        columns = []
        for column in table.columns:
            ref = references.get(column.name)
            ref = ref if ref and ref[0] in specs else None
            single = (column.name,) == table.primary_key
            unique = single or column.unique or column.name in table.primary_key
            values = "id" if unique and column.type in ("integer", "bigint") else MADE_VALUES.get(column.type)
            columns.append(ColumnSpec(
                column.name, column.type, None if ref else values or made_words(column.name, column.type),
                spoken(column.name), ref, unique and not ref, 0.0, {},
            ))  # fmt: skip
        specs[table.name] = TableSpec(table.name, table.name, table.name, False, (), tuple(columns), {}, MADE_ROWS, ())
    made = make_rows(Domain(schema.db_id, tuple(specs.values()), ()), seed)
    return lambda table: copy_lines(table.columns, made[table.name])


def parents(table: Table) -> set[str]:
    """The tables that a table's keys refer to."""
    return {key.referred_table for key in table.foreign_keys}


def made_words(name: str, kind: str) -> Any:
    """The description of values for a column that is no number: names of people, cities, words of its own."""
    from text2sql.data.mini.domain import pools
    from text2sql.data.mini.english import spoken

    words = spoken(name)
    if kind != "text":
        return {"timestamp": ["2024-01-01 10:00:00", "2024-02-03 08:30:00"], "time": ["08:30:00", "17:15:00"]}.get(
            kind.removesuffix("tz"), [""] if kind.endswith("[]") else ["{}"]
        )
    return words if words in pools() else [f"{words} {i}" for i in range(1, MADE_ROWS + 1)]


def write_dump(path: Path, schema: Schema, lines: Lines) -> None:
    """Write the copy as a dump that psql loads, atomically."""
    from text2sql.conversion.databases.dump import script

    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(script(schema, lines))
    temporary.replace(path)


@contextmanager
def copy(dump: Path, db_id: str, seconds: float) -> Iterator[tuple[psycopg.Connection, Execute]]:
    """The dump in a private PostgreSQL: a connection of its owner, and the sandbox.

    Raises:
        UserError: the dump cannot be loaded.
    """
    import psycopg

    from text2sql.postgres.load import load
    from text2sql.postgres.sandbox import Limits, Sandbox
    from text2sql.postgres.server import server

    with server() as running, Sandbox(running, Limits(timeout_seconds=seconds)) as sandbox:
        try:
            load(running, dump, db_id)
        except psycopg.Error as error:
            what = f"the copy of the database cannot be loaded: {str(error).splitlines()[0]}"
            raise UserError(what, "hide the table or column with data.source.hidden") from None
        with psycopg.connect(running.dsn(db_id), autocommit=True) as connection:
            yield connection, lambda sql: sandbox.execute(db_id, sql)


def described(schema: Schema, connection: psycopg.Connection) -> Schema:
    """`schema` with the numbers of rows and some values of each column."""
    tables = []
    for table in schema.tables:
        values = held(table, connection)
        columns = tuple(
            dataclasses.replace(
                column,
                samples=tuple(dict.fromkeys(str(v) for v in values[column.name] if v is not None))[
                    : SAMPLES if kind_of(column.type) == "text" else OTHER_SAMPLES
                ],
            )
            for column in table.columns
        )
        count = connection.execute(f"select count(*) from {quote(table.name)}".encode()).fetchone()
        tables.append(dataclasses.replace(table, columns=columns, rows=count[0] if count else 0))
    return dataclasses.replace(schema, tables=tuple(tables))


def held(table: Table, connection: psycopg.Connection) -> dict[str, list[Any]]:
    """What some rows hold, by column."""
    names = ", ".join(quote(column.name) for column in table.columns)
    query = f"select {names} from {quote(table.name)} limit {KNOWN_ROWS}"
    rows = connection.execute(query.encode()).fetchall()
    return {column.name: [row[i] for row in rows] for i, column in enumerate(table.columns)}


# --- The questions ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pair:
    """A line of the user's file: `problem` says why it is no pair of question and SQL."""

    line: int
    question: str = ""
    sql: str = ""
    problem: str | None = None


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a .jsonl file (objects with `question` and `sql`) or a .csv file (with these columns).

    Raises:
        UserError: the file is missing, of another kind, not UTF-8, or a CSV without these columns.
    """
    readers = {".jsonl": jsonl_pairs, ".csv": csv_pairs}
    if path.suffix not in readers:
        raise UserError(f"{path} is neither .jsonl nor .csv", "see docs/USAGE.md for both forms")
    if not path.is_file():
        raise UserError(f"{path} is missing", "set data.source.pairs, or to null for made-up questions")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8") from None


def jsonl_pairs(path: Path) -> Iterator[Pair]:
    """One object a line; a line that is none is a problem of that line only."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                yield Pair(number, problem=f"not JSON: {error.msg}")
                continue
            yield pair(number, value if isinstance(value, dict) else {})


def csv_pairs(path: Path) -> Iterator[Pair]:
    """Rows with the columns question and sql; `line` is where a row ends, as quoted fields may span lines."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        if missing := {"question", "sql"} - set(reader.fieldnames or ()):
            raise UserError(f"{path} has no column {sorted(missing)[0]}", "its first line must name question and sql")
        for row in reader:
            yield pair(reader.line_num, row)


def pair(line: int, value: dict[str, Any]) -> Pair:
    """A pair out of a JSON object or CSV row."""
    for name in ("question", "sql"):
        if not isinstance(value.get(name), str) or not value[name].strip():
            return Pair(line, problem=f"no {name}")
    return Pair(line, " ".join(value["question"].split()), value["sql"].strip().rstrip(";").rstrip())


def tried(pairs: Iterable[Pair], schema: Schema, execute: Execute, real: bool) -> Iterator[Row]:
    """An example for each pair, rejected with line and reason if its query does not run."""
    seen: dict[str, str] = {}
    for found in track(pairs, "pairs"):
        problem = found.problem
        if problem is None and seen.setdefault(found.question.lower(), found.sql) != found.sql:
            problem = "the same question has another query further up"
        if problem is None:
            result = execute(found.sql)
            problem = f"{result.error}: {result.message}" if result.error else None
        reason = f"line {found.line}: {problem}" if problem else None
        yield example(schema.db_id, found.line, found.question, found.sql, reason, real)


def made_up(
    schema: Schema, connection: psycopg.Connection, execute: Execute, seed: int, count: int, real: bool
) -> Iterator[Row]:
    """Examples from the embedded data's shapes on this schema, kept only where their answer says something."""
    from text2sql.data.mini.graph import from_schema
    from text2sql.data.mini.questions import ask

    values = {(table.name, name): rows for table in schema.tables for name, rows in held(table, connection).items()}
    found = ask(from_schema(schema, values), lambda sql: list(execute(sql).rows), random.Random(seed), count)
    for number, question in enumerate(found, start=1):
        yield example(schema.db_id, number, question.question, question.sql, None, real)


def example(db_id: str, number: int, question: str, sql: str, reason: str | None, real: bool) -> Row:
    """A line of examples.jsonl. On made-up rows a query that runs is not verified: nobody knows its right answer."""
    status = "rejected" if reason else "verified" if real else "unverifiable"
    return {
        "id": f"custom-{number}", "db_id": db_id, "question": question, "sqlite": None,
        "postgres": sql if not reason else None, "status": status,
        "reason": reason or ("" if real else "the rows are made up"),
        "hardness": hardness(sql, "postgres") if not reason else None,
    }  # fmt: skip


def report(rows: list[Row], schema: Schema, options: Custom) -> dict[str, Any]:
    """What metrics/source.json says; the bad pairs are shown.

    Raises:
        UserError: hardly any question is left.
    """
    bad = [row["reason"] for row in rows if row["status"] == "rejected"]
    for reason in bad[:SHOWN]:
        print(f"notice: {options.pairs}, {reason}")
    if len(bad) > SHOWN:
        print(f"notice: and {len(bad) - SHOWN} more, in data/postgres/examples.jsonl")
    if len(rows) - len(bad) < FEWEST:
        what = f"{len(rows) - len(bad)} usable questions of {len(rows)}: at least {FEWEST} are needed"
        raise UserError(what, "mend the pairs, or give a database with more rows and keys")
    return {
        "kind": options.kind,
        "examples": {"custom": len(rows)},
        "databases": 1,
        "tables": len(schema.tables),
        "rows": sum(table.rows for table in schema.tables),
        "made_up": options.pairs is None,
        "rejected": len(bad),
        "reasons": dict(sorted(Counter(reason.split(": ")[1] for reason in bad).items())),
    }


# --- What the stages databases and convert pass on --------------------------------------------------------------------


def databases(source: Path, dumps: Path, samples: int) -> dict[str, Schema] | None:
    """Copy the dumps to `dumps`; returns the schemas with as many sample values as asked for, None without `FOLDER`."""
    folder = source / FOLDER
    if not folder.is_dir():
        return None
    for dump in folder.glob("*.sql"):
        shutil.copyfile(dump, dumps / dump.name)

    def cut(table: Table) -> Table:
        kept = (dataclasses.replace(column, samples=column.samples[:samples]) for column in table.columns)
        return dataclasses.replace(table, columns=tuple(kept))

    index = read_index(folder / "schema_index.json")
    return {k: dataclasses.replace(v, tables=tuple(cut(t) for t in v.tables)) for k, v in index.items()}


def examples(source: Path) -> list[Row] | None:
    """The lines of examples.jsonl, None if the data are not one's own."""
    path = source / FOLDER / "examples.jsonl"
    return list(read_jsonl(path)) if path.exists() else None
