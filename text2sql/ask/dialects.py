"""A schema out of the CREATE TABLE statements of MySQL, SQL Server and SQLite, read by sqlglot's parsers.

Only tables, columns and keys are taken; types become PostgreSQL's, names lower-case.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from text2sql.schema import Column, ForeignKey, Schema, Table
from text2sql.sql import parse_one

#: in the order of trying; brackets around names are both SQL Server's and SQLite's
DIALECTS = {"mysql": "MySQL", "tsql": "SQL Server or SQLite", "sqlite": "SQLite"}
#: SQL Server's tools end a batch with GO on a line of its own
_GO = re.compile(r"^[ \t]*GO[ \t]*\d*[ \t]*;?[ \t]*$", re.MULTILINE | re.IGNORECASE)
Type = exp.DataType.Type
#: PostgreSQL's types by sqlglot's; all others become text
TYPES = {
    "bigint": {Type.BIGINT, Type.UBIGINT, Type.BIGSERIAL},
    "integer": {*exp.DataType.INTEGER_TYPES, Type.SERIAL, Type.SMALLSERIAL, Type.YEAR},
    "double precision": exp.DataType.FLOAT_TYPES,
    "numeric": {Type.DECIMAL, Type.UDECIMAL, Type.BIGDECIMAL, Type.MONEY, Type.SMALLMONEY},
    "date": {Type.DATE, Type.DATE32},
    "timestamp": {Type.TIMESTAMP, Type.DATETIME, Type.DATETIME2, Type.SMALLDATETIME, Type.TIMESTAMPNTZ},
    "timestamptz": {Type.TIMESTAMPTZ, Type.TIMESTAMPLTZ},
    "boolean": {Type.BOOLEAN, Type.BIT},
    "jsonb": {Type.JSON, Type.JSONB},
    "time": {Type.TIME},
    "timetz": {Type.TIMETZ},
    "uuid": {Type.UUID},
    "bytea": {Type.BINARY, Type.VARBINARY, Type.BLOB, Type.LONGBLOB, Type.MEDIUMBLOB, Type.TINYBLOB, Type.IMAGE},
}


@dataclasses.dataclass(frozen=True)
class DialectReading:
    """A script in the dialect that understands most of it; `problems` name what was not understood."""

    schema: Schema
    problems: list[str]

    @property
    def score(self) -> int:
        """Tables that were read, less those that were not."""
        return len(self.schema.tables) - len(self.problems)


def parse_dialect(text: str, db_id: str) -> DialectReading | None:
    """The schema in a script of another database than PostgreSQL; None where no dialect reads a table of it.

    The dialects are tried in the order of `DIALECTS` until one reads all; otherwise the best one is taken.
    """
    readings = {}
    for dialect in DIALECTS:
        tables, problems = readings[dialect] = read_dialect(text, dialect)
        if tables and not problems:
            break
    dialect = max(readings, key=lambda d: len(readings[d][0]) - len(readings[d][1]))
    tables, problems = readings[dialect]
    if not tables:
        return None
    how = f"not PostgreSQL: read as {DIALECTS[dialect]}; names are lower-case and types PostgreSQL's from here on"
    notes = (how, *(f"not read: {problem}" for problem in problems))
    return DialectReading(check_keys(Schema(db_id, tuple(tables.values()), notes)), problems)


def tsql_text(text: str) -> str:
    """A script of SQL Server without what its parser stumbles at: GO, and CLUSTERED before a key's columns."""
    return re.sub(r"\b(?:non)?clustered\b", "", _GO.sub(";", text), flags=re.IGNORECASE)


def read_dialect(text: str, dialect: str) -> tuple[dict[str, Table], list[str]]:
    """The tables of `text` by name, and a line for each statement that `dialect` does not understand."""
    tables: dict[str, Table] = {}
    problems: list[str] = []
    try:
        found = list(definitions(tsql_text(text) if dialect == "tsql" else text, dialect))
    except SqlglotError as error:
        return {}, [first_line(error)]
    for statement in found:
        title = " ".join(statement.split())[:60]
        try:
            tree = parse_one(statement, dialect)
        except SqlglotError as error:
            problems.append(f"{title} ({first_line(error)})")
            continue
        if isinstance(tree, exp.Create) and isinstance(tree.this, exp.Schema):
            table = table_of(tree.this)
            if table.name in tables:
                problems.append(f"{title} (a second table of that name)")
            tables.setdefault(table.name, table)
        elif isinstance(tree, exp.Alter):
            if (name := name_of(tree.this)) in tables:
                tables[name] = with_parts(tables[name], tree.args.get("actions") or [])
        elif isinstance(tree, exp.Create) or tree.this.upper() != "ALTER":  # other ALTERs concern no key
            problems.append(title)
    return tables, problems


