"""What a reader should doubt in a query: texts and numbers that nobody named, joins along no key.

These are told from the query, the question and the schema alone, without a server. A query may be right all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from text2sql.ask.question import NUMBERS
from text2sql.schema import Column, Schema, kind_of

#: whole numbers up to this one are mostly written as words, or not at all ("both", "a dozen", "more than one")
WORDS = 12
COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.ILike, exp.In, exp.Between)
#: a column of a table
Place = tuple[str, str]


def doubts(scopes: Iterable[Scope], question: str, schema: Schema) -> list[str]:
    """Sentences on literals and joins of a query, each once, in the order of the query.

    >>> from text2sql.ask.unknown import query_scopes
    >>> from text2sql.schema import Table
    >>> city = Column("city", "city", "text", samples=("Rome", "Oslo"))
    >>> shops = Schema("s", (Table("shops", "shops", (city,)),))
    >>> rome = query_scopes("select 1 from shops where city = 'Rome' or city = 'Paris'")
    >>> doubts(rome, "Which shops are in Italy?", shops)
    ["'Paris' is neither in the question nor a known value of city"]
    """
    sentences: dict[str, None] = {}
    for scope in scopes:
        sentences |= dict.fromkeys(_literals(scope, question, schema))
        sentences |= dict.fromkeys(_joins(scope, schema))
    return list(sentences)


def _literals(scope: Scope, question: str, schema: Schema) -> Iterator[str]:
    """A sentence for each literal that is compared with a column and comes from nowhere."""
    tables = {source.name for source in scope.sources.values() if isinstance(source, exp.Table)}
    for comparison in scope.find_all(*COMPARISONS):
        column = comparison.this.find(exp.Column)
        if column is None:
            continue
        named = [c for t in schema.tables if t.name in tables for c in t.columns if c.name == column.name]
        for literal in _compared(comparison):
            if named and not any(literal.name in (*known.samples, *known.choices) for known in named):
                is_pattern = isinstance(comparison, exp.Like | exp.ILike)
                is_asked_for = _is_asked_for(literal, named[0], question, is_pattern)
                if not is_asked_for and not _ends_a_year(comparison, literal, question):
                    yield f"{literal.sql('postgres')} is neither in the question nor a known value of {column.name}"


def _compared(comparison: exp.Expression) -> Iterator[exp.Literal]:
    """The literals on the right side, also where they are cast."""
    sides = [*comparison.args.get("expressions", ()), *map(comparison.args.get, ("expression", "low", "high"))]
    for side in sides:
        value = side.this if isinstance(side, exp.Cast | exp.Neg) else side
        if isinstance(value, exp.Literal):
            yield value


def _is_asked_for(literal: exp.Literal, column: Column, question: str, is_pattern: bool) -> bool:
    """Whether the question has the literal: all parts of a pattern, the number, the year of a day."""
    asked, text, numbers = question.casefold(), literal.name.casefold(), _numbers(question)
    if kind_of(column.type) == "moment":
        year = re.match(r"\d{4}", text)
        return year is None or float(year.group()) in numbers
    if not literal.is_string:
        number = float(text)
        in_words = NUMBERS & set(re.findall(r"[a-z]+", asked)) or re.search(r"\d\s?(k|m|bn)\b", asked)
        return number <= WORDS or bool(numbers & {number, 100 * number} or in_words)
    return all(part in asked for part in (re.split("[%_]", text) if is_pattern else [text]))


def _numbers(question: str) -> set[float]:
    """The numbers that a question has in digits."""
    return {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", question)}


def _ends_a_year(comparison: exp.Expression, literal: exp.Literal, question: str) -> bool:
    """Whether a day is the end of the question's year, or the one before it: `< '2025-01-01'` for "in 2024"."""
    day = re.match(r"(\d{4})-(01-01|12-31)", literal.name)
    if not day or not isinstance(comparison, exp.LT | exp.GTE if day[2] == "01-01" else exp.LTE):
        return False
    return int(day[1]) + (-1 if day[2] == "01-01" else 1) in _numbers(question)


def _joins(scope: Scope, schema: Schema) -> Iterator[str]:
    """A sentence for each table of FROM that no key leads to; none where the schema has no key at all."""
    refers = {
        (table.name, column): (key.referred_table, referred)
        for table in schema.tables
        for key in table.foreign_keys
        for column, referred in zip(key.columns, key.referred_columns, strict=True)
    }
    select = scope.expression
    if not refers or not isinstance(select, exp.Select):
        return
    tables = {alias: s.name for alias, s in scope.sources.items() if isinstance(s, exp.Table)}
    equal = [
        e for e in scope.find_all(exp.EQ) if isinstance(e.this, exp.Column) and isinstance(e.expression, exp.Column)
    ]
    compared = [
        [column.table for column in predicate.find_all(exp.Column)] for predicate in scope.find_all(exp.Predicate)
    ]
    for join in select.args.get("joins") or ():
        alias = join.this.alias_or_name
        if alias not in tables or join.args.get("using") or join.method == "NATURAL":
            continue
        along = [e for e in equal if (e.this.table == alias) != (e.expression.table == alias)]
        if not along and not any(_connects(places, alias) for places in compared):
            yield f"every row of {tables[alias]} is joined with every row of the others"
        elif along and all({e.this.table, e.expression.table} <= tables.keys() for e in along):
            ends = [[_origin((tables[s.table], s.name), refers) for s in (e.this, e.expression)] for e in along]
            if not any(first == second for first, second in ends):
                yield f"{tables[alias]} is joined along no key: {along[0].sql('postgres')}"


def _connects(places: list[str], alias: str) -> bool:
    """Whether a condition on columns of these tables may connect `alias` with another; "" is a column of any table."""
    return len(places) > 1 and ("" in places or (alias in places and len(set(places)) > 1))


def _origin(place: Place, refers: dict[Place, Place]) -> Place:
    """The column that a foreign key's column refers to in the end."""
    passed: set[Place] = set()
    while place in refers and place not in passed:
        passed.add(place)
        place = refers[place]
    return place
