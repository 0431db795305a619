"""Domain descriptions: one YAML file for each database. docs/MINI.md explains the keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from text2sql.data.mini.english import spoken

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ColumnSpec:
    """A column as described: `type` as declared in SQLite, `values` for the row maker, `ref` a foreign key.

    `words` is what people call it; `phrases` are ways to speak of its values (see `graph.Column`).
    """

    name: str
    type: str
    words: str
    phrases: Mapping[str, Any]
    values: Any = None
    ref: tuple[str, str] | None = None
    unique: bool = False
    missing: float = 0.0


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """A table as described. `data` holds hand-written rows; otherwise `rows` of them are made."""

    name: str
    noun: str
    nouns: str
    person: bool
    key: tuple[str, ...]
    columns: tuple[ColumnSpec, ...]
    amounts: Mapping[str, tuple[str, str]]
    rows: int
    data: tuple[tuple[Any, ...], ...]

    def column(self, name: str) -> ColumnSpec | None:
        """The column of that name, or None."""
        return next((c for c in self.columns if c.name == name), None)


@dataclasses.dataclass(frozen=True)
class Domain:
    """A database as described, and its hand-written (question, gold SQL) pairs if it is a demo domain."""

    db_id: str
    tables: tuple[TableSpec, ...]
    questions: tuple[tuple[str, str], ...]

    def table(self, name: str) -> TableSpec | None:
        """The table of that name, or None."""
        return next((t for t in self.tables if t.name == name), None)


@cache
def pools() -> dict[str, list[str]]:
    """Value pools that domains share by name: people, cities, countries and so on."""
    return yaml.safe_load((HERE / "pools.yaml").read_text(encoding="utf-8"))


def load_folder(folder: str) -> list[Domain]:
    """The domains of `text2sql/data/mini/<folder>`, sorted by file name."""
    return [load_domain(path) for path in sorted((HERE / folder).glob("*.yaml"))]


def load_domain(path: Path) -> Domain:
    """Read one description; tests/data/mini/test_domain.py checks those that there are."""
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Domain(
        path.stem,
        tuple(_table(name, table) for name, table in value["tables"].items()),
        tuple((q["question"], q["sql"]) for q in value.get("questions", [])),
    )


_COLUMN_KEYS = {"type", "values", "words", "ref", "unique", "missing"}


def _table(name: str, value: dict[str, Any]) -> TableSpec:
    noun, _, nouns = value["noun"].partition(" / ")
    columns = tuple(_column(c, spec) for c, spec in value["columns"].items())
    key = value.get("key", columns[0].name)
    return TableSpec(
        name=name,
        noun=noun,
        nouns=nouns or f"{noun}s",
        person=bool(value.get("person", False)),
        key=tuple(key) if isinstance(key, list) else (key,),
        columns=columns,
        amounts={words: tuple(pair.split(" * ")) for words, pair in value.get("amounts", {}).items()},
        rows=int(value.get("rows", 0)),
        data=tuple(tuple(row) for row in value.get("data", [])),
    )


def _column(name: str, value: dict[str, Any]) -> ColumnSpec:
    given = {key: value[key] for key in _COLUMN_KEYS if key in value} | {"words": value.get("words", spoken(name))}
    if "ref" in value:
        given["ref"] = tuple(value["ref"].split("."))
    return ColumnSpec(name, phrases={k: _blanks(v) for k, v in value.items() if k not in _COLUMN_KEYS}, **given)


def _blanks(phrase: Any) -> Any:
    """`_` stands for the value in the descriptions, as a brace opens a mapping in YAML; {} stands for it in code."""
    if isinstance(phrase, list):
        return [_blanks(p) for p in phrase]
    return phrase.replace("_", "{}") if isinstance(phrase, str) else phrase
