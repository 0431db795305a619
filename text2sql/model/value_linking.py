"""Values of the database that a question names: "flights from Aberdeen" holds airports.city = 'Aberdeen'.

Which column holds a word, and how the database spells it, is what a model can know least from names and types alone.
(Lin, Socher and Xiong, 2020, "Bridging Textual and Tabular Data", show the same beside the columns; here it follows the
question, so that all questions on a database still begin with the same tokens.)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from text2sql.files import read_beside
from text2sql.schema import Schema, kind_of

#: words of the longest value that is looked for
WORDS = 8
_WORDS = read_beside(__file__)
#: words that hold sentences together
COMMON = frozenset(_WORDS["common"].split())
#: a value with more characters is a text, not a name
LENGTH = 40


class Match(NamedTuple):
    """`value` of a column, spelled as in the database."""

    table: str
    column: str
    value: str


def mentioned_values(question: str, schema: Schema, limit: int) -> list[Match]:
    """At most `limit` of the values kept with `schema` (`Column.samples`) that `question` names.

    Words are compared without case, punctuation and a plural's s. Where one value contains another, the longer one
    counts. Longer ones come first, then those that are spelled as in the question, then in the schema's order. Spaces
    around a value are not shown.

    >>> from text2sql.schema import Column, Table
    >>> airports = Table("airports", "airports", (Column("city", "city", "text", samples=("Aberdeen", "New York")),))
    >>> mentioned_values("How many flights leave new york?", Schema("flights", (airports,)), 3)
    [Match(table='airports', column='city', value='New York')]
    """
    known = values_by_words(schema) if limit else {}
    words = [(word.group(), word.start(), word.end()) for word in re.finditer(r"\w+", question)]
    taken = [False] * len(words)
    mentioned: list[Match] = []
    for size in range(min(WORDS, len(words)), 0, -1):
        for first in range(len(words) - size + 1):
            if any(taken[first : first + size]):
                continue
            start, end = words[first][1], words[first + size - 1][2]
            text = " ".join(word.casefold() for word, _, _ in words[first : first + size])
            matches = [
                match
                for spelled in _singular(text)
                for match in known.get(spelled, ())
                if _meant(match.value, question, start, end)
            ]
            if matches:
                taken[first : first + size] = [True] * size
                mentioned += sorted(dict.fromkeys(matches), key=lambda match: match.value not in question)
    return mentioned[:limit]


@lru_cache(maxsize=256)
def values_by_words(schema: Schema) -> dict[str, list[Match]]:
    """The values of a schema's text columns by their words."""
    values: dict[str, list[Match]] = defaultdict(list)
    for table in schema.tables:
        for column in table.columns:
            if kind_of(column.type) == "text":
                for value in (" ".join(sample.split()) for sample in column.samples):
                    if len(value) <= LENGTH and (words := " ".join(re.findall(r"\w+", value.casefold()))):
                        values[words].append(Match(table.name, column.name, value))
    return values


def _singular(text: str) -> Iterator[str]:
    yield text
    if text.endswith("s"):
        yield text[:-1]


def _meant(value: str, question: str, start: int, end: int) -> bool:
    """Common words, single letters and small numbers count in quotes only, two letters also as they are spelled."""
    word = question[start:end]
    common = len(word) <= 2 or word.casefold() in COMMON
    if not common:
        return True
    quoted = question[start - 1 : start] in tuple("'\"‘“`") and question[end : end + 1] in tuple("'\"’”`")
    return quoted or (len(word) == 2 and word.isupper() and value == word)
