"""The tables that a question is about, for schemas that do not fit a prompt.

A table is more probable if the question has the words of its name and of its columns, where words that few tables have
count more; if the question names a value of it; and if it joins two tables of which this is so. A logistic regression
on the gold queries of Spider's training questions weighs them (`python -m benchmarks.tables --fit`). Tables on the
shortest path of foreign keys between two chosen ones come along, as a query must join through them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from text2sql.files import read_beside
from text2sql.model.value_linking import COMMON, mentioned_values
from text2sql.schema import Schema, Table

_FITTED = read_beside(__file__)
#: what speaks for a table, in the order of `evidence`, with its weight, and a constant (`benchmarks.tables --fit`)
WEIGHTS, CONSTANT = _FITTED["weights"], _FITTED["constant"]
#: a table that is less probable than this share of the most probable one is not shown; alike ones all are
LEAST = 0.05
#: values of the question that are looked for
VALUES = 12
#: what a word of a comment or an allowed value counts beside one of a column's name
REMARK = 0.5
#: what a word counts that is one of the question's but for its ending
NEAR = 0.7
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


def stems(text: str) -> tuple[str, ...]:
    """The words of a sentence or a name without endings, and without common words.

    >>> stems("orderItems"), stems("Which movies were directed?"), stems("a movie's director"), stems("HTTP_codes2")
    (('ord', 'item'), ('mov', 'direct'), ('mov', 'direct'), ('http', 'cod', '2'))
    """
    return tuple(_stem(word) for word in map(str.lower, _WORD.findall(text)) if word not in COMMON and word != "s")


@lru_cache(maxsize=10_000)
def _stem(word: str) -> str:
    """`word` without plural's s, a verb's or doer's ending, and the vowel before it: a few of Porter's rules (1980)."""
    if len(word) < 4:
        return word
    word = re.sub(r"(?<=ss|ch|sh|.x|.z)es$|(?<=i)es$|(?<![sui])s$", "", word)
    word = re.sub(r"(?<=...)(ing|ed|er|or|ment|ion)$", "", word)
    return re.sub(r"(?<=...)[yei]{1,2}$", "", re.sub(r"(?<=..)([^ls])\1$", r"\1", word))


class Naming(NamedTuple):
    """How much of a table the question names."""

    #: the share of its name's words, rare ones counting more (0 to 1)
    name: float
    #: for each column the share of its words times their rarity, the best first
    columns: list[float]
    #: columns that are named wholly and end in a word that no other table has
    unique: int
    #: whether a value of it is named
    value: bool

    @property
    def strength(self) -> float:
        """All of these in one number, for comparing tables."""
        return 2 * (self.name >= NEAR) + self.name + max(self.columns, default=0) / 2 + 2 * self.value


@dataclasses.dataclass(frozen=True)
class TableWords:
    """The words of a schema's tables."""

    #: of each table's name
    names: Mapping[str, Sequence[str]]
    #: of each table's columns, of their allowed values, and of the comments word by word, with what they count
    columns: Mapping[str, Sequence[tuple[Sequence[str], float]]]
    #: how rare a word is among the names, and among all words of the tables
    rarity_of_name: Mapping[str, float]
    rarity: Mapping[str, float]


def probabilities(question: str, schema: Schema) -> dict[str, float]:
    """For each table of `schema` how probably a query that answers `question` reads it."""
    return {
        name: 1 / (1 + math.exp(-CONSTANT - sum(map(math.prod, zip(values, WEIGHTS.values(), strict=True)))))
        for name, values in evidence(question, schema).items()
    }


def evidence(question: str, schema: Schema) -> dict[str, list[float]]:
    """What speaks for each table of `schema`, in the order of `WEIGHTS`."""
    matched, near = namings(question, schema), neighbours(schema)
    best = max((match.strength for match in matched.values()), default=0.0) or 1.0
    best_name = max((match.name for match in matched.values()), default=0.0) or 1.0
    listed = {}
    for table in schema.tables:
        match = matched[table.name]
        around = [matched[name].strength / best for name in near[table.name]]
        joins = sum(share > 0.5 for share in around) >= 2
        values = [match.strength / best, match.strength == best, match.name / best_name, sum(match.columns)]
        values += [match.unique, match.value, max(around, default=0.0), joins, joins and len(table.columns) <= 3]
        listed[table.name] = [float(value) for value in values]
    return listed


