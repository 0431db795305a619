"""The schema in a file of CREATE TABLE statements.

PostgreSQL reads the file itself (`loading`). Where it refuses tables, and nothing marks the text as PostgreSQL's, the
file is read in the dialect of another database that understands more of its tables (`dialects`); `Schema.notes` says
which one, and what was passed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.ask.catalog import Catalog, read_catalog
from text2sql.ask.dialects import DIALECTS, parse_dialect
from text2sql.ask.loading import definitions_of, load_definitions, load_script, scratch_database, watched
from text2sql.errors import UserError
from text2sql.schema import Schema

if TYPE_CHECKING:
    import psycopg

    from text2sql.postgres.server import Server

#: a schema alone is far smaller, even of a thousand tables; more than this is a dump with its rows
LARGEST = 4_000_000
ONLY_POSTGRESQL = re.compile(
    r"PostgreSQL database dump|pg_catalog\.|alter table only|\bowner to\b|\bserial\b|\bjsonb\b|\btimestamptz\b"
    r"|character varying|create extension|::\w+|\bfrom stdin\b|set search_path|\bnextval\('|\busing gi(st|n)\b"
    r"|\b(ts|tstz|date|int4|int8|num)range\b|\b(bytea|inet|tsvector|citext|bigserial)\b|plpgsql|create policy"
    r"|uuid_generate_v4|gen_random_uuid|\b(dist|sort)key\b|\bencode (az64|zstd|lzo|raw)\b",
    re.IGNORECASE,
)
NO_TABLE = "give the tables as CREATE TABLE statements"


def schema_text(path: Path) -> str:
    """The text of a schema file.

    Raises:
        UserError: there is no such file, or it is no text.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give a file of CREATE TABLE statements") from None
    if content.startswith(b"SQLite format 3\0"):
        raise UserError(f"{path} is an SQLite database", f"give it as --sqlite {path}")
    if content.startswith(b"PGDMP"):
        remedy = f"make it text: pg_restore -s -f schema.sql {path}"
        raise UserError(f"{path} is a dump in pg_dump's own format", remedy)
    if len(content) > LARGEST:
        remedy = "give the tables only: `pg_dump --schema-only`"
        raise UserError(f"{path} is larger than {LARGEST // 1_000_000} MB: it holds more than a schema", remedy)
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "give a file of CREATE TABLE statements in UTF-8") from None


def parse_schema(text: str, server: Server, db_id: str = "schema", where: str = "the schema") -> Catalog:
    """The schema in `text`, see `loaded_schema`."""
    with loaded_schema(text, server, db_id, where) as (catalog, _):
        return catalog


@contextlib.contextmanager
def loaded_schema(
    text: str, server: Server, db_id: str, where: str, rows: bool = False
) -> Iterator[tuple[Catalog, psycopg.Connection]]:
    """The schema in `text`, and a connection to a database on `server` that has its tables for the length of the block.

    Args:
        server: a private server of ours.
        where: names the text in messages.
        rows: load the rows of INSERT and COPY too, as far as the server takes them.

    Raises:
        UserError: there is no CREATE TABLE, or none that any dialect understands.
    """
    if "\0" in text:
        raise UserError(f"{where} holds NUL characters: it is no text", "save it as UTF-8")
    if "create" not in text.lower():
        raise UserError(f"{where} has no CREATE TABLE", NO_TABLE)
    with scratch_database(server) as connection:
        with watched(server, connection, where):
            loading = load_script(connection, text, rows)
            try:
                catalog = read_catalog(connection, db_id)
            except UserError:
                catalog = Catalog(Schema(db_id, ()))
        is_whole = loading.tables and not loading.refused_tables and not loading.repaired
        other = None if is_whole or ONLY_POSTGRESQL.search(text) else parse_dialect(text, db_id)
        understood = loading.tables - loading.repaired - len(loading.refused_tables)
        if other is None or other.score <= understood:
            if not catalog.schema.tables:
                refused = [note for note in loading.notes if note.startswith("not read")]
                raise unreadable(where, refused + (other.problems if other else []))
            schema = dataclasses.replace(catalog.schema, notes=(*catalog.schema.notes, *loading.notes))
            yield dataclasses.replace(catalog, schema=schema), connection
            return
    with scratch_database(server) as connection:
        left_out = load_definitions(connection, definitions_of(other.schema))
        if refused := [statement for statement in left_out if statement.startswith("CREATE TABLE")]:
            raise UserError(f"{where}: {refused[0]}", "mend that table, or leave it out")
        yield Catalog(other.schema), connection


def unreadable(where: str, problems: Sequence[str]) -> UserError:
    """That no dialect has read a table, and the first problem of each."""
    if not problems:
        return UserError(f"{where} has no CREATE TABLE", NO_TABLE)
    tried = ", ".join(["PostgreSQL", *DIALECTS.values()])
    return UserError(f"no table of {where} can be read (tried {tried}): {problems[0]}", "mend that statement")
