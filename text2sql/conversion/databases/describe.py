"""The PostgreSQL schema of a SQLite database: names, types, and the keys that its rows obey."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from text2sql.conversion.databases.encode import encoder
from text2sql.conversion.databases.infer import Facts, affinity, column_type, declared_type, unify
from text2sql.conversion.databases.names import SYSTEM_COLUMNS, assign, lower
from text2sql.conversion.databases.sqlite import SourceTable, SqliteDatabase, Value, sqlite_name
from text2sql.schema import OTHER_SAMPLES, Column, ForeignKey, Schema, Table

#: names that every PostgreSQL schema has already, as far as a table of ours could hide or meet them
_LARGEST_COLUMNS = 1600


def describe(source: SqliteDatabase, db_id: str, samples: int = 3) -> Schema:
    """The schema that `source` gets in PostgreSQL. What is not carried over as declared is said in `Schema.notes`.

    Args:
        samples: distinct values kept of each column; of one that is not text at most `OTHER_SAMPLES`.
    """
    tables = source.tables()
    facts = {table.name: _scan(source, table, samples) for table in tables}
    types = _types(tables, _blanks_as_null(tables, facts))
    for (table, column), type_ in types.items():
        if type_ != "text" and facts[table][column].blank:
            facts[table][column] = facts[table][column].without_blanks()
    names = assign(table.name for table in tables)
    columns = {t.name: assign((c.name for c in t.columns), SYSTEM_COLUMNS) for t in tables}
    notes: list[str] = []
    described = []
    for table in tables:
        if len(table.columns) > _LARGEST_COLUMNS:
            notes.append(f"table {table.name}: left out, PostgreSQL takes {_LARGEST_COLUMNS} columns at most")
            continue
        notes += _name_notes(table, names, columns[table.name])
        described.append(_table(source, table, names, columns, facts[table.name], types, notes))
    by_source = {table.source: table for table in described}
    final = [_with_foreign_keys(source, t, by_source, tables, notes) for t in described]
    return Schema(db_id, tuple(final), tuple(source.notes + notes))


def _scan(source: SqliteDatabase, table: SourceTable, samples: int) -> dict[str, Facts]:
    """What the values of each column are, by column name; reads the table in blocks."""
    facts = {column.name: Facts() for column in table.columns}
    for block in blocks(source.rows(table)):
        for column, values in zip(table.columns, zip(*block, strict=True), strict=True):
            facts[column.name].add(values, samples)
    return facts


def blocks(rows: Iterable[tuple[Value, ...]], size: int = 20_000) -> Iterator[list[tuple[Value, ...]]]:
    """`rows` in lists of at most `size`."""
    following = iter(rows)
    while block := list(islice(following, size)):
        yield block


def _blanks_as_null(tables: list[SourceTable], facts: dict[str, dict[str, Facts]]) -> dict[str, dict[str, Facts]]:
    """`facts` with NULL for the empty texts of columns whose other values are all numbers, dates, times or booleans:
    one blank must not make a column of temperatures a column of texts."""
    result = {name: dict(columns) for name, columns in facts.items()}
    for table in tables:
        for column in table.columns:
            known = facts[table.name][column.name].without_blanks()
            if known.storage and column_type(column.declared, known) not in ("text", "bytea"):
                result[table.name][column.name] = known
    return result


def _types(tables: list[SourceTable], facts: dict[str, dict[str, Facts]]) -> dict[tuple[str, str], str]:
    """The type of each (table, column), the same along each foreign key."""
    declared = {(t.name, c.name): c.declared for t in tables for c in t.columns}
    known = {key: facts[key[0]][key[1]] for key in declared}
    own = {key: column_type(declared[key], known[key]) for key in declared}
    groups: dict[tuple[str, str], set[tuple[str, str]]] = {key: {key} for key in declared}
    for table in tables:
        for left, right in _key_pairs(table, tables):
            joined = groups[left] | groups[right]
            groups.update(dict.fromkeys(joined, joined))
    distinct = {id(group): group for group in groups.values()}.values()
    return unify(own, known, [group for group in distinct if len(group) > 1])  # type: ignore[arg-type]


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


def _key_pairs(table: SourceTable, tables: list[SourceTable]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    for columns, referred, referred_columns in _resolve(table, tables):
        for left, right in zip(columns, referred_columns, strict=True):
            yield (table.name, left), (referred, right)


def _name_notes(table: SourceTable, names: dict[str, str], columns: dict[str, str]) -> list[str]:
    """Renamings beyond lower case."""
    notes = []
    if names[table.name] != lower(table.name):
        notes.append(f"table {table.name}: named {names[table.name]}")
    for source, name in columns.items():
        if name != lower(source):
            notes.append(f"column {table.name}.{source}: named {name}")
    return notes


def _table(
    source: SqliteDatabase,
    table: SourceTable,
    names: dict[str, str],
    columns: dict[str, dict[str, str]],
    facts: dict[str, Facts],
    types: dict[tuple[str, str], str],
    notes: list[str],
) -> Table:
    """A table with its columns and the primary and unique keys that its rows obey."""
    own = columns[table.name]
    key = table.primary_key
    if key and (problem := _breaks_key(source, table, key, types, nulls=True)):
        notes.append(f"table {table.name}: primary key ({', '.join(key)}) not enforced, {problem}")
        key = ()
    unique = []
    for candidate in table.unique:
        if candidate == key:
            continue
        if problem := _breaks_key(source, table, candidate, types, nulls=False):
            notes.append(f"table {table.name}: unique ({', '.join(candidate)}) not enforced, {problem}")
        else:
            unique.append(candidate)
    described = []
    for column in table.columns:
        fact, type_ = facts[column.name], types[table.name, column.name]
        if fact.with_nul:
            notes.append(f"column {table.name}.{column.name}: NUL in {fact.with_nul} texts, replaced by U+FFFD")
        if fact.storage and type_ == "text" and declared_type(column.declared) != "text":
            held = ", ".join(fact.storage)
            notes.append(
                f"column {table.name}.{column.name}: declared {column.declared or 'without a type'}, holds {held}"
            )
        if fact.blanks_as_null:
            notes.append(f"column {table.name}.{column.name}: {fact.blanks_as_null} empty texts, NULL in PostgreSQL")
        if column.not_null and fact.nulls:
            notes.append(f"column {table.name}.{column.name}: NOT NULL not enforced, {fact.nulls} NULLs")
        described.append(
            Column(
                name=own[column.name],
                source=column.name,
                type=type_,
                not_null=(column.not_null and not fact.nulls) or column.name in key,
                unique=(column.name,) in unique,
                samples=tuple(fact.samples)[: None if type_ == "text" else OTHER_SAMPLES],
                affinity=affinity(column.declared),
                storage=fact.storage,
                form=fact.form if fact.texts else "text",
                prefix=fact.prefixes[0] if fact.texts else "",
                has_nulls=bool(fact.nulls) or not fact.rows,
                has_blanks=bool(fact.blank or fact.blanks_as_null) or not fact.rows,
                has_zeros=bool(fact.zeros) or not fact.rows,
                collation=column.collation,
            )
        )
    rows = next(iter(facts.values())).rows if facts else 0
    several = tuple(tuple(own[c] for c in candidate) for candidate in unique if len(candidate) > 1)
    named_key = tuple(own[c] for c in key)
    return Table(names[table.name], table.name, tuple(described), named_key, (), rows, several, table.kind)


def _with_foreign_keys(
    source: SqliteDatabase, table: Table, described: dict[str, Table], tables: list[SourceTable], notes: list[str]
) -> Table:
    """`table` with its foreign keys; those that the rows violate, or that refer to no key, are not enforced."""
    declared = next(t for t in tables if t.name == table.source)
    resolved = list(dict.fromkeys(_resolve(declared, tables)))
    if len(resolved) < len(set(declared.foreign_keys)):
        notes.append(f"table {table.source}: a foreign key refers to a table or column that does not exist")
    keys = []
    for columns, referred_name, referred_columns in resolved:
        referred = described.get(referred_name)
        if referred is None:
            continue
        own = tuple(_column(table, name).name for name in columns)
        theirs = tuple(_column(referred, name).name for name in referred_columns)
        problem = _breaks_reference(source, table, columns, referred, referred_columns, theirs)
        if problem:
            target = f"{referred_name} ({', '.join(referred_columns)})"
            notes.append(
                f"table {table.source}: foreign key ({', '.join(columns)}) to {target} not enforced, {problem}"
            )
        keys.append(ForeignKey(own, referred.name, theirs, enforced=not problem))
    return Table(**{**table.__dict__, "foreign_keys": tuple(keys)})


def _column(table: Table, source: str) -> Column:
    return next(column for column in table.columns if column.source == source)


def _breaks_key(
    source: SqliteDatabase, table: SourceTable, key: tuple[str, ...], types: dict[tuple[str, str], str], nulls: bool
) -> str:
    """Why `key` cannot be a key of the rows as PostgreSQL has them, or an empty text."""
    kinds = [types[table.name, column] for column in key]
    seen = set()
    for row in _key_rows(source, table.name, key, kinds):
        if None in row:
            if nulls:
                return "it holds NULL"
            continue
        if row in seen:
            return f"duplicate ({', '.join(map(str, row))[:60]})"
        seen.add(row)
    return ""


def _breaks_reference(
    source: SqliteDatabase,
    table: Table,
    columns: tuple[str, ...],
    referred: Table,
    referred_columns: tuple[str, ...],
    names: tuple[str, ...],
) -> str:
    """Why a foreign key cannot be enforced, or an empty text."""
    keys = {frozenset(referred.primary_key), *(frozenset(key) for key in referred.unique)}
    keys |= {frozenset({column.name}) for column in referred.columns if column.unique}
    if frozenset(names) not in keys:
        return f"{', '.join(referred_columns)} is no key there"
    theirs = [_column(referred, name).type for name in referred_columns]
    existing = set(_key_rows(source, referred.source, referred_columns, theirs))
    own = [_column(table, name).type for name in columns]
    if own != theirs:
        return "the types differ"
    orphans = {r for r in _key_rows(source, table.source, columns, own) if None not in r and r not in existing}
    return f"{len(orphans)} values are not there" if orphans else ""


def _key_rows(
    source: SqliteDatabase, table: str, columns: tuple[str, ...], types: list[str]
) -> Iterator[tuple[str | None, ...]]:
    """The values of some columns as PostgreSQL will have them, for comparison among each other."""
    encoders = [encoder(type_) for type_ in types]
    blanks = ["" if type_ != "text" else None for type_ in types]
    names = ", ".join(sqlite_name(column) for column in columns)
    for row in source.connection.execute(f"SELECT {names} FROM {sqlite_name(table)}"):
        yield tuple(None if v is None or v == b else e(v) for e, v, b in zip(encoders, row, blanks, strict=True))