def namings(question: str, schema: Schema) -> dict[str, Naming]:
    """How much of each table `question` names."""
    words, asked = words_of(schema), set(stems(question))
    named = {word: nearness(word, asked) for word in words.rarity}
    with_value = {match.table for match in mentioned_values(question, schema, VALUES)}
    alone = max(words.rarity.values(), default=0.0)
    matched = {}
    for table in schema.tables:
        columns, unique = [], 0
        for parts, weight in words.columns[table.name]:
            share = _share(parts, words.rarity, named)
            columns.append(weight * share * share * sum(words.rarity[part] for part in parts))
            unique += weight == 1 and share >= NEAR and words.rarity[parts[-1]] == alone
        name = _share(words.names[table.name], words.rarity_of_name, named)
        matched[table.name] = Naming(name, sorted(columns, reverse=True), unique, table.name in with_value)
    return matched


def nearness(word: str, asked: set[str]) -> float:
    """1 for a word of the question, less for one that begins one or that one begins (`enroll`, `enrolled_in`)."""
    if word in asked:
        return 1.0
    begins = len(word) > 3 and any(len(w) > 3 and (w.startswith(word) or word.startswith(w)) for w in asked)
    return NEAR if begins else 0.0


def _share(parts: Sequence[str], rarity: Mapping[str, float], named: Mapping[str, float]) -> float:
    """The share of `parts` that are named, by their rarity."""
    total = sum(rarity[part] for part in parts)
    return sum(rarity[part] * named[part] for part in parts) / total if total else 0.0


@lru_cache(maxsize=16)
def words_of(schema: Schema) -> TableWords:
    """The words of all tables; a word is rare by how few tables have it."""
    names = {table.name: stems(table.name) for table in schema.tables}
    columns = {table.name: list(_column_words(table)) for table in schema.tables}
    count = Counter(w for name in names for w in {*names[name], *(p for parts, _ in columns[name] for p in parts)})
    count_of_name = Counter(word for parts in names.values() for word in set(parts))
    total = len(schema.tables)
    return TableWords(
        names,
        columns,
        {word: math.log(1 + total / n) for word, n in count_of_name.items()},
        {word: math.log(1 + (total + 1) / n) for word, n in count.items()},
    )


def _column_words(table: Table) -> Iterator[tuple[Sequence[str], float]]:
    yield from ((parts, 1.0) for column in table.columns if (parts := stems(column.name)))
    yield from ((parts, REMARK) for c in table.columns for choice in c.choices if (parts := stems(choice)))
    yield from (((word,), REMARK) for each in (table, *table.columns) for word in set(stems(each.comment)))


def choose_tables(
    question: str,
    schema: Schema,
    sizes: Mapping[str, int],
    budget: int,
    least: float = LEAST,
    most: int | None = None,
    needed: Iterable[str] = (),
) -> Schema:
    """The most probable tables of `schema` that fit a budget together with the tables that join them, in its order.

    Args:
        sizes: tokens of each table in a prompt.
        budget: tokens of all chosen tables. The most probable table is chosen even where it alone takes more.
        least: a table less probable than this share of the most probable one is chosen only to join others.
        most: so many tables at most; None: any number.
        needed: tables that are chosen before all others.
    """
    probable, near = probabilities(question, schema), neighbours(schema)
    enough = least * max(probable.values())
    chosen: dict[str, None] = dict.fromkeys(needed)
    for name in sorted(probable, key=lambda name: -probable[name]):
        if name not in chosen and probable[name] >= enough:
            added = {**chosen, **dict.fromkeys([name, *_path(name, chosen, near)])}
            small = most is None or len(added) <= most
            if not chosen or (small and sum(sizes[each] for each in added) <= budget):
                chosen = added
    return part_of(schema, chosen)


def part_of(schema: Schema, names: Mapping[str, None]) -> Schema:
    """The schema's tables of those names, with the keys among them."""
    tables = [
        dataclasses.replace(table, foreign_keys=tuple(k for k in table.foreign_keys if k.referred_table in names))
        for table in schema.tables
        if table.name in names
    ]
    return dataclasses.replace(schema, tables=tuple(tables))


def _path(start: str, ends: Mapping[str, None], neighbours: Mapping[str, set[str]]) -> list[str]:
    """The tables between `start` and the nearest of `ends`, along foreign keys; none where nothing joins them."""
    before: dict[str, str] = {}
    waiting, seen = deque([start]), {start}
    while waiting:
        name = waiting.popleft()
        if name in ends:
            between = []
            while (name := before[name]) != start:
                between.append(name)
            return between
        for other in sorted(neighbours[name] - seen):
            seen.add(other)
            before[other] = name
            waiting.append(other)
    return []


@lru_cache(maxsize=16)
def neighbours(schema: Schema) -> dict[str, set[str]]:
    """The tables that a foreign key connects with each table."""
    neighbours: dict[str, set[str]] = {table.name: set() for table in schema.tables}
    for table in schema.tables:
        for key in table.foreign_keys:
            if key.referred_table in neighbours and key.referred_table != table.name:
                neighbours[table.name].add(key.referred_table)
                neighbours[key.referred_table].add(table.name)
    return neighbours
