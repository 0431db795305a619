"""The PostgreSQL schema of a SQLite database: names, types, and the keys that its rows obey."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from text2sql.conversion.databases.encode import encoder
from text2sql.conversion.databases.infer import Facts, affinity, column_type, common_type, declared_type
from text2sql.conversion.databases.names import SYSTEM_COLUMNS, assign, lower
from text2sql.conversion.databases.sqlite import SourceColumn, SourceTable, SqliteDatabase, Value, sqlite_name
from text2sql.schema import OTHER_SAMPLES, Column, ForeignKey, Schema, Table

ColumnName = tuple[str, str]  # of SQLite: (table, column)
#: PostgreSQL's limit of columns of a table
_LARGEST_COLUMNS = 1600
#: in UTF-8, of the values of a key: an index of PostgreSQL takes 2,704 with what it adds
LONGEST_KEY = 2600


def describe(source: SqliteDatabase, db_id: str, samples: int = 3) -> Schema:
    """The schema that `source` gets in PostgreSQL. What is not carried over as declared is said in `Schema.notes`.

    Args:
        samples: distinct values kept of each column; of one that is not text at most `OTHER_SAMPLES`.
    """
    tables = source.tables()
    facts = {(table.name, name): fact for table in tables for name, fact in _scan(source, table, samples).items()}
    types = _types(tables, facts)
    facts = {key: fact.without_blanks() if types[key] != "text" and fact.blank else fact for key, fact in facts.items()}
    names = assign((table.name for table in tables), tables=True)
    described = []
    for table in tables:
        if len(table.columns) > _LARGEST_COLUMNS:
            source.note(f"table {table.name}: left out, PostgreSQL takes {_LARGEST_COLUMNS} columns at most")
        else:
            described.append(_table(source, table, names[table.name], facts, types))
    by_source = {table.source: table for table in described}
    final = [_with_foreign_keys(source, table, by_source) for table in described]
    return Schema(db_id, tuple(final), tuple(source.notes))


def _scan(source: SqliteDatabase, table: SourceTable, samples: int) -> dict[str, Facts]:
    """What the values of each column are, by column name; reads the table in blocks."""
    facts = {column.name: Facts() for column in table.columns}
    for block in blocks(source.rows(table)):
        for fact, values in zip(facts.values(), zip(*block, strict=True), strict=True):
            fact.add(values, samples)
    return facts


def blocks(rows: Iterable[tuple[Value, ...]], size: int = 20_000) -> Iterator[list[tuple[Value, ...]]]:
    """`rows` in lists of at most `size`."""
    following = iter(rows)
    while block := list(islice(following, size)):
        yield block


def _types(tables: list[SourceTable], facts: Mapping[ColumnName, Facts]) -> dict[ColumnName, str]:
    """The type of each (table, column), the same along each foreign key."""
    types, known = {}, {}
    for table in tables:
        for column in table.columns:
            key = (table.name, column.name)
            # NULL for the empty texts of columns whose other values are all numbers, dates, times or booleans: one
            # blank must not make a column of temperatures a column of texts.
            filled = facts[key].without_blanks()
            is_typed = bool(filled.storage) and column_type(column.declared, filled) not in ("text", "bytea")
            known[key] = filled if is_typed else facts[key]
            types[key] = column_type(column.declared, known[key])
    groups = {key: {key} for key in types}
    for table in tables:
        for columns, referred, referred_columns in _resolve(table, tables):
            for left, right in zip(columns, referred_columns, strict=True):
                joined = groups[table.name, left] | groups[referred, right]
                groups.update(dict.fromkeys(joined, joined))
    return {
        key: common_type([(types[k], known[k]) for k in group]) if len(group) > 1 else types[key]
        for key, group in groups.items()
    }


def _resolve(table: SourceTable, tables: list[SourceTable]) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """The foreign keys of a table as (columns, table, columns) with the names as they were declared, as far as
    there are such."""
    by_name = {lower(t.name): t for t in tables}
    for key in table.foreign_keys:
        referred = by_name.get(lower(key.referred_table))
        if referred is None:
            continue
        wanted = key.referred_columns or referred.primary_key
        exact = {lower(c.name): c.name for c in referred.columns}
        own = {lower(c.name): c.name for c in table.columns}
        if len(wanted) != len(key.columns) or not all(lower(name) in exact for name in wanted):
            continue
        if all(lower(name) in own for name in key.columns):
            yield tuple(own[lower(n)] for n in key.columns), referred.name, tuple(exact[lower(n)] for n in wanted)


def _table(
    source: SqliteDatabase,
    table: SourceTable,
    name: str,
    all_facts: Mapping[ColumnName, Facts],
    types: Mapping[ColumnName, str],
) -> Table:
    """A table with its columns and the primary and unique keys that its rows obey."""
    names = assign((column.name for column in table.columns), SYSTEM_COLUMNS)
    for what, original, given in (("table", table.name, name), *(("column", *pair) for pair in names.items())):
        if given != lower(original):  # a renaming beyond lower case
            where = original if what == "table" else f"{table.name}.{original}"
            source.note(f"{what} {where}: named {given}")
    key = table.primary_key
    if key and (problem := _breaks_key(source, table, key, types, nulls=True)):
        source.note(f"table {table.name}: primary key ({', '.join(key)}) not enforced, {problem}")
        key = ()
    unique = []
    for candidate in table.unique:
        if candidate == key:
            continue
        if problem := _breaks_key(source, table, candidate, types, nulls=False):
            source.note(f"table {table.name}: unique ({', '.join(candidate)}) not enforced, {problem}")
        else:
            unique.append(candidate)
    facts = [all_facts[table.name, column.name] for column in table.columns]
    described = []
    for column, fact in zip(table.columns, facts, strict=True):
        type_ = types[table.name, column.name]
        for problem in _column_notes(column, fact, type_):
            source.note(f"column {table.name}.{column.name}: {problem}")
        described.append(
            Column(
                name=names[column.name],
                source=column.name,
                type=type_,
                not_null=(column.not_null and not fact.nulls) or column.name in key,
                unique=(column.name,) in unique,
                samples=tuple(fact.samples)[: None if type_ == "text" else OTHER_SAMPLES],
                affinity=affinity(column.declared),
                storage=fact.storage,
                form=fact.form if fact.stored["text"] else "text",
                prefix=fact.prefix,
                has_nulls=bool(fact.nulls) or not fact.rows,
                has_blanks=bool(fact.blank or fact.blanks_as_null) or not fact.rows,
                has_zeros=bool(fact.zeros) or not fact.rows,
                collation=column.collation,
            )
        )
    several = tuple(tuple(names[c] for c in candidate) for candidate in unique if len(candidate) > 1)
    rows = facts[0].rows if facts else 0
    return Table(name, table.name, tuple(described), tuple(names[c] for c in key), (), rows, several, table.kind)


def _column_notes(column: SourceColumn, fact: Facts, type_: str) -> Iterator[str]:
    """What is not carried over as declared."""
    if fact.with_nul:
        yield f"NUL in {fact.with_nul} texts, replaced by U+FFFD"
    if fact.storage and type_ == "text" and declared_type(column.declared) != "text":
        yield f"declared {column.declared or 'without a type'}, holds {', '.join(fact.storage)}"
    if fact.blanks_as_null:
        yield f"{fact.blanks_as_null} empty texts, NULL in PostgreSQL"
    if column.not_null and fact.nulls:
        yield f"NOT NULL not enforced, {fact.nulls} NULLs"


def _with_foreign_keys(source: SqliteDatabase, table: Table, described: Mapping[str, Table]) -> Table:
    """`table` with its foreign keys; those that the rows violate, or that refer to no key, are not enforced."""
    declared = next(t for t in source.tables() if t.name == table.source)
    resolved = list(dict.fromkeys(_resolve(declared, source.tables())))
    if len(resolved) < len(set(declared.foreign_keys)):
        source.note(f"table {table.source}: a foreign key refers to a table or column that does not exist")
    keys = []
    for names, referred_name, referred_names in resolved:
        if (referred := described.get(referred_name)) is None:
            continue
        columns, theirs = _columns(table, names), _columns(referred, referred_names)
        if problem := _breaks_reference(source, table, columns, referred, theirs):
            target = f"{referred_name} ({', '.join(referred_names)})"
            source.note(f"table {table.source}: foreign key ({', '.join(names)}) to {target} not enforced, {problem}")
        own = tuple(column.name for column in columns)
        keys.append(ForeignKey(own, referred.name, tuple(column.name for column in theirs), enforced=not problem))
    return replace(table, foreign_keys=tuple(keys))


def _columns(table: Table, sources: Iterable[str]) -> list[Column]:
    by_source = {column.source: column for column in table.columns}
    return [by_source[source] for source in sources]


def _breaks_key(
    source: SqliteDatabase, table: SourceTable, key: tuple[str, ...], types: Mapping[ColumnName, str], nulls: bool
) -> str:
    """Why `key` cannot be a key of the rows as PostgreSQL has them, or an empty text."""
    seen = set()
    for row in _key_rows(source, table.name, [(column, types[table.name, column]) for column in key]):
        if None in row and nulls:
            return "it holds NULL"
        if None not in row and row in seen:
            return f"duplicate ({', '.join(map(str, row))[:60]})"
        if is_too_long(row):
            return f"a value is longer than the {LONGEST_KEY:,} bytes that an index can hold"
        seen.add(row)
    return ""


def is_too_long(key: Iterable[str | None]) -> bool:
    """Whether the index of a key could not hold these values, which are written as for COPY."""
    return sum(len(value.encode()) for value in key if value is not None) > LONGEST_KEY


def _breaks_reference(
    source: SqliteDatabase, table: Table, columns: Sequence[Column], referred: Table, theirs: Sequence[Column]
) -> str:
    """Why a foreign key cannot be enforced, or an empty text."""
    keys = {frozenset(key) for key in (referred.primary_key, *referred.unique)}
    keys |= {frozenset({column.name}) for column in referred.columns if column.unique}
    if frozenset(column.name for column in theirs) not in keys:
        return f"{', '.join(column.source for column in theirs)} is no key there"
    existing = set(_key_rows(source, referred.source, [(column.source, column.type) for column in theirs]))
    rows = _key_rows(source, table.source, [(column.source, column.type) for column in columns])
    orphans = {row for row in rows if None not in row and row not in existing}
    return f"{len(orphans)} values are not there" if orphans else ""


def _key_rows(
    source: SqliteDatabase, table: str, columns: Sequence[tuple[str, str]]
) -> Iterator[tuple[str | None, ...]]:
    """The values of some columns, by name and type, as PostgreSQL will have them, for comparison among each other."""
    encoders = [encoder(type_) for _, type_ in columns]
    blanks = ["" if type_ != "text" else None for _, type_ in columns]
    names = ", ".join(sqlite_name(name) for name, _ in columns)
    for row in source.connection.execute(f"SELECT {names} FROM {sqlite_name(table)}"):
        yield tuple(None if v is None or v == b else e(v) for e, v, b in zip(encoders, row, blanks, strict=True))
