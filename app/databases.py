"""The demo's databases on one private PostgreSQL: the five demo domains with their rows, and pasted schemas without."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from text2sql.ask.place import sqlite
from text2sql.ask.schema_file import parse
from text2sql.conversion.databases.dump import statements
from text2sql.data.mini.dataset import write_database
from text2sql.data.mini.domain import Domain, load_folder
from text2sql.data.mini.rows import make_rows
from text2sql.model.prompt import VALUES_KEPT
from text2sql.postgres.compare import Result
from text2sql.postgres.load import run_script
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.postgres.server import server
from text2sql.schema import Schema

TITLES = {
    "ecommerce": "E-commerce",
    "finance": "Finance",
    "healthcare": "Healthcare",
    "saas": "SaaS",
    "retail": "Retail",
}
#: a question must not keep others waiting, nor a result fill a page
LIMITS = Limits(timeout_seconds=5.0, max_rows=200, max_bytes=2**20)
#: characters of a pasted schema
LARGEST = 200_000
#: pasted schemas kept; beyond them the one that was used longest ago is dropped
PASTED = 16


@dataclass(frozen=True)
class Database:
    """A database of the demo: `name` on the server, ten sample questions if it is a domain."""

    name: str
    schema: Schema
    questions: tuple[str, ...] = ()

    @property
    def rows(self) -> bool:
        """Whether there is anything to be seen."""
        return bool(self.questions)


class Databases:
    """As a context manager; safe to use from several threads."""

    def __enter__(self) -> Databases:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._pasted: OrderedDict[str, Database] = OrderedDict()
        with ExitStack() as stack:
            self._server = stack.enter_context(server())
            self._sandbox = stack.enter_context(Sandbox(self._server, LIMITS))
            domains = {domain.db_id: domain for domain in load_folder("demo")}
            self.domains: Mapping[str, Database] = {key: self._load(domains[key]) for key in TITLES}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _load(self, domain: Domain) -> Database:
        with tempfile.TemporaryDirectory() as folder:
            write_database(Path(folder), domain, make_rows(domain, "demo")).close()
            schema, dump = sqlite(Path(folder) / "database" / domain.db_id / f"{domain.db_id}.sqlite", VALUES_KEPT)
            self._create(domain.db_id, dump.lines())
        return Database(domain.db_id, schema, tuple(question for question, _ in domain.questions))

    def _create(self, name: str, script: Iterable[str]) -> None:
        self._server.create_database(name)
        with psycopg.connect(self._server.dsn(name)) as connection:
            run_script(connection, (line for text in script for line in text.splitlines(keepends=True)))

    def pasted(self, text: str) -> Database:
        """A database with the tables of a pasted schema, empty.

        Raises:
            UserError: it cannot be read, or is too large.
        """
        from text2sql.errors import UserError

        if len(text) > LARGEST:
            raise UserError(f"the schema has {len(text):,} characters", f"paste at most {LARGEST:,}: the tables only")
        schema = parse(text, where="your schema")
        name = f"pasted_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        with self._lock:
            if name not in self._pasted:
                self._create(name, statements(schema, lambda table: ()))
                self._pasted[name] = Database(name, schema)
            self._pasted.move_to_end(name)
            while len(self._pasted) > PASTED:
                self._drop(self._pasted.popitem(last=False)[0])
            return self._pasted[name]

    def _drop(self, name: str) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, database: Database, query: str) -> Result:
        """The result of an untrusted query, in the sandbox."""
        return self._sandbox.execute(database.name, query)
