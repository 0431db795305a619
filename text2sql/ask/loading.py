"""The definitions in a PostgreSQL script (pg_dump's, migrations, a person's file), executed by PostgreSQL itself.

The script's definitions are executed one by one in an empty database; the schema is then read from the catalog, as a
server's is. Rows, settings, roles, triggers and policies are passed over: they change no table. What the server refuses
is noted, and the rest of the script goes on.

The script is untrusted. Its role owns the empty database and nothing else: it is no superuser, so it can neither reach
files and programs nor other databases. Only definitions are executed, no query, each under a limit of time. But
defaults and indexes call functions, and a function can lift such a limit. So memory and temporary files have limits
that only a superuser lifts, and `watched` ends the session of a script that takes too long or too much disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from sqlglot import exp

from text2sql.ask.bare_table import bare_table
from text2sql.ask.dialects import FOREIGN_TYPES
from text2sql.errors import UserError
from text2sql.postgres.sandbox import GRACE_SECONDS, Limits, _kill_late, _limit_memory, _signal
from text2sql.postgres.script import execute_statement, script_statements
from text2sql.sql import tree_of

if TYPE_CHECKING:
    from text2sql.postgres.server import Server
    from text2sql.schema import Schema

#: limits of one statement, and of a script: its time, and the size of its database
STATEMENT_SECONDS, SCRIPT_SECONDS, SCRIPT_BYTES = 10, 60.0, 256 * 2**20
#: how often the size is looked at
WATCH_SECONDS = 0.2
#: limits of a script's role; the last three are out of its reach
SETTINGS = {
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "check_function_bodies": "off",
    "temp_file_limit": f"{SCRIPT_BYTES // 1024}kB",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}
#: statements that decide which tables there are, and how their columns and keys look
_DEFINITION = re.compile(
    r"""(create\s+(or\s+replace\s+)?(unlogged\s+|foreign\s+|materialized\s+|recursive\s+|unique\s+)?
           (schema|table|type|domain|sequence|view|index|function|extension|aggregate|operator|collation|cast)\b
      | alter\s+(table|type|domain|view|materialized\s+view|foreign\s+table|schema|sequence)\b
      | drop\s+(table|type|domain|view|materialized\s+view|schema|foreign\s+table|index|sequence)\b
      | comment\s+on\b | set\s+(session\s+|local\s+)?search_path\b )""",
    re.VERBOSE | re.IGNORECASE,
)
#: pg_dump's way of emptying the search path, so that a view's text cannot mean another table
_SET_CONFIG = re.compile(r"select\s+pg_catalog\.set_config\(\s*'search_path'", re.IGNORECASE)
_ROWS = re.compile(r"(insert|copy)\b", re.IGNORECASE)
_CREATES_TABLE = re.compile(r"create\s+(unlogged\s+|foreign\s+)?table\b", re.IGNORECASE)
_IS_FILLED = re.compile(
    r"""create\s+(materialized\s+view\b
    | (unlogged\s+)?table\s+(if\s+not\s+exists\s+)?([\w.]|"[^"]*")+\s*(\([^()]*\)\s*)?
      ((using|tablespace)\s+\w+\s+|with\s*\([^()]*\)\s*)*as\b)""",
    re.IGNORECASE | re.VERBOSE,
)
#: statements whose refusal leaves the schema incomplete
_CHANGES_SCHEMA = re.compile(
    r"create\s+(or\s+replace\s+)?(unlogged\s+|foreign\s+|materialized\s+|recursive\s+)?(table|type|domain|view)\b"
    r"|alter\s+table\b(?!.*\b(owner\s+to|tablespace|trigger|row\s+level|cluster\s+on|replica)\b)",
    re.IGNORECASE | re.DOTALL,
)
_DEFINES = re.compile(
    r'create\s+(?:or\s+replace\s+)?(?:type|domain|function|collation)\s+(?:[\w"]+\.)?"?(\w+)', re.IGNORECASE
)
#: types, functions, collations and the like in the server's messages
_MISSING_NAME = re.compile(r'(?:type|function|collation|access method|server) "?(?:[\w.]+\.)?(\w+)')
_MISSING_SCHEMA = re.compile(r'schema "(.+)" does not exist')
_MISSING_TYPE = re.compile(r'type "?([\w.]+)(?:\[\])*"? does not exist')
_TYPE_MODIFIER = re.compile(r'type modifier is not allowed for type "(?:[\w.]+\.)?(\w+)"')


@dataclasses.dataclass
class Loading:
    """A script's definitions on the way into a database, and what became of them."""

    connection: psycopg.Connection
    #: names of the types, functions and collations that the script itself defines
    defined: frozenset[str]
    #: tables created, and how many of them are no PostgreSQL as they are written
    tables: int = 0
    repaired: int = 0
    #: the server's message on each table that it refused
    refused_tables: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    #: what a statement that is to be tried again misses, in the server's words
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def execute_all(self, statements: list[str]) -> list[str]:
        """Execute definitions as long as that brings more of them through; returns those that miss something."""
        while True:
            left = [statement for statement in statements if self.execute(statement)]
            if len(left) == len(statements):
                return left
            statements = left

    def execute(self, statement: str) -> bool:
        """Execute a definition; True if it should be tried again when more of the script is there.

        What a dump of a part of a database leaves out is supplied: schemas, and extensions' types as text.
        """
        text = statement
        for _ in range(20):  # each round supplies one missing name
            try:
                self.connection.execute(text.encode())
            except psycopg.Error as error:
                if self.connection.closed:
                    raise
                message = error.diag.message_primary or str(error).splitlines()[0]
                repaired = self.supply(text, message)
                if repaired is None and not self.may_come(error.sqlstate or "", message):
                    repaired = self.bared(text, message)
                    self.repaired += repaired is not None and error.sqlstate == "42601"
                if repaired is None:
                    later = (error.sqlstate or "")[:2] in ("42", "3F") and error.sqlstate != "42601"
                    if later and _CHANGES_SCHEMA.match(text):
                        self.missing[statement] = message
                        return True
                    self.note(statement, message)
                    return False
                text = repaired
            else:
                self.tables += bool(_CREATES_TABLE.match(text))
                return False
        return True

    def supply(self, text: str, message: str) -> str | None:
        """Create the schema or type that the server misses; the statement to try next, or None if nothing helps."""
        if missing := _MISSING_SCHEMA.match(message):
            self.connection.execute(sql.SQL("create schema {}").format(sql.Identifier(missing[1])))
            return text
        if (modifier := _TYPE_MODIFIER.match(message)) and modifier[1] not in FOREIGN_TYPES:
            return re.sub(rf"\b{modifier[1]}\s*\([^()]*\)", modifier[1], text, flags=re.IGNORECASE)
        missing = _MISSING_TYPE.match(message)
        if not missing or not re.match(r"create|alter", text, re.IGNORECASE):
            return None
        name = missing[1].split(".")
        # a type of the script itself may still come: only what no statement defines is an extension's
        if name[-1] in FOREIGN_TYPES | self.defined:
            return None
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            self.connection.execute(sql.SQL("create domain {} as text").format(sql.Identifier(*name)))
            self.notes.append(f"type {missing[1]} is an extension's: shown as text")
        return text

    def may_come(self, sqlstate: str, message: str) -> bool:
        """Whether the rest of the script may define what is missing: a table, or a name that it does define."""
        missing = _MISSING_NAME.match(message)
        return sqlstate in ("42P01", "3F000") or (missing is not None and missing[1].lower() in self.defined)

    def bared(self, text: str, message: str) -> str | None:
        """A refused CREATE TABLE without what no schema shows, with a note; None if there is nothing to leave out, or
        if another database's types say that the table is none of PostgreSQL's."""
        if _MISSING_TYPE.match(message) or not _CREATES_TABLE.match(text) or (bare := bare_table(text)) in (None, text):
            return None
        name = bare.split(" (")[0].removeprefix("CREATE TABLE ")
        note = f"{name}: read without defaults, checks and storage ({message})"
        self.notes += [note] if note not in self.notes else []
        return bare

    def note(self, statement: str, message: str) -> None:
        """Remember a refused definition, if the schema is incomplete without it."""
        if _CREATES_TABLE.match(statement):
            self.refused_tables.append(message)
        if _CHANGES_SCHEMA.match(statement):
            self.notes.append(f"not read: {' '.join(statement.split())[:60]} ({message})")


