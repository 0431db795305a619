"""A schema out of a file of CREATE TABLE statements, as `pg_dump --schema-only` or a person writes it.

PostgreSQL's dialect is tried first, then those of other databases; `Schema.notes` says which was read and what was
passed over. Only tables, columns and keys are taken. Types become the few that training data know (text, integer,
numeric, ...), because what a query needs of a type is its kind: `varchar(40)` and `text` are asked alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from text2sql.errors import UserError
from text2sql.schema import Column, ForeignKey, Schema, Table
from text2sql.sql import parse_one

#: in the order of trying; brackets around names are both SQL Server's and SQLite's
DIALECTS = {"postgres": "PostgreSQL", "mysql": "MySQL", "tsql": "SQL Server or SQLite", "sqlite": "SQLite"}
#: a schema alone is far smaller, even of a thousand tables; more than this is a dump with its rows
LARGEST = 4_000_000
Type = exp.DataType.Type
KINDS = {
    "text": {*exp.DataType.TEXT_TYPES, Type.ENUM, Type.USERDEFINED, Type.SET, Type.XML, Type.UNKNOWN},
    "bigint": {Type.BIGINT, Type.UBIGINT, Type.BIGSERIAL},
    "integer": {*exp.DataType.INTEGER_TYPES, Type.SERIAL, Type.SMALLSERIAL, Type.YEAR},
    "double precision": exp.DataType.FLOAT_TYPES,
    "numeric": {Type.DECIMAL, Type.UDECIMAL, Type.BIGDECIMAL, Type.MONEY, Type.SMALLMONEY},
    "date": {Type.DATE, Type.DATE32},
    "timestamp": {Type.TIMESTAMP, Type.DATETIME, Type.DATETIME2, Type.SMALLDATETIME, Type.TIMESTAMPNTZ},
    "timestamptz": {Type.TIMESTAMPTZ, Type.TIMESTAMPLTZ},
    "boolean": {Type.BOOLEAN, Type.BIT},
    "jsonb": {Type.JSON, Type.JSONB},
    "bytea": {Type.BINARY, Type.VARBINARY, Type.BLOB, Type.LONGBLOB, Type.MEDIUMBLOB, Type.TINYBLOB, Type.IMAGE},
}


def read(path: Path) -> Schema:
    """The schema in a file; its `db_id` is the file's stem.

    Raises:
        UserError: there is no such file, it is no text, or no table in it can be read.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give a file of CREATE TABLE statements") from None
    if content.startswith(b"SQLite format 3\0"):
        raise UserError(f"{path} is an SQLite database", f"give it as --sqlite {path}")
    if len(content) > LARGEST:
        remedy = "give the tables only: `pg_dump --schema-only`"
        raise UserError(f"{path} is larger than {LARGEST // 1_000_000} MB: it holds more than a schema", remedy)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "give a file of CREATE TABLE statements in UTF-8") from None
    return parse(text, path.stem, str(path))


def parse(text: str, db_id: str = "schema", where: str = "the schema") -> Schema:
    """The schema in `text`; `where` names the text in messages.

    Raises:
        UserError: there is no CREATE TABLE, or none that any dialect understands.
    """
    text = without_copy_data(text)
    readings: dict[str, tuple[dict[str, Table], list[str]]] = {}
    for dialect in DIALECTS:
        made, failed = readings[dialect] = tables(text, dialect)
        if made and not failed:
            break
    if "create" not in text.lower() or not any(made or failed for made, failed in readings.values()):
        raise UserError(f"{where} has no CREATE TABLE", "give the tables as CREATE TABLE statements")
    dialect = max(readings, key=lambda d: len(readings[d][0]) - len(readings[d][1]))
    made, failed = readings[dialect]
    if not made:
        tried = ", ".join(DIALECTS.values())
        raise UserError(f"no table of {where} can be read (tried {tried}): {failed[0]}", "mend that statement")
    notes = [f"not read: {problem}" for problem in failed]
    if dialect != "postgres":
        notes.insert(
            0, f"not PostgreSQL: read as {DIALECTS[dialect]}; names are lower-case and types PostgreSQL's from here on"
        )
    return check_keys(Schema(db_id, tuple(made.values()), tuple(notes)))


def without_copy_data(text: str) -> str:
    """`text` without the rows that a dump puts behind COPY ... FROM stdin."""
    kept, in_data = [], False
    for line in text.splitlines():
        if not in_data:
            kept.append(line)
        starts = line.startswith("COPY ") and line.rstrip().endswith("FROM stdin;")
        in_data = (in_data and line != "\\.") or (not in_data and starts)
    return "\n".join(kept)


def tables(text: str, dialect: str) -> tuple[dict[str, Table], list[str]]:
    """The tables of `text` by name, and a line for each statement that `dialect` does not understand."""
    made: dict[str, Table] = {}
    failed: list[str] = []
    try:
        found = list(statements(text, dialect))
    except SqlglotError as error:
        return {}, [str(error).splitlines()[0]]
    for statement in found:
        try:
            tree = parse_one(statement, dialect)
        except SqlglotError as error:
            failed.append(str(error).splitlines()[0])
            continue
        if isinstance(tree, exp.Create) and isinstance(tree.this, exp.Schema):
            table = table_of(tree.this, dialect)
            made[table.name] = table
        elif isinstance(tree, exp.Alter):
            if (name := name_of(tree.this, dialect)) in made:
                made[name] = with_constraints(made[name], tree.find_all(exp.PrimaryKey, exp.ForeignKey), dialect)
        elif isinstance(tree, exp.Create) or tree.this.upper() != "ALTER":  # other ALTERs concern no key
            failed.append(" ".join(statement.split())[:60])
    return made, failed


