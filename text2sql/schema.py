"""A database's schema as PostgreSQL has it: what the prompt shows and what dialect conversion needs.

`data/postgres/schema_index.json` holds one for each database; prompt, conversion, scoring and the demo read it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.files import read_beside, read_json, write_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_NAMES = read_beside(__file__)
KEYWORDS = frozenset(_NAMES["keywords"].split())
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")


def needs_quotes(name: str) -> bool:
    """Whether a name is not plain lower case, or a keyword: by PostgreSQL's quote_ident, it must then be quoted.

    >>> [needs_quotes(n) for n in ("singer", "order", "time", "Total", "total points", "2nd", "né", "a$b", "")]
    [False, True, True, True, True, True, True, True, True]
    """
    return not _PLAIN.match(name) or name in KEYWORDS


def quote(name: str) -> str:
    """`name` as it is written in SQL, exactly as PostgreSQL's quote_ident writes it.

    >>> quote("singer"), quote("order"), quote('a"b')
    ('singer', '"order"', '"a""b"')
    """
    return '"' + name.replace('"', '""') + '"' if needs_quotes(name) else name


#: values of one kind can be compared with each other; "other" has all the types beside
KINDS = ("number", "text", "moment", "other")


def kind_of(type_: str) -> str:
    """The kind of values of a PostgreSQL type, one of `KINDS`.

    >>> kind_of("numeric(8,2)"), kind_of("character varying(3)"), kind_of("timestamp with time zone"), kind_of("text[]")
    ('number', 'text', 'moment', 'other')
    """
    plain = re.sub(r"\s*\(.*?\)|\s+with(out)? time zone", "", type_)
    return next((kind for kind, types in _NAMES["types"].items() if re.fullmatch(types, plain)), "other")


#: values kept of a column that is not text, at most: those are shown, never looked for
OTHER_SAMPLES = 20


@dataclasses.dataclass(frozen=True)
class Column:
    """A column. `source` is its name in SQLite; `name` and `type` are PostgreSQL's."""

    name: str
    source: str
    type: str
    not_null: bool = False
    unique: bool = False
    #: distinct values as text, in the order of first appearance, for prompts that show values or those of the question
    samples: tuple[str, ...] = ()
    #: what the schema's author wrote about it (COMMENT ON), and the only values that its enum or CHECK allows
    comment: str = ""
    choices: tuple[str, ...] = ()
    # What conversion has to know of the SQLite side; see text2sql/conversion/databases/infer.py.
    #: SQLite's column affinity by the declared type: integer, real, numeric, text or blob
    affinity: str = "blob"
    #: the storage classes of the values: integer, real, text, blob; none where there is no value
    storage: tuple[str, ...] = ()
    #: how all its texts are written: integer, number, date, timestamp, time, blank, "integer or text", text
    form: str = "text"
    #: a pattern that finds the number which SQLite's arithmetic reads at the start of its texts; "" if none was tried
    prefix: str = ""
    #: whether a NULL, an empty text, a zero occurs (assumed where there are no rows)
    has_nulls: bool = True
    has_blanks: bool = True
    has_zeros: bool = True
    #: SQLite's declared collation if it is not BINARY
    collation: str = ""

    @property
    def blanks_are_null(self) -> bool:
        """Whether SQLite's empty texts in it are NULL in PostgreSQL: all its other values are numbers, dates or such,
        and so is its type."""
        return self.has_blanks and bool(self.storage) and self.type != "text"


@dataclasses.dataclass(frozen=True)
class ForeignKey:
    """`columns` of this table refer to `referred_columns` of `referred_table`, all by their PostgreSQL names."""

    columns: tuple[str, ...]
    referred_table: str
    referred_columns: tuple[str, ...]
    #: False if the rows violate it: it is then shown in prompts but not enforced in the dump
    enforced: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its columns and keys in their declared order. `rows` counts its rows."""

    name: str
    source: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    rows: int = 0
    #: unique keys of several columns; of one column: Column.unique
    unique: tuple[tuple[str, ...], ...] = ()
    #: table, view or virtual, as it was in SQLite
    kind: str = "table"
    #: what the schema's author wrote about it (COMMENT ON)
    comment: str = ""


@dataclasses.dataclass(frozen=True)
class Schema:
    """All tables of one database; `notes` says what was not carried over as declared, and why."""

    db_id: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    def table(self, name: str) -> Table | None:
        """The table of that PostgreSQL name, or None."""
        return next((t for t in self.tables if t.name == name), None)


@functools.cache
def _adapter(cls: type) -> TypeAdapter:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def from_dict(value: dict[str, Any]) -> Schema:
    """The inverse of `dataclasses.asdict`."""
    return _adapter(Schema).validate_python(value)


def write_index(path: Path, schemas: dict[str, Schema]) -> None:
    """Write schemas by `db_id`, sorted; comments and choices where there are any."""

    def without_empty(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in items if value or key not in ("comment", "choices")}

    indexed = {db_id: dataclasses.asdict(schemas[db_id], dict_factory=without_empty) for db_id in sorted(schemas)}
    write_json(path, indexed)


def read_index(path: Path) -> dict[str, Schema]:
    """Read what `write_index` wrote."""
    return _adapter(dict[str, Schema]).validate_python(read_json(path))