@contextlib.contextmanager
def scratch_database(server: Server) -> Iterator[psycopg.Connection]:
    """A connection to a new empty database, as a role that owns it and may do nothing else; both go with the block."""
    name = f"script_{secrets.token_hex(6)}"
    role = sql.Identifier(name)
    server.create_database(name)
    try:
        with psycopg.connect(server.dsn(name), autocommit=True) as owner:
            owning = "alter database {name} owner to {name}; alter schema public owner to {name}"
            owner.execute(sql.SQL("create role {name} login; " + owning).format(name=role))
            for setting, value in SETTINGS.items():
                set_it = sql.SQL("alter role {} set {} = {}")
                owner.execute(set_it.format(role, sql.Identifier(setting), sql.Literal(value)))
        with psycopg.connect(server.dsn(name, name), autocommit=True) as connection:
            _limit_memory(connection.info.backend_pid, Limits().memory_bytes, server)
            yield connection
    finally:
        server.drop_database(name)
        with psycopg.connect(server.dsn(), autocommit=True) as owner:
            owner.execute(sql.SQL("drop role if exists {}").format(role))


@contextlib.contextmanager
def watched(server: Server, connection: psycopg.Connection, where: str) -> Iterator[None]:
    """End the session of `connection`, whatever it does, when the block takes longer than `SCRIPT_SECONDS`, its
    database is larger than `SCRIPT_BYTES`, or the server does not say how large it is.

    Raises:
        UserError: so it was.
    """
    pid, name = connection.info.backend_pid, connection.info.dbname
    over, ended = threading.Event(), []

    def watch() -> None:
        deadline = time.monotonic() + SCRIPT_SECONDS
        try:
            while not over.wait(WATCH_SECONDS):
                size = owner.execute("select pg_database_size(%s)", [name]).fetchone()[0]
                if size > SCRIPT_BYTES or time.monotonic() > deadline:
                    limit = f"{SCRIPT_BYTES // 2**20} MB of disk" if size > SCRIPT_BYTES else f"{SCRIPT_SECONDS:g} s"
                    remedy = "give the CREATE TABLE statements alone, without functions, indexes and rows"
                    ended.append(UserError(f"PostgreSQL takes more than {limit} to read {where}", remedy))
                    break
        except psycopg.Error as error:
            what = f"the disk that {where} takes cannot be watched: {str(error).splitlines()[0]}"
            ended.append(UserError(what, "run the command again"))
        for number in (signal.SIGTERM, signal.SIGFPE):  # as the sandbox ends a query
            if over.is_set() or not _signal(pid, number) or over.wait(GRACE_SECONDS):
                return
        _kill_late(pid)

    with server.connect() as owner:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        except psycopg.OperationalError:
            if not ended:
                raise
        finally:
            over.set()
            watcher.join()
    if ended:
        raise ended[0]


