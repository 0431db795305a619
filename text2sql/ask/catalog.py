"""A schema read from a PostgreSQL catalog: the user's server's, or a private one's that a schema file was loaded into.

So a dump and the server that it was taken from show the same tables. Types become the few that the training data know
(text, integer, numeric, ...): what a query needs of a type is how its values compare, and `varchar(40)` and `text`
compare alike. A domain counts as its base type; an enum or a type that PostgreSQL does not bring along, as text.

Prompts show one bare name for each table. Where two schemas have a table of one name, the one that is not in the search
path is shown as `schema_table`; `Relations` knows how each table is written in SQL.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.schema import Column, ForeignKey, Schema, Table, quote

if TYPE_CHECKING:
    import psycopg

#: shown name of a table -> schema and name where SQL must name the schema; tables in the search path are not in it
Relations = Mapping[str, tuple[str, str]]

Described = TypeVar("Described", Table, Column)

#: the queries by name, and `shown_types`
_SQL = read_beside(__file__)

#: stands for bytes that are no UTF-8, which a database of encoding SQL_ASCII may hold
NO_TEXT = "\N{REPLACEMENT CHARACTER}"
#: a CHECK that lists texts, as PostgreSQL writes `x IN ('a', 'b')` back
_LIST = re.compile(r"CHECK \(\(+[^()=]+(?:\)::text)? = ANY \(+ARRAY\[(.*)\](?:\)::text\[\])?\)+( NOT VALID)?")
_TEXT = re.compile(r"'((?:[^']|'')*)'")


@dataclasses.dataclass(frozen=True)
class Target:
    """The server that SQL is for: its version as 160004 (None: today's PostgreSQL), and tables named with a schema."""

    version: int | None = None
    relations: Relations = dataclasses.field(default_factory=dict)
    #: tables all of whose rows were read, so that their columns have no values but those in the schema
    read: frozenset[str] = frozenset()

    @classmethod
    def of_whole(cls, schema: Schema) -> Target:
        """Today's PostgreSQL, where `schema` was made of all rows of all its tables."""
        return cls(read=frozenset(table.name for table in schema.tables))


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What the catalog of a database says: its schema, and what SQL for it must heed."""

    schema: Schema
    target: Target = Target()


def read_catalog(connection: psycopg.Connection, db_id: str, schemas: Sequence[str] = ()) -> Catalog:
    """All tables and views that the connection's role may read, with their keys.

    Args:
        schemas: the only ones to look at; all, if there are none.

    Raises:
        UserError: the role sees no table.
    """
    rows = connection.execute(_SQL["columns"], {"schemas": list(schemas) or None}).fetchall()
    columns = [row for row in rows if NO_TEXT not in f"{row[1]}{row[2]}{row[5]}"]
    if not columns:
        others = [row[0] for row in connection.execute(_SQL["schemas_with_tables"])]
        where = f"there are tables in: {', '.join(others)}; " if others else ""
        remedy = f"{where}name their schema with ?schema=... in the DSN, or use a role that may read them"
        raise UserError("the database shows no table to this role", remedy)
    choices = {(oid, name): allowed_values(check) for oid, name, check in connection.execute(_SQL["checks"])}
    schema, relations = _schema_of(db_id, columns, connection.execute(_SQL["keys"]).fetchall(), choices)
    if unnamed := len(rows) - len(columns):
        note = f"columns left out whose names, or whose tables' names, are no UTF-8: {unnamed}"
        schema = dataclasses.replace(schema, notes=(*schema.notes, note))
    return Catalog(schema, Target(connection.info.server_version, relations))


def allowed_values(check: str) -> tuple[str, ...]:
    """The texts that a CHECK constraint lists, none if it is of another form.

    >>> allowed_values("CHECK ((state = ANY (ARRAY['new'::text, 'it''s'::text])))")
    ('new', "it's")
    >>> allowed_values("CHECK (((kind)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))")
    ('a', 'b')
    >>> allowed_values("CHECK ((price > (0)::numeric))")
    ()
    """
    listed = _LIST.fullmatch(check)
    return tuple(text.replace("''", "'") for text in _TEXT.findall(listed[1])) if listed else ()


def _schema_of(
    db_id: str, columns: list[Any], keys: list[Any], choices: Mapping[tuple[int, str], tuple[str, ...]]
) -> tuple[Schema, Relations]:
    """The schema, and how SQL must write its tables.

    Args:
        columns, keys: rows of the queries of these names.
        choices: the values that CHECKs allow of a table's column.
    """
    by_table = {oid: list(rows) for oid, rows in itertools.groupby(columns, key=lambda row: row[0])}
    places = {oid: rows[0][1:4] for oid, rows in by_table.items()}
    shown = _shown_names(places)
    relations = {shown[oid]: (schema, name) for oid, (schema, name, visible) in places.items() if not visible}
    single = {(oid, names[0]) for oid, type_, _, names, _ in keys if type_ == "u" and len(names) == 1}
    readable = {oid: {row[5] for row in rows} for oid, rows in by_table.items()}
    tables = []
    for oid, rows in by_table.items():
        shown_columns = []
        for *_, name, not_null, is_array, type_, comment, _, labels in rows:
            shown_type = _SQL["shown_types"].get(type_, type_) + ("[]" if is_array else "")
            allowed, is_unique = tuple(labels) or choices.get((oid, name), ()), (oid, name) in single
            shown_columns.append(Column(name, name, shown_type, not_null, is_unique, comment=comment, choices=allowed))
        usable = [key[1:] for key in keys if key[0] == oid and key[3] and set(key[3]) <= readable[oid]]
        primary = next((tuple(names) for type_, _, names, _ in usable if type_ == "p"), ())
        unique = dict.fromkeys(tuple(names) for type_, _, names, _ in usable if type_ == "u" and len(names) > 1)
        foreign = dict.fromkeys(
            ForeignKey(tuple(names), shown[target], tuple(referred))
            for type_, target, names, referred in usable
            if type_ == "f" and set(referred) <= readable.get(target, set())
        )
        key_parts = {"primary_key": primary, "foreign_keys": tuple(foreign), "unique": tuple(unique)}
        remarks = {"kind": "view" if rows[0][4] in ("v", "m") else "table", "comment": rows[0][10]}
        tables.append(Table(shown[oid], places[oid][1], tuple(shown_columns), **key_parts, **remarks))
    notes = [
        f"{schema}.{name} is shown as {shown_name}: another schema has a table of that name too"
        for shown_name, (schema, name) in relations.items()
        if shown_name != name
    ]
    return Schema(db_id, tuple(tables), tuple(notes)), relations


def _shown_names(places: Mapping[int, tuple[str, str, bool]]) -> dict[int, str]:
    """The name of each table in prompts: bare where only one has it or it is in the search path."""
    count = Counter(name for _, name, _ in places.values())
    shown = {oid: name for oid, (_, name, visible) in places.items() if visible or count[name] == 1}
    for oid, (schema, name, _) in places.items():
        if oid not in shown:
            candidate = f"{schema}_{name}"
            while candidate in shown.values():
                candidate += "_"
            shown[oid] = candidate
    return shown


def relation(table: str, relations: Relations) -> str:
    """How SQL names the table that prompts show as `table`."""
    return ".".join(map(quote, relations.get(table, (table,))))


def hide(schema: Schema, hidden: Sequence[str]) -> Schema:
    """`schema` without the tables and columns in `hidden`, as `leave_out`.

    Nor has it notes and comments that name them, nor a view's columns of a hidden column's name.

    Raises:
        UserError: one of them does not exist: a misspelt name must not let a column out.
    """
    secret: set[str] = set()
    for table in schema.tables:
        parts = [(table.name, table), *((f"{table.name}.{column.name}", column) for column in table.columns)]
        for name, part in parts:
            if {table.name, name} & set(hidden):
                secret |= {part.name, part.source}
    columns = {name.partition(".")[2] for name in hidden if "." in name}
    views = [table for table in schema.tables if table.kind == "view"]
    seen = [f"{view.name}.{column.name}" for view in views for column in view.columns if column.name in columns]
    shown = leave_out(schema, [*hidden, *seen])
    if not secret:
        return shown
    named = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(secret)))})(?!\w)", re.IGNORECASE)

    def silent(part: Described) -> Described:
        return dataclasses.replace(part, comment="") if named.search(part.comment) else part

    tables = tuple(dataclasses.replace(silent(t), columns=tuple(map(silent, t.columns))) for t in shown.tables)
    return dataclasses.replace(shown, tables=tables, notes=tuple(n for n in schema.notes if not named.search(n)))


def leave_out(schema: Schema, hidden: Sequence[str]) -> Schema:
    """`schema` without the tables and columns (`table` or `table.column`) in `hidden`, nor the keys on them.

    Raises:
        UserError: one of them does not exist.
    """
    known = {t.name for t in schema.tables} | {f"{t.name}.{c.name}" for t in schema.tables for c in t.columns}
    if unknown := sorted(set(hidden) - known):
        raise UserError(f"{unknown[0]} is to be hidden, but is not in the schema", "write table.column or table")

    def stays(table: str, columns: Sequence[str]) -> bool:
        return not {table, *(f"{table}.{column}" for column in columns)} & set(hidden)

    def shown(table: Table) -> Table:
        keys = [k for k in table.foreign_keys if stays(k.referred_table, k.referred_columns)]
        return dataclasses.replace(
            table,
            columns=tuple(c for c in table.columns if stays(table.name, [c.name])),
            primary_key=table.primary_key if stays(table.name, table.primary_key) else (),
            unique=tuple(key for key in table.unique if stays(table.name, key)),
            foreign_keys=tuple(k for k in keys if stays(table.name, k.columns)),
        )

    tables = map(shown, schema.tables)
    return dataclasses.replace(schema, tables=tuple(t for t in tables if t.columns))
