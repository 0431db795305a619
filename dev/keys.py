"""How many of the foreign keys that Spider's databases declare are told from names alone (ask/inferred_keys.py).

    python dev/keys.py     # where data=spider was converted: data/postgres/schema_index.json

Each schema is stripped of its foreign keys, then of its primary keys as well. A key that is found and was not declared
need not be wrong: many databases declare a part of theirs (`--show` prints them).
"""

from __future__ import annotations

import argparse
import dataclasses

from text2sql.ask.inferred_keys import with_inferred_keys
from text2sql.schema import Schema, read_index
from text2sql.workspace import INDEX

Key = tuple[str, str, str]


def keys(schema: Schema) -> set[Key]:
    """Table, column and referred table of each foreign key of one column."""
    return {
        (table.name, key.columns[0], key.referred_table)
        for table in schema.tables
        for key in table.foreign_keys
        if len(key.columns) == 1
    }


def stripped(schema: Schema, primary_too: bool) -> Schema:
    none = {"foreign_keys": ()} | ({"primary_key": ()} if primary_too else {})
    return dataclasses.replace(schema, tables=tuple(dataclasses.replace(t, **none) for t in schema.tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print what was missed and what was not declared")
    show = parser.parse_args().show
    schemas = {name: schema for name, schema in read_index(INDEX).items() if keys(schema)}
    for primary_too in (False, True):
        declared = {(name, *key) for name, schema in schemas.items() for key in keys(schema)}
        found = {
            (name, *key)
            for name, schema in schemas.items()
            for key in keys(with_inferred_keys(stripped(schema, primary_too)))
        }
        both = len(declared & found)
        print(
            f"{'no key' if primary_too else 'primary keys'} declared: {both} of {len(declared)} foreign keys found "
            f"({both / len(declared):.0%}); of {len(found)} found {both / len(found):.0%} are declared"
        )
        for said, part in (("missed", declared - found), ("not declared", found - declared)) if show else ():
            for name, table, column, referred in sorted(part):
                print(f"  {said}: {name}: {table}.{column} -> {referred}")


if __name__ == "__main__":
    main()
