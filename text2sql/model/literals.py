"""Texts that a column is compared with: values that it has, or words of the question.

Half of what a model writes wrongly in values is their spelling ('Volvo' where the database has 'volvo'). Where all
values of a column are known, a text compared with it is one of them or words of the question, as they stand there or in
lower case; after LIKE it is a pattern of such words. A text that is a value but for its capital letters is refused: the
question's "Volvo" means the value 'volvo'. (Lower case stays: some gold queries of Spider have it for any value.)
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Set
from functools import lru_cache

from text2sql.schema import Schema, kind_of


class Literals:
    """What the texts of one question's query may be."""

    def __init__(self, schema: Schema, question: str, kept: int) -> None:
        """`kept`: values that `schema` has of a column at most; of a column with so many not all are known."""
        self.schema, self.kept = schema, kept
        self.question = " ".join(question.split())
        #: in lower case, of the same length but for a few letters of some languages
        self._lower = self.question.lower()
        self._starts = [match.start() for match in re.finditer(r"\w+|[^\w\s]", self.question)]
        self._ends = {match.end() for match in re.finditer(r"\w+|[^\w\s]", self.question)}

    def admits(self, table: str, column: str, lexeme: str, ended: bool, pattern: bool, taken: Set[str]) -> bool:
        """Whether a text compared with a column may be `lexeme`, or begin so if it has not `ended`.

        Args:
            lexeme: as in the query, with its first quote.
            pattern: it follows LIKE.
            taken: texts, as in the query, that the same comparison has had.
        """
        values = _values(self.schema, table, column, self.kept)
        if values is None:
            return True
        text = lexeme[1:].replace("''", "'")
        if ended or (text.endswith("'") and lexeme.count("'") % 2 == 0):
            whole = lexeme[1:-1].replace("''", "'")
            return lexeme not in taken and (self._pattern(values, whole) if pattern else self._is(values, whole))
        if pattern:
            return self._pattern(values, text)
        return self._begins(values, text, taken)

    def _is(self, values: Values, text: str) -> bool:
        if text in values.whole:
            return True
        return (text == text.lower() or text.casefold() not in values.folded) and self._quotes(text)

    def _begins(self, values: Values, text: str, taken: Set[str]) -> bool:
        first = bisect_left(values.ordered, text)
        for value in values.ordered[first:]:
            if not value.startswith(text):
                break
            if "'" + value.replace("'", "''") + "'" not in taken:
                return True
        return any(self._at(text, start) for start in self._starts)

    def _quotes(self, text: str) -> bool:
        """Whether the question has these words."""
        starts = (start for start in self._starts if self._at(text, start))
        return not text or any(start + len(text) in self._ends for start in starts)

    def _at(self, text: str, start: int) -> bool:
        return self.question.startswith(text, start) or self._lower.startswith(text, start)

    def _pattern(self, values: Values, text: str) -> bool:
        """Whether each part between % and _ stands in the question or in a value; LIKE may ignore case."""
        folded = self.question.casefold()
        parts = (part.casefold() for part in re.split(r"[%_]", text))
        return all(part in folded or any(part in value for value in values.folded) for part in parts)


class Values:
    """All values of a column, also in lower case, as a set and in order; and without case."""

    def __init__(self, values: tuple[str, ...]) -> None:
        self.whole = frozenset(values) | {value.lower() for value in values}
        self.ordered = sorted(self.whole)
        self.folded = frozenset(value.casefold() for value in values)


@lru_cache(maxsize=4096)
def _values(schema: Schema, table: str, column: str, kept: int) -> Values | None:
    """None where a column's values are not text, or not all known."""
    columns = (c for t in schema.tables if t.name == table for c in t.columns if c.name == column)
    known = next(columns, None)
    if known is None or kind_of(known.type) != "text" or not 0 < len(known.samples) < kept:
        return None
    return Values(known.samples)