def first_line(error: SqlglotError) -> str:
    """What a parser says, without the excerpt of the text."""
    return str(error).splitlines()[0]


def definitions(text: str, dialect: str) -> Iterator[str]:
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


def table_of(schema: exp.Schema) -> Table:
    """A table out of the tree of its CREATE TABLE."""
    return with_parts(Table(name_of(schema.this), schema.this.name, ()), schema.expressions)


def with_parts(table: Table, parts: Iterable[exp.Expression]) -> Table:
    """`table` with the columns and keys of a CREATE TABLE or ALTER TABLE."""
    for part in parts:
        if isinstance(part, exp.ColumnDef | exp.Identifier):  # SQLite's columns need no type: a bare identifier
            table = dataclasses.replace(table, columns=(*table.columns, column_of(part)))
        keys = list(part.find_all(exp.PrimaryKey, exp.ForeignKey))
        for constraint in part.args.get("constraints") or () if isinstance(part, exp.ColumnDef) else ():
            if isinstance(constraint.kind, exp.PrimaryKeyColumnConstraint):
                table = dataclasses.replace(table, primary_key=(name_of(part),))
            elif isinstance(constraint.kind, exp.Reference):
                key = reference_of((name_of(part),), constraint.kind)
                table = dataclasses.replace(table, foreign_keys=(*table.foreign_keys, key))
        for key in keys:
            names = tuple(name_of(column) for column in key.expressions)
            if isinstance(key, exp.PrimaryKey):
                table = dataclasses.replace(table, primary_key=names)
            elif reference := key.args.get("reference"):
                foreign = (*table.foreign_keys, reference_of(names, reference))
                table = dataclasses.replace(table, foreign_keys=foreign)
    return table


def reference_of(columns: tuple[str, ...], reference: exp.Expression) -> ForeignKey:
    """A foreign key; without named columns it refers to the primary key, which `check_keys` fills in."""
    target = reference.this
    if isinstance(target, exp.Schema):
        referred = tuple(name_of(part) for part in target.expressions)
        return ForeignKey(columns, name_of(target.this), referred)
    return ForeignKey(columns, name_of(target), ())


def column_of(part: exp.ColumnDef | exp.Identifier) -> Column:
    """A column out of its definition."""
    constraints = [constraint.kind for constraint in part.args.get("constraints") or ()]
    kinds = [type(constraint) for constraint in constraints]
    declared = part.args.get("kind")
    is_enum = isinstance(declared, exp.DataType) and declared.this == exp.DataType.Type.ENUM
    return Column(
        name_of(part),
        part.name,
        postgres_type(declared),
        not_null=exp.NotNullColumnConstraint in kinds,
        unique=exp.UniqueColumnConstraint in kinds,
        comment=next((c.name for c in constraints if isinstance(c, exp.CommentColumnConstraint)), ""),
        choices=tuple(value.name for value in declared.expressions) if is_enum else (),
    )


def postgres_type(declared: exp.Expression | None) -> str:
    """PostgreSQL's name of a declared type, without length or precision; text where there is none of that meaning."""
    if not isinstance(declared, exp.DataType):
        return "text"
    return next((name for name, types in TYPES.items() if declared.this in types), "text")


def name_of(part: exp.Expression) -> str:
    """The name as PostgreSQL has it from here on: lower-case."""
    identifier = part if isinstance(part, exp.Identifier) else part.find(exp.Identifier)
    return (part if identifier is None else identifier).name.lower()


def check_keys(schema: Schema) -> Schema:
    """Foreign keys that name no columns refer to the primary key; those to a missing table or column are left out."""
    notes = list(schema.notes)
    tables = []
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
        tables.append(dataclasses.replace(table, foreign_keys=tuple(kept)))
    return dataclasses.replace(schema, tables=tuple(tables), notes=tuple(notes))