def statements(text: str, dialect: str) -> Iterator[str]:
    """The CREATE TABLE statements, each up to its closing parenthesis (storage options follow), and ALTER TABLEs."""
    tokens = sqlglot.tokenize(text, read=dialect)
    i = 0
    while i < len(tokens):
        head = [t.token_type for t in tokens[i : i + 4]]
        if head[:1] == [TokenType.CREATE] and TokenType.TABLE in head[1:]:
            end = closing(tokens, i)
        elif head[:2] == [TokenType.ALTER, TokenType.TABLE]:
            end = (
                next((j for j in range(i, len(tokens)) if tokens[j].token_type == TokenType.SEMICOLON), len(tokens)) - 1
            )
        else:
            i += 1
            continue
        yield text[tokens[i].start : tokens[end].end + 1]
        i = end + 1


def closing(tokens: list[Token], start: int) -> int:
    """Where the first parenthesis behind `start` is closed; before the next semicolon where there is none."""
    depth = 0
    for i in range(start, len(tokens)):
        kind = tokens[i].token_type
        depth += (kind == TokenType.L_PAREN) - (kind == TokenType.R_PAREN)
        if kind == TokenType.R_PAREN and depth == 0:
            return i
        if kind == TokenType.SEMICOLON and depth == 0:
            return i - 1
    return len(tokens) - 1


def table_of(schema: exp.Schema, dialect: str) -> Table:
    """A table out of the tree of its CREATE TABLE."""
    name = name_of(schema.this, dialect)
    parts = schema.expressions
    # SQLite's columns need no type: such a one is a bare identifier
    columns = tuple(column_of(part, dialect) for part in parts if isinstance(part, exp.ColumnDef | exp.Identifier))
    table = Table(name, schema.this.name, columns)
    for part in parts:
        if isinstance(part, exp.ColumnDef):
            kinds = [constraint.kind for constraint in part.constraints]
            if any(isinstance(kind, exp.PrimaryKeyColumnConstraint) for kind in kinds):
                table = dataclasses.replace(table, primary_key=(name_of(part, dialect),))
            references = [kind for kind in kinds if isinstance(kind, exp.Reference)]
            keys = tuple(reference_of((name_of(part, dialect),), kind, dialect) for kind in references)
            table = dataclasses.replace(table, foreign_keys=(*table.foreign_keys, *keys))
        elif isinstance(part, exp.Constraint | exp.PrimaryKey | exp.ForeignKey):
            table = with_constraints(table, part.find_all(exp.PrimaryKey, exp.ForeignKey), dialect)
    return table


def with_constraints(table: Table, found: Iterator[exp.Expression], dialect: str) -> Table:
    """`table` with the primary and foreign keys `found`."""
    for key in found:
        names = tuple(name_of(part, dialect) for part in key.expressions)
        if isinstance(key, exp.PrimaryKey):
            table = dataclasses.replace(table, primary_key=names)
        elif reference := key.args.get("reference"):
            new = reference_of(names, reference, dialect)
            table = dataclasses.replace(table, foreign_keys=(*table.foreign_keys, new))
    return table


def reference_of(columns: tuple[str, ...], reference: exp.Expression, dialect: str) -> ForeignKey:
    """A foreign key; without named columns it refers to the primary key, which `check_keys` fills in."""
    target = reference.this
    if isinstance(target, exp.Schema):
        referred = tuple(name_of(part, dialect) for part in target.expressions)
        return ForeignKey(columns, name_of(target.this, dialect), referred)
    return ForeignKey(columns, name_of(target, dialect), ())


def column_of(part: exp.ColumnDef | exp.Identifier, dialect: str) -> Column:
    """A column out of its definition."""
    kinds = [type(constraint.kind) for constraint in part.args.get("constraints") or ()]
    return Column(
        name_of(part, dialect),
        part.name,
        type_of(part.args.get("kind")),
        not_null=exp.NotNullColumnConstraint in kinds,
        unique=exp.UniqueColumnConstraint in kinds,
    )


def type_of(kind: exp.Expression | None) -> str:
    """PostgreSQL's name of a declared type, without length or precision; text where none is declared."""
    if not isinstance(kind, exp.DataType):
        return "text"
    known = next((name for name, types in KINDS.items() if kind.this in types), None)
    return known or kind.sql("postgres").lower()


def name_of(part: exp.Expression, dialect: str) -> str:
    """The name as PostgreSQL has it: lower-case unless quoted; from other dialects always lower-case."""
    identifier = part if isinstance(part, exp.Identifier) else part.find(exp.Identifier)
    if identifier is None:
        return part.name.lower()
    return identifier.name if identifier.quoted and dialect == "postgres" else identifier.name.lower()


def check_keys(schema: Schema) -> Schema:
    """Foreign keys that name no columns refer to the primary key; those to a missing table or column are left out."""
    notes = list(schema.notes)
    made = []
    for table in schema.tables:
        kept = []
        for key in table.foreign_keys:
            target = schema.table(key.referred_table)
            referred = key.referred_columns or (target.primary_key if target else ())
            known = {c.name for c in target.columns} if target else set()
            if set(referred) <= known and len(referred) == len(key.columns):
                kept.append(dataclasses.replace(key, referred_columns=referred))
            else:
                to = f"{key.referred_table}({', '.join(referred)})"
                notes.append(f"{table.name}({', '.join(key.columns)}) refers to {to}, which is not there")
        made.append(dataclasses.replace(table, foreign_keys=tuple(kept)))
    return dataclasses.replace(schema, tables=tuple(made), notes=tuple(notes))