def load_script(connection: psycopg.Connection, text: str, rows: bool = False) -> Loading:
    """Execute the definitions of a script; those that need something defined further down are tried again.

    Args:
        rows: load the rows of INSERT and COPY too, as far as the server takes them.
    """
    script = [(_without_rows(statement), data) for statement, data in script_statements(text)]
    statements = [statement for statement, _ in script]
    loading = Loading(connection, frozenset(m[1].lower() for s in statements if (m := _DEFINES.match(s))))
    pending: list[str] = []
    for statement, data in script:
        if _SET_CONFIG.match(statement):
            connection.execute("set search_path = ''")
        elif rows and _ROWS.match(statement):
            with contextlib.suppress(psycopg.Error):  # rows of a table that is not there
                execute_statement(connection, statement, data)
        elif _DEFINITION.match(statement) and loading.execute(statement):
            pending.append(statement)
    connection.execute("reset all")
    # What is left: tables that refer to each other in a circle, or to a table that is not there.
    tables = [_without_keys(statement) for statement in loading.execute_all(pending)]
    for statement in loading.execute_all([table for table, _ in tables]):
        message = loading.missing[statement]
        if loading.execute(loading.bared(statement, message) or statement):
            loading.note(statement, message)
    for statement, title in (key for _, keys in tables for key in keys):
        try:
            connection.execute(statement.encode())
        except psycopg.Error:
            loading.notes.append(f"{title}, which is not there")
    return loading


def _without_rows(statement: str) -> str:
    """A materialized view or CREATE TABLE AS is defined, not filled: its query is not executed."""
    if _IS_FILLED.match(statement):
        return re.sub(r"\bwith(\s+no)?\s+data\s*\Z", "", statement, flags=re.IGNORECASE) + "\nwith no data"
    return statement


def _without_keys(statement: str) -> tuple[str, list[tuple[str, str]]]:
    """A CREATE TABLE without its foreign keys; of each key the statement that adds it, and its name.

    sqlglot does not know two phrases: NOT DEFERRABLE, which is the default, and VIRTUAL of a generated column.
    """
    text = re.sub(r"\bnot\s+deferrable\b", "", statement, flags=re.IGNORECASE)
    text = re.sub(r"\)\s*virtual\b", ") stored", text, flags=re.IGNORECASE)
    if (tree := tree_of(text)) is None:
        return statement, []
    table = tree.find(exp.Table)
    nodes = [(node, node.find_ancestor(exp.ColumnDef, exp.ForeignKey)) for node in tree.find_all(exp.Reference)]
    references = [(node, holder) for node, holder in nodes if holder is not None]
    if table is None or not references or not _CREATES_TABLE.match(statement):
        return statement, []
    keys = []
    for node, holder in references:
        columns = [holder.this] if isinstance(holder, exp.ColumnDef) else holder.expressions
        names = ", ".join(column.sql("postgres") for column in columns)
        target = node.this.sql("postgres")
        add = f"alter table {table.sql('postgres')} add foreign key ({names}) references {target}"
        keys.append((add, f"{table.name}({names}) refers to {target}"))
        if isinstance(holder, exp.ColumnDef):
            (node.find_ancestor(exp.ColumnConstraint) or node).pop()
        else:
            (holder.find_ancestor(exp.Constraint) or holder).pop()
    return tree.sql("postgres"), keys


def definitions_of(schema: Schema) -> Iterator[str]:
    """The CREATE TABLE statements of a schema without rows, then those that add its foreign keys."""
    from text2sql.conversion.databases.dump import script

    pieces = (piece.strip() for piece in script(schema, lambda table: ()))
    return (piece for piece in pieces if piece.startswith(("CREATE TABLE", "ALTER TABLE")))


def load_definitions(connection: psycopg.Connection, pieces: Iterator[str]) -> list[str]:
    """Create tables and keys; returns the name of each that the server refused, with its reason."""
    left_out = []
    for piece in pieces:
        try:
            connection.execute(piece.encode())
        except psycopg.Error as error:
            title = " ".join(piece.partition("(")[0].split())
            left_out.append(f"{title}: {error.diag.message_primary}")
    return left_out
