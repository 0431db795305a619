"""The demo's databases on one private PostgreSQL: the five demo domains with their rows, and pasted schemas without."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from text2sql.ask.catalog import Target
from text2sql.ask.fit import with_shown_names
from text2sql.ask.inferred_keys import with_inferred_keys
from text2sql.ask.loading import definitions_of, load_definitions
from text2sql.ask.place import Load, execute_first, sqlite_copy
from text2sql.ask.schema_file import parse_schema
from text2sql.data.mini.dataset import write_database
from text2sql.data.mini.domain import Domain, load_folder
from text2sql.data.mini.rows import make_rows
from text2sql.errors import UserError
from text2sql.postgres.compare import Result
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
MOST_ROWS = 200
LIMITS = Limits(timeout_seconds=5.0, max_rows=MOST_ROWS + 1, max_bytes=2**20)
#: characters of a pasted schema
LARGEST = 200_000
#: tables of a pasted schema; a prompt holds far fewer
MOST_TABLES = 300
#: of one statement of a pasted schema
CREATE_SECONDS = 10
#: pasted schemas kept; beyond them the one that was used longest ago is dropped
PASTED = 16


@dataclass(frozen=True)
class Database:
    """A database of the demo: `name` on the server, ten sample questions if it is a domain."""

    name: str
    schema: Schema
    questions: tuple[str, ...] = ()
    target: Target = dataclasses.field(default_factory=Target)

    @property
    def rows(self) -> bool:
        """Whether there is anything to be seen."""
        return bool(self.questions)


class Databases:
    """As a context manager; safe to use from several threads.

    The lock is held for the table of pasted schemas only: no visitor waits for another's database.
    """

    def __enter__(self) -> Databases:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pasted: OrderedDict[str, Database] = OrderedDict()
        self._doomed: list[str] = []
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
            file = Path(folder) / "database" / domain.db_id / f"{domain.db_id}.sqlite"
            catalog, load = sqlite_copy(file)
            self._create(domain.db_id, load)
        questions = tuple(question for question, _ in domain.questions)
        return Database(domain.db_id, catalog.schema, questions, catalog.target)

    def _create(self, name: str, load: Load) -> None:
        self._server.create_database(name)
        with psycopg.connect(self._server.dsn(name), options=f"-c statement_timeout={CREATE_SECONDS}s") as connection:
            load(connection)

    def pasted(self, text: str) -> Database:
        """A database with the tables of a pasted schema, empty.

        Raises:
            UserError: it cannot be read, is too large, or PostgreSQL refuses it. Then nothing is left of it.
        """
        if len(text) > LARGEST:
            raise UserError(f"the schema has {len(text):,} characters", f"paste at most {LARGEST:,}: the tables only")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError("the schema has bytes that are no text", "paste it as UTF-8")
        if (known := self._known(text)) is not None:
            return known
        catalog = parse_schema(text, self._server, where="your schema")
        schema = with_inferred_keys(catalog.schema)
        if len(schema.tables) > MOST_TABLES:
            raise UserError(f"the schema has {len(schema.tables):,} tables", f"paste at most {MOST_TABLES:,}")
        name = f"pasted_{next(self._numbers)}"  # never one that is being dropped
        try:
            schema = self._create_empty(name, schema)
        except Exception as error:
            self._drop([name])
            if not isinstance(error, psycopg.Error):
                raise
            said = str(error).splitlines()[0]
            raise UserError(f"PostgreSQL refuses the schema: {said}", "leave out what it names, or mend it") from None
        with self._lock:
            kept = self._pasted.setdefault(text, Database(name, schema, target=catalog.target))
            self._pasted.move_to_end(text)
            if kept.name != name:  # another visitor has pasted the same meanwhile
                self._doomed.append(name)
            while len(self._pasted) > PASTED:
                self._doomed.append(self._pasted.popitem(last=False)[1].name)
            doomed, self._doomed = self._doomed, []
        self._drop(doomed)
        return kept

    def _create_empty(self, name: str, schema: Schema) -> Schema:
        """A database with the tables of a schema; what the server refuses of them is noted."""
        self._server.create_database(name)
        with psycopg.connect(self._server.dsn(name), autocommit=True) as connection:
            left_out = load_definitions(connection, definitions_of(schema))
        notes = (*schema.notes, *(f"left out of the copy: {title}" for title in left_out))
        return dataclasses.replace(schema, notes=notes)

    def _known(self, text: str) -> Database | None:
        with self._lock:
            if text in self._pasted:
                self._pasted.move_to_end(text)
            return self._pasted.get(text)

    def _drop(self, names: Iterable[str]) -> None:
        """Drop databases; one that cannot be dropped yet is tried again with the next ones."""
        for name in names:
            try:
                self._sandbox.drop(name)
            except UserError as error:
                print(f"demo: {error.what}", flush=True)
                with self._lock:
                    self._doomed.append(name)

    def execute(self, database: Database, query: str) -> Result:
        """The result of an untrusted query, in the sandbox."""
        query = with_shown_names(query, database.target.relations)
        return execute_first(self._sandbox, database.name, query, MOST_ROWS)
