"""Schemas in the CREATE TABLE statements of MySQL, SQL Server and SQLite, read by sqlglot's parsers.

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

from text2sql.ask.bare_table import bare_table
from text2sql.files import read_beside
from text2sql.schema import Column, ForeignKey, Schema, Table
from text2sql.sql import parse_one

#: in the order in which they are tried; SQL Server and SQLite both put names in brackets
DIALECTS = {"mysql": "MySQL", "tsql": "SQL Server or SQLite", "sqlite": "SQLite"}
#: SQL Server's tools end a batch with GO on a line of its own
_GO = re.compile(r"^[ \t]*GO[ \t]*\d*[ \t]*;?[ \t]*$", re.MULTILINE | re.IGNORECASE)
Type = exp.DataType.Type
_TYPES = read_beside(__file__)
POSTGRES_TYPES = {Type[name]: type_ for type_, names in _TYPES["types"].items() for name in names.split()}
#: types of other databases: a table that needs one is no PostgreSQL table
FOREIGN_TYPES = frozenset(_TYPES["foreign"].split())


@dataclasses.dataclass(frozen=True)
class DialectReading:
    """What a dialect reads of a script; `problems` name the statements that it does not understand."""

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
    readings: list[DialectReading] = []
    for dialect in DIALECTS:
        readings.append(read_dialect(text, db_id, dialect))
        if readings[-1].schema.tables and not readings[-1].problems:
            break
    best = max(readings, key=lambda reading: reading.score)
    return best if best.schema.tables else None


def tsql_text(text: str) -> str:
    """A script of SQL Server without what its parser stumbles at: GO, and CLUSTERED before a key's columns."""
    return re.sub(r"\b(?:non)?clustered\b", "", _GO.sub(";", text), flags=re.IGNORECASE)


def read_dialect(text: str, db_id: str, dialect: str) -> DialectReading:
    """The tables of `text`, and a line for each statement that `dialect` does not understand."""
    tables: dict[str, Table] = {}
    problems: list[str] = []
    try:
        statements = list(definitions(tsql_text(text) if dialect == "tsql" else text, dialect))
    except SqlglotError as error:
        return DialectReading(Schema(db_id, ()), [first_line(error)])
    for statement in statements:
        title = " ".join(statement.split())[:60]
        try:
            tree = parse_definition(statement, dialect)
        except SqlglotError as error:
            problems.append(f"{title} ({first_line(error)})")
            continue
        if isinstance(tree, exp.Create) and isinstance(tree.this, exp.Schema):
            table = with_parts(Table(name_of(tree.this.this), tree.this.this.name, ()), tree.this.expressions)
            if table.name in tables:
                problems.append(f"{title} (a second table of that name)")
            tables.setdefault(table.name, table)
        elif isinstance(tree, exp.Alter):
            if (name := name_of(tree.this)) in tables:
                tables[name] = with_parts(tables[name], tree.args.get("actions") or [])
        elif isinstance(tree, exp.Create) or tree.this.upper() != "ALTER":  # other ALTERs concern no key
            problems.append(title)
    how = f"not PostgreSQL: read as {DIALECTS[dialect]}; names are lower-case and types PostgreSQL's from here on"
    notes = (how, *(f"not read: {problem}" for problem in problems))
    return DialectReading(check_keys(Schema(db_id, tuple(tables.values()), notes)), problems)


def parse_definition(statement: str, dialect: str) -> exp.Expression:
    """The tree of a definition; of a CREATE TABLE with a clause that the parser does not know, without such clauses.

    Raises:
        SqlglotError: that is not understood either.
    """
    try:
        return parse_one(statement, dialect)
    except SqlglotError:
        if (bare := bare_table(statement)) is None:
            raise
        return parse_one(bare, dialect)


def first_line(error: SqlglotError) -> str:
    """What a parser says, without the excerpt of the text."""
    return str(error).splitlines()[0]


def definitions(text: str, dialect: str) -> Iterator[str]:
    """The CREATE TABLE statements, each up to its closing parenthesis (storage options follow), and ALTER TABLEs."""
    tokens = sqlglot.tokenize(text, read=dialect)
    for i, token in enumerate(tokens):
        head = [following.token_type for following in tokens[i : i + 4]]
        creates = head[0] == TokenType.CREATE and TokenType.TABLE in head
        if creates or head[:2] == [TokenType.ALTER, TokenType.TABLE]:
            yield text[token.start : tokens[end_of(tokens, i, creates)].end + 1]


def end_of(tokens: list[Token], start: int, creates: bool) -> int:
    """The last token of the definition at `start`: a CREATE TABLE's closing parenthesis, or that before a semicolon."""
    depth = 0
    for i in range(start, len(tokens)):
        token_type = tokens[i].token_type
        depth += (token_type == TokenType.L_PAREN) - (token_type == TokenType.R_PAREN)
        if depth == 0 and creates and token_type == TokenType.R_PAREN:
            return i
        if depth == 0 and token_type == TokenType.SEMICOLON:
            return i - 1
    return len(tokens) - 1


def with_parts(table: Table, parts: Iterable[exp.Expression]) -> Table:
    """`table` with the columns and keys of a CREATE TABLE or ALTER TABLE."""
    for part in parts:
        if isinstance(part, exp.ColumnDef | exp.Identifier):  # SQLite's columns need no type: a bare identifier
            table = dataclasses.replace(table, columns=(*table.columns, column_of(part)))
        for node in part.find_all(exp.PrimaryKey, exp.PrimaryKeyColumnConstraint, exp.Reference):
            listed = (node.find_ancestor(exp.ForeignKey) or node).expressions
            columns = tuple(map(name_of, listed)) or (name_of(part),)
            if isinstance(node, exp.Reference):
                keys = (*table.foreign_keys, reference_of(columns, node))
                table = dataclasses.replace(table, foreign_keys=keys)
            else:
                table = dataclasses.replace(table, primary_key=columns)
    return table


def reference_of(columns: tuple[str, ...], reference: exp.Expression) -> ForeignKey:
    """A foreign key; without named columns it refers to the primary key, which `check_keys` fills in."""
    target = reference.this
    table = target.this if isinstance(target, exp.Schema) else target
    return ForeignKey(columns, name_of(table), tuple(map(name_of, target.expressions)))


def column_of(part: exp.ColumnDef | exp.Identifier) -> Column:
    """A column out of its definition."""
    constraints = {type(c.kind): c.kind for c in part.args.get("constraints") or ()}
    declared, comment = part.args.get("kind"), constraints.get(exp.CommentColumnConstraint)
    is_enum = isinstance(declared, exp.DataType) and declared.this == Type.ENUM
    return Column(
        name_of(part),
        part.name,
        postgres_type(declared),
        not_null=exp.NotNullColumnConstraint in constraints,
        unique=exp.UniqueColumnConstraint in constraints,
        comment=comment.name if comment else "",
        choices=tuple(value.name for value in declared.expressions) if is_enum else (),
    )


def postgres_type(declared: exp.Expression | None) -> str:
    """PostgreSQL's name of a declared type, without length or precision; text where there is none of that meaning."""
    return POSTGRES_TYPES.get(declared.this, "text") if isinstance(declared, exp.DataType) else "text"


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
