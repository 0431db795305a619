"""Whether a schema has what a question asks about, told by the question's words alone.

A question that a database cannot answer has words that neither names, comments nor values of the database have. Words
count less the more of Spider's training databases have questions with them and no such name ("how", "average",
"oldest"). Names of persons and places, numbers and what stands in quotes may be values that nobody sees: they say
nothing. Weights and limit are fitted to Spider's training questions on their own schemas
(`python -m benchmarks.decline --fit`).
"""

from __future__ import annotations

import re

from text2sql.ask.question import BETWEEN, NUMBERS, WISHES
from text2sql.files import read_beside
from text2sql.model.relevant_tables import VALUES, nearness, stems, words_of
from text2sql.model.value_linking import mentioned_values
from text2sql.schema import Schema, kind_of

#: what a word's stem counts; those that are not listed count 1
WEIGHTS: dict[str, float] = {stem: weight for weight, words in read_beside(__file__).items() for stem in words.split()}
#: a tenth of Spider's training questions has a larger share of unknown words
LIMIT = 0.458
#: what can be asked of a column of dates, whatever it is called
DATE_WORDS = "year quarter month week weekday weekend day hour date time"
_QUOTED = re.compile(r"""(?<!\w)(['"‘“])(.+?)['"’”](?!\w)""")
_WORD = re.compile(r"[^\W_]+")


def unknown_words(question: str, schema: Schema) -> tuple[float, list[str]]:
    """The share (0 to 1) of the question's words, by weight, that `schema` does not know, and those words.

    >>> from text2sql.schema import Column, Table
    >>> shop = Schema("shop", (Table("customers", "customers", (Column("city", "city", "text"),)),))
    >>> unknown_words("How many customers live in Berlin?", shop), unknown_words("What is dark matter?", shop)
    ((0.31, ['live']), (1.0, ['dark', 'matter']))
    """
    words = set(words_of(schema).rarity)
    if any(kind_of(column.type) == "moment" for table in schema.tables for column in table.columns):
        words.update(stem for word in DATE_WORDS.split() for stem in stems(word))
    named = {stem for match in mentioned_values(question, schema, VALUES) for stem in stems(match.value)}
    known, unknown, spoken = 0.0, 0.0, []
    for match in _WORD.finditer(_QUOTED.sub(" ", question)):
        word, parts = match.group(), stems(match.group())
        if not parts or word.lower() in WISHES | NUMBERS or any(character.isdigit() for character in word):
            continue
        weight = WEIGHTS.get(parts[0], 1.0)
        if named.intersection(parts) or any(nearness(part, words) for part in parts):
            known += weight
        elif word.lower() not in BETWEEN and (match.start() == 0 or not word[0].isupper()):
            unknown += weight
            spoken.append(word)
    share = unknown / (known + unknown) if known + unknown else 0.0
    return round(share, 3), list(dict.fromkeys(spoken))


def cannot_answer(question: str, schema: Schema) -> str | None:
    """What to say of a question that the database hardly can answer; None of any other."""
    share, words = unknown_words(question, schema)
    if share <= LIMIT:
        return None
    telling = [word for word in words if stems(word)[0] not in WEIGHTS] or words
    return f"this database may not have the answer: nothing in it is called {', '.join(telling[:6])}"
