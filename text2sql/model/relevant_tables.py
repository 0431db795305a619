"""The tables that a question is about, for schemas that do not fit a prompt.

A table's words are those of its name, its columns, its comments and its allowed values; rare words count more (BM25:
Robertson and Zaragoza, 2009, without its term for length). A value of the database that the question names counts for
its table. Tables that lie on the shortest path of foreign keys between two chosen ones come along, as a query must join
through them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from functools import lru_cache

from text2sql.model.value_linking import COMMON, mentioned_values
from text2sql.schema import Schema, Table

#: what a word counts where it stands (chosen on Spider's training questions: benchmarks/tables.py)
NAME, COLUMN, REMARK, VALUE, NEIGHBOUR = 3.0, 2.0, 0.5, 4.0, 0.3
#: values of the question that are looked for
VALUES = 6
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


def stems(text: str) -> list[str]:
    """The words of a sentence or a name, without the endings of plurals, of verbs, and common words.

    >>> stems("orderItems"), stems("Which stories were bought by the buyers?"), stems("HTTP_codes2")
    (['order', 'item'], ['story', 'bought', 'buyer'], ['http', 'code', '2'])
    """
    return [_stem(word) for word in (match.lower() for match in _WORD.findall(text)) if word not in COMMON]


def _stem(word: str) -> str:
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("s", ""), ("ing", ""), ("ed", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)] + replacement
    return word


def relevance(question: str, schema: Schema) -> dict[str, float]:
    """How much each table of `schema` has to do with `question`, 0 or more."""
    weights, rarity = _table_words(schema)
    asked = set(stems(question))
    scores = {name: sum(rarity[word] * words[word] for word in asked & words.keys()) for name, words in weights.items()}
    for match in mentioned_values(question, schema, VALUES):
        scores[match.table] += VALUE
    own = dict(scores)
    for name, others in _neighbours(schema).items():
        scores[name] += NEIGHBOUR * max((own[other] for other in others), default=0.0)
    return scores


def choose_tables(question: str, schema: Schema, sizes: Mapping[str, int], budget: int) -> Schema:
    """The most relevant tables of `schema` that fit a budget together with the tables that join them, in its order.

    Args:
        sizes: tokens of each table in a prompt.
        budget: tokens of all chosen tables. The most relevant table is chosen even where it alone takes more.
    """
    scores = relevance(question, schema)
    neighbours = _neighbours(schema)
    chosen: dict[str, None] = {}
    for name in sorted(scores, key=lambda name: -scores[name]):
        if name not in chosen:
            added = {**chosen, **dict.fromkeys([name, *_path(name, chosen, neighbours)])}
            if not chosen or sum(sizes[each] for each in added) <= budget:
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
def _table_words(schema: Schema) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """For each table its words with their weights, and for each word how rare it is among the tables."""
    weights = {table.name: dict(_weighted_words(table)) for table in schema.tables}
    count = Counter(word for words in weights.values() for word in words)
    total = len(schema.tables)
    return weights, {word: math.log(1 + (total - n + 0.5) / (n + 0.5)) for word, n in count.items()}


def _weighted_words(table: Table) -> Iterator[tuple[str, float]]:
    """Each word once or more, the heaviest weight last."""
    for column in table.columns:
        yield from ((word, REMARK) for word in stems(" ".join((column.comment, *column.choices))))
    yield from ((word, REMARK) for word in stems(table.comment))
    for column in table.columns:
        yield from ((word, COLUMN) for word in stems(column.name))
    yield from ((word, NAME) for word in stems(table.name))


@lru_cache(maxsize=16)
def _neighbours(schema: Schema) -> dict[str, set[str]]:
    """The tables that a foreign key connects with each table."""
    neighbours: dict[str, set[str]] = {table.name: set() for table in schema.tables}
    for table in schema.tables:
        for key in table.foreign_keys:
            if key.referred_table in neighbours and key.referred_table != table.name:
                neighbours[table.name].add(key.referred_table)
                neighbours[key.referred_table].add(table.name)
    return neighbours
