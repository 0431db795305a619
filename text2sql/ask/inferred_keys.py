"""Foreign keys of a schema that declares none, told from the names of tables and columns.

Warehouses and old databases often declare no key, and a model then joins along whatever has the same type. Names mostly
tell: `writes.authorid` refers to `author`, whose own key is `authorid`, `orders.customer_id` to `customers.id`,
`flight.from_airport` to `airport`, whose key is `airport_code`. `python dev/keys.py` says how often they do.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache

from text2sql.schema import Column, ForeignKey, Schema, Table, kind_of

#: words that a key's name ends with
SUFFIXES = ("id", "code", "key", "no", "number", "uuid", "name")
_SUFFIX = re.compile(rf"_?({'|'.join(SUFFIXES)})\Z")
#: letters that a table's name has at least for columns to be found by their end
LETTERS = 3
#: keys named in a note
SHOWN = 12


def with_inferred_keys(schema: Schema) -> Schema:
    """`schema`, with the foreign keys that its names speak of where it declares none, and a note on them.

    They are shown in prompts and told to the constraint, and enforced nowhere.
    """
    if any(table.foreign_keys for table in schema.tables):
        return schema
    tables = [table for table in schema.tables if table.kind == "table"]
    named = Named(tables)
    found = {table.name: tuple(named.keys_of(table)) for table in tables}
    said = [f"{name}.{k.columns[0]} -> {k.referred_table}" for name, of in found.items() for k in of]
    if not said:
        return schema
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    note = f"no foreign key is declared; by their names, these are taken for keys: {', '.join(said[:SHOWN])}{more}"
    with_keys = (dataclasses.replace(table, foreign_keys=found.get(table.name, ())) for table in schema.tables)
    return dataclasses.replace(schema, tables=tuple(with_keys), notes=(*schema.notes, note))


class Named:
    """Tables by their names, and by the names of their own keys."""

    def __init__(self, tables: list[Table]) -> None:
        self.by_name: Mapping[str, list[Table]] = defaultdict(list)
        self.by_key: Mapping[str, list[Table]] = defaultdict(list)
        for table in tables:
            for name in names_of(table.name):
                self.by_name[name].append(table)
        self.keys = {table.name: key for table in tables if (key := self.own_key(table))}
        for table in tables:
            if key := self.keys.get(table.name):
                self.by_key[plain_name(key.name)].append(table)

    def own_key(self, table: Table) -> Column | None:
        """The column by which other tables refer to this one: its declared key, or one that is named after it."""
        if len(table.primary_key) == 1:
            return next(column for column in table.columns if column.name == table.primary_key[0])
        by_name = {plain_name(column.name): column for column in reversed(table.columns)}
        words = re.split(r"[ _]+", table.name.lower())
        names = [*names_of(table.name)]
        if words[-1] not in self.by_name:  # `offering_id` of `course_offering`, but not `course_id` of `program_course`
            names.append(words[-1])
        initial = [f"{words[0][:1]}id"] if len(words) == 1 else []
        wanted = [*(f"{name}{suffix}" for suffix in SUFFIXES for name in names), "id", *initial]
        return next((by_name[name] for name in wanted if name in by_name), None)

    def keys_of(self, table: Table) -> Iterator[ForeignKey]:
        """The foreign keys of one table, one at most for each column."""
        for column in table.columns:
            name, stem = plain_name(column.name), stem_of(column.name)
            is_own = name == "id" or stem in names_of(table.name) or len(stem) == 1
            if is_own and column is self.keys.get(table.name):
                continue
            ends = [stem, *(stem[start:] for start in range(1, len(stem) - LETTERS + 1))]
            others = [*self.by_key.get(name, ()), *(other for end in ends for other in self.by_name.get(end, ()))]
            fits = {other.name: self.fit(column, other, other is table) for other in others if other.name in self.keys}
            referred = max(fits, key=fits.__getitem__, default="")
            if fits.get(referred):
                yield ForeignKey((column.name,), referred, (self.keys[referred].name,), enforced=False)

    def fit(self, column: Column, other: Table, is_same: bool) -> int:
        """How well a column's name speaks of a table and its key; 0: not at all.

        Args:
            is_same: the column is in that table.
        """
        key = self.keys[other.name]
        if column is key or column.type != key.type:
            return 0
        name, stem, names = plain_name(column.name), stem_of(column.name), names_of(other.name)
        if stem in names:
            return 0 if is_same else 1000  # of itself a table says "parent", "boss"
        is_called_alike = name == plain_name(key.name) and name not in SUFFIXES and not is_same
        another = any(c not in (key, column) and name.endswith(plain_name(c.name)) for c in other.columns)
        says_key = stem != name or kind_of(column.type) == "text"
        ends = max((len(n) for n in names if len(n) >= LETTERS and stem.endswith(n)), default=0)
        return 100 * is_called_alike + ends * (says_key and not another)


@lru_cache(maxsize=8192)
def plain_name(name: str) -> str:
    """A name in small letters without what separates its words."""
    return re.sub("[_ ]", "", name.lower())


@lru_cache(maxsize=8192)
def stem_of(name: str) -> str:
    """A column's name without the word that says that it is a key: `customer_id`, `customerId` -> `customer`."""
    return plain_name(_SUFFIX.sub("", name.lower()))


@lru_cache(maxsize=8192)
def names_of(table: str) -> tuple[str, ...]:
    """A table's name, plain, and its singular."""
    name = plain_name(table)
    singular = (re.sub(pattern, ending, name) for pattern, ending in (("ies$", "y"), ("es$", ""), ("s$", "")))
    return tuple(dict.fromkeys([name, *singular]))
