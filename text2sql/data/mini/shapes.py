"""The registry of SQL shapes: each draws what it needs from a graph and returns the query and the words for it.

shapes.yaml holds hardness, weight and phrasings of each. One meaning has one SQL: "at least one" is always IN, a
superlative is always ORDER BY .. LIMIT, a category in words is always equality, so that a small model is never taught
two answers to one question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml

from text2sql.data.mini.graph import Column, Link, Table, plural
from text2sql.data.mini.pick import SIMPLE, Condition, Picker, Unsuitable, article, measure, verb_of, whole
from text2sql.data.mini.sql import Compound, Query, Scope, Select, join, literal, quoted

Hardness = Literal["easy", "medium", "hard", "extra"]
Made = tuple[Query, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape: `make` builds it, `phrasings` say it, `weight` is how often it is asked against the others."""

    name: str
    hardness: Hardness
    phrasings: tuple[str, ...]
    make: Callable[[Picker], Made]
    weight: float


SHAPES: dict[str, Shape] = {}
_FILE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def register(name: str, make: Callable[[Picker], Made]) -> None:
    """Add a shape, described in shapes.yaml under that name."""
    about = _FILE["shapes"][name]
    phrasings = tuple(_spell_out(text) for text in about["phrasings"])
    SHAPES[name] = Shape(name, about["hardness"], phrasings, make, about.get("weight", 1.0))


def shape(make: Callable[[Picker], Made]) -> Callable[[Picker], Made]:
    """Register a function as the shape of its name."""
    register(make.__name__, make)
    return make


def variants(make: Callable[..., Made], **arguments: tuple[Any, ...]) -> None:
    """Register shapes that are one function with other arguments behind the picker."""
    for name, values in arguments.items():
        register(name, lambda p, values=values: make(p, *values))


def _spell_out(text: str) -> str:
    for name, macro in _FILE["macros"].items():
        text = text.replace("{" + name + "}", macro)
    return text


# -- words and parts that shapes share ---------------------------------------------------------------------------------


def things(p: Picker, t: Table, *conditions: Condition, **more: Any) -> dict[str, Any]:
    """The words that every phrasing about a table may use; `which` is None where no verb can follow 'Which things'."""
    words = {"thing": t.noun, "things": t.nouns, "who": t.who, "its": "their" if t.who == "who" else "its"}
    words |= {"labels": p.label_words(t), "label": p.label_words(t, many=False)}
    words["where"] = " and ".join(c.text for c in conditions)
    words["which"] = conditions[0].verb if len(conditions) == 1 else None
    if len(conditions) == 1 and (adjective := conditions[0].adjective) and p.chance(0.6):
        words |= {"thing": f"{adjective} {t.noun}", "things": f"{adjective} {t.nouns}", "where": "", "which": None}
    return {**words, **more}


def kids_where(p: Picker, child: Table, condition: Condition) -> dict[str, str]:
    """The words for children under a condition: 'books longer than 300 pages', 'cancelled bookings'."""
    if condition.adjective and p.chance(0.6):
        adjective = condition.adjective
        kid = f"{adjective} {child.noun}"
        return {"kid": kid, "kids": f"{adjective} {child.nouns}", "a_kid": article(kid), "kid_where": ""}
    return {"kid_where": condition.text}


def family(p: Picker, link: Link, child: Table, parent: Table, *conditions: Condition, **more: Any) -> dict[str, Any]:
    """The words for a parent and its children."""
    words = {"kid": child.noun, "kids": child.nouns, "kid_its": "their" if child.who == "who" else "its"}
    words |= {"by": link.by.partition(" the ")[0], "have": link.have, "has": third_person(link.have), "role": link.role}
    words |= {"by_name": by_name(p, link, parent, more["name"]) if "name" in more else None}
    words |= {"roles": plural(link.role), "did": link.did, "never": link.never}
    return {**things(p, parent, *conditions), **words, **more}


def by_name(p: Picker, link: Link, parent: Table, name: str) -> str:
    """'written by Ann Lee', 'written by the author Ann Lee'."""
    by, _, noun = link.by.partition(" the ")
    if parent.who == "that" and p.chance(0.25):
        return f"{by} the {name} {noun or parent.noun}"
    return f"{by} the {noun or parent.noun} {name}" if p.chance(0.75 if noun else 0.4) else f"{by} {name}"


def third_person(have: str) -> str:
    """'have written' to 'has written', 'own' to 'owns'."""
    first, _, rest = have.partition(" ")
    regular = first + ("es" if first.endswith(("ch", "sh", "ss", "o", "x")) else "s")
    if first.endswith("y") and first[-2] not in "aeiou":
        regular = first[:-1] + "ies"
    return f"{ ({'have': 'has', 'are': 'is', 'were': 'was'}.get(first, regular)) } {rest}".strip()


def names(t: Table, scope: Scope, columns: list[Column] | None = None) -> tuple[str, ...]:
    """Some columns, by default those that name a row."""
    return tuple(scope.col(t, c) for c in (t.label if columns is None else columns))


def key(t: Table, scope: Scope) -> str:
    """The primary key for GROUP BY: namesakes stay apart."""
    if len(t.key) != 1:
        raise Unsuitable
    return scope.col(t, t.key[0])


def named(p: Picker, t: Table, scope: Scope) -> tuple[str, str]:
    """A row by its name: the word for it, and the SQL condition."""
    column, value = p.name_of(t)
    return p.value(column, value), f"{scope.col(t, column)} = {literal(value)}"


def spell(p: Picker, n: int) -> str:
    """A small number in words or digits."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return words[n] if n <= 10 and p.chance(0.4) else str(n)


def at_least(p: Picker, noun: str, nouns: str) -> tuple[str, str]:
    """A bound on COUNT(*) and its words: ('> 2', 'more than two books')."""
    n = p.any([1, 2, 2, 3, 3, 4, 5])
    if p.chance(0.6):
        return f"> {n}", f"more than {spell(p, n)} {noun if n == 1 else nouns}"
    if p.chance(0.2):
        return f"< {n + 1}", f"fewer than {spell(p, n + 1)} {nouns}"
    return f">= {n + 1}", p.any([f"at least {spell(p, n + 1)} {nouns}", f"{spell(p, n + 1)} or more {nouns}"])


_AGGREGATE_WORDS = {
    "AVG": "[average|average|mean]",
    "SUM": "total",
    "MIN": "[lowest|minimum|smallest]",
    "MAX": "[highest|maximum|largest]",
}


def aggregate(p: Picker, t: Table, *functions: str) -> tuple[str, Column, str]:
    """A function, a column that it suits and the words: ('AVG', price, 'average price')."""
    function = p.any(functions or ("AVG", "AVG", "SUM", "SUM", "MIN", "MAX"))
    # without NULLs, of which engines disagree where they sort
    column = p.any([c for c in t.of("number") if not c.nulls and (c.additive or function != "SUM")])
    said = measure(column)
    if function == "SUM" and said.startswith("number of ") and p.chance(0.5):
        said = column.words
    return function, column, f"{p.say(_AGGREGATE_WORDS[function])} {said}"


def ordering(p: Picker, t: Table) -> tuple[Column, bool]:
    """A column to sort by, and whether descending."""
    numbers = t.of("number", "year")  # without NULLs, of which engines disagree whether they come first
    return p.any([c for c in (*numbers, *numbers, *t.of("date")) if not c.nulls]), p.chance(0.6)


def order_words(p: Picker, c: Column, descending: bool) -> str:
    """'sorted by price from highest to lowest'."""
    if c.role in ("date", "year"):
        way = "[from newest to oldest|from latest to earliest|in descending order|latest first]"
        back = "[from oldest to newest|from earliest to latest|in ascending order|earliest first]"
    else:
        way = "[from highest to lowest|in descending order|from largest to smallest|descending|highest first]"
        back = "[from lowest to highest|in ascending order|from smallest to largest|lowest first|]"
    way = way if descending else back
    return p.say(f"[sorted|ordered|ranked|sorted] by [|their ]{measure(c)} {way}").strip()


def best(p: Picker, t: Table, c: Column, descending: bool) -> dict[str, str]:
    """The words for the top rows by a column: 'oldest member', 'is the oldest', or 'has the highest age'."""
    adjective, measured = p.superlative(c, descending)
    if adjective:
        verbs = {"is_best": f"is the {adjective}", "are_best": f"are the {adjective}"}
        return {"best": f"{adjective} {t.noun}", "bests": f"{adjective} {t.nouns}", **verbs}
    words = {"best": f"{t.noun} with the {measured}", "bests": f"{t.nouns} with the {measured}"}
    return {**words, "is_best": f"has the {measured}", "are_best": f"have the {measured}"}


def grouping(p: Picker, c: Column) -> dict[str, str]:
    """The words for a category: 'each genre', 'in each region'."""
    place = c.words.split()[-1] in _PLACES
    return {"col": c.words, "cols": plural(c.words), "each": p.say("in each" if place else "[for each|of each|per]")}


_PLACES = {"city", "town", "country", "region", "area", "district", "state", "zone", "sector", "industry", "department"}
_PLACES |= {
    "section",
    "category",
    "genre",
    "class",
    "group",
    "division",
    "branch",
    "field",
    "league",
    "season",
    "county",
}


def middle(p: Picker, column: Column, function: str, rows: int = 4) -> int | float:
    """A round bound for an aggregate over some rows of a column."""
    mean = sum(column.values) / len(column.values) * (0.85 + 0.3 * p.rng.random()) * (rows if function == "SUM" else 1)
    if abs(mean) < 10:
        return whole(round(mean, 1)) if function == "AVG" else max(1, round(mean))
    return round(mean, 1 - len(str(int(abs(mean))))).__trunc__()


# -- one table: projection ---------------------------------------------------------------------------------------------


@shape
def list_column(p: Picker) -> Made:
    t = p.table()
    cols = p.shown(t, 1)
    if cols[0].role == "category":
        raise Unsuitable
    return Select(names(t, Scope((t,)), cols), quoted(t.name)), things(p, t, cols=p.column_words(cols))


@shape
def list_columns(p: Picker) -> Made:
    t = p.table()
    cols = p.shown(t, p.any([2, 2, 3]))
    words = things(p, t, cols=p.column_words(cols), col=p.column_words(cols, many=False))
    return Select(names(t, Scope((t,)), cols), quoted(t.name)), words


@shape
def distinct_column(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    return Select((quoted(c.name),), quoted(t.name), distinct=True), things(p, t, col=c.words, cols=plural(c.words))


@shape
def count_rows(p: Picker) -> Made:
    t = p.table()
    return Select(("COUNT(*)",), quoted(t.name)), things(p, t)


@shape
def count_distinct(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    return Select((f"COUNT(DISTINCT {quoted(c.name)})",), quoted(t.name)), things(p, t, cols=plural(c.words))


# -- one table: conditions ---------------------------------------------------------------------------------------------


def filtered(p: Picker, *kinds: str) -> Made:
    """One column under one condition."""
    t = p.table()
    condition = p.condition(t, kinds)
    by_name = t.named and p.chance(0.7)
    cols = list(t.label) if by_name else p.shown(t, 1, besides=[condition.column])
    scope = Scope((t,))
    words = things(p, t, condition, cols=p.column_words(cols))
    if cols != list(t.label):
        words["which"] = None  # "Which huts ..." asks for their names
    return Select(names(t, scope, cols), scope.text, (condition.within(scope),)), words


variants(
    filtered,
    filter_equal=("equal", "equal", "equal", "equal_number"),
    filter_not_equal=("not_equal",),
    filter_compare=("greater", "greater", "less", "less", "at_least", "at_most"),
    filter_between=("between",),
    filter_like=("like",),
    filter_in=("either",),
    filter_null=("null", "null", "not_null"),
    filter_flag=("flag",),
    filter_date=("after", "before", "in_year", "in_month"),
)


@shape
def filter_columns(p: Picker) -> Made:
    t = p.table()
    condition = p.condition(t, SIMPLE)
    cols = p.shown(t, p.any([2, 2, 3]), besides=[condition.column])
    scope = Scope((t,))
    query = Select(names(t, scope, cols), scope.text, (condition.within(scope),))
    words = things(p, t, condition, cols=p.column_words(cols))
    return query, words if t.label[0] in cols else {**words, "which": None}


def two_conditions(p: Picker) -> tuple[Table, Condition, Condition, Scope]:
    """Two conditions on different columns of a table; the second goes well behind 'and'."""
    t = p.table()
    first = p.condition(t, SIMPLE)
    return t, first, p.condition(t, SIMPLE, besides=[first.column]), Scope((t,))


@shape
def filter_and(p: Picker) -> Made:
    t, first, second, scope = two_conditions(p)
    cols = p.shown(t, 1, besides=[first.column, second.column]) if p.chance(0.3) else list(t.label)
    query = Select(names(t, scope, cols), scope.text, (first.within(scope), second.within(scope)))
    return query, things(p, t, first, second, cols=p.column_words(cols), plain=first.text, second=second.text)


@shape
def filter_or(p: Picker) -> Made:
    t, first, second, scope = two_conditions(p)
    query = Select(names(t, scope), scope.text, (f"{first.within(scope)} OR {second.within(scope)}",))
    return query, things(p, t, first=first.text, second=second.text)


@shape
def count_where(p: Picker) -> Made:
    t = p.table()
    condition = p.condition(t, (*SIMPLE, "not_equal", "between"))
    scope = Scope((t,))
    return Select(("COUNT(*)",), scope.text, (condition.within(scope),)), things(p, t, condition)


@shape
def count_where_and(p: Picker) -> Made:
    t, first, second, scope = two_conditions(p)
    query = Select(("COUNT(*)",), scope.text, (first.within(scope), second.within(scope)))
    return query, things(p, t, first, second)


@shape
def attribute_of_named(p: Picker) -> Made:
    t = p.table(named=True)
    scope = Scope((t,))
    name, condition = named(p, t, scope)
    c = p.any(t.of("category", "number", "year", "date", "text"))
    return Select((scope.col(t, c),), scope.text, (condition,)), things(p, t, col=measure(c), name=name)


# -- one table: aggregates ---------------------------------------------------------------------------------------------


@shape
def aggregate_column(p: Picker) -> Made:
    t = p.table()
    function, c, words = aggregate(p, t)
    return Select((f"{function}({quoted(c.name)})",), quoted(t.name)), things(p, t, agg=words)


@shape
def aggregate_where(p: Picker) -> Made:
    t = p.table()
    function, c, words = aggregate(p, t)
    condition = p.condition(t, SIMPLE, besides=[c])
    scope = Scope((t,))
    query = Select((f"{function}({scope.col(t, c)})",), scope.text, (condition.within(scope),))
    return query, things(p, t, condition, agg=words)


@shape
def aggregate_several(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    functions = p.any([("MIN", "MAX"), ("MAX", "MIN"), ("AVG", "MAX"), ("MIN", "AVG", "MAX"), ("AVG", "MIN")])
    words = [p.say(_AGGREGATE_WORDS[f]) for f in functions]
    text = f"{', '.join(words[:-1])} and {words[-1]} {measure(c)}"
    columns = tuple(f"{f}({quoted(c.name)})" for f in functions)
    return Select(columns, quoted(t.name)), things(p, t, aggs=text)


@shape
def value_range(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    column = quoted(c.name)
    return Select((f"MAX({column}) - MIN({column})",), quoted(t.name)), things(p, t, col=measure(c))


@shape
def amount_total(p: Picker) -> Made:
    t = p.table(lambda t: t.amounts)
    words, x, y = p.any(t.amounts)
    query = Select((f"SUM({quoted(x.name)} * {quoted(y.name)})",), quoted(t.name))
    return query, things(p, t, amount=words, first=x.words, second=y.words)


# -- one table: order and limit ----------------------------------------------------------------------------------------


@shape
def order_column(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    query = Select(names(t, Scope((t,))), quoted(t.name), order=quoted(c.name), descending=descending)
    return query, things(p, t, sorted=order_words(p, c, descending))


@shape
def order_where(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    condition = p.condition(t, SIMPLE, besides=[c])
    scope = Scope((t,))
    where = (condition.within(scope),)
    query = Select(names(t, scope), scope.text, where, order=scope.col(t, c), descending=descending)
    return query, things(p, t, condition, sorted=order_words(p, c, descending))


def top(p: Picker, t: Table, limit: int, cols: list[Column] | None = None, *conditions: Condition) -> Made:
    """The first rows by a column."""
    c, descending = ordering(p, t)
    scope = Scope((t,))
    where = tuple(condition.within(scope) for condition in conditions)
    if c in (cols or []) or any(c == condition.column for condition in conditions):
        raise Unsuitable
    query = Select(names(t, scope, cols), scope.text, where, order=quoted(c.name), descending=descending, limit=limit)
    return query, things(p, t, *conditions, **best(p, t, c, descending), n=spell(p, limit))


@shape
def top_one(p: Picker) -> Made:
    return top(p, p.table(), 1)


@shape
def top_one_columns(p: Picker) -> Made:
    t = p.table()
    others = t.of("number", "category", "year", "date", "text")
    cols = [*t.label, p.any(others)] if t.named and p.chance(0.5) else [p.any(others)]
    query, words = top(p, t, 1, cols)
    words |= {"shown": ""} if t.label[0] in cols else {}  # "Which hut is the lowest?" asks for its name as well
    return query, {**words, "col": p.column_words(cols, many=False)}


@shape
def top_n(p: Picker) -> Made:
    return top(p, p.table(), p.any([2, 3, 3, 4, 5, 5]))


@shape
def top_n_columns(p: Picker) -> Made:
    t = p.table(named=True)
    c = p.any(t.of("number", "category", "year"))
    query, words = top(p, t, p.any([2, 3, 3, 4, 5, 5]), [*t.label, c])
    return query, {**words, "cols": p.column_words([*t.label, c])}


@shape
def top_where(p: Picker) -> Made:
    t = p.table()
    return top(p, t, 1, None, p.condition(t, SIMPLE))


# -- one table: groups -------------------------------------------------------------------------------------------------


@shape
def group_count(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    query = Select((quoted(c.name), "COUNT(*)"), quoted(t.name), group=quoted(c.name))
    return query, things(p, t, **grouping(p, c))


@shape
def group_count_where(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    condition = p.condition(t, SIMPLE, besides=[c])
    scope = Scope((t,))
    query = Select((quoted(c.name), "COUNT(*)"), scope.text, (condition.within(scope),), group=quoted(c.name))
    return query, things(p, t, condition, **grouping(p, c))


@shape
def group_aggregate(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t)
    query = Select((quoted(c.name), f"{function}({quoted(x.name)})"), quoted(t.name), group=quoted(c.name))
    return query, things(p, t, agg=words, **grouping(p, c))


@shape
def group_aggregate_where(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t)
    condition = p.condition(t, SIMPLE, besides=[c, x])
    scope = Scope((t,))
    columns = (quoted(c.name), f"{function}({quoted(x.name)})")
    query = Select(columns, scope.text, (condition.within(scope),), group=quoted(c.name))
    return query, things(p, t, condition, agg=words, **grouping(p, c))


@shape
def group_having_count(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    bound, over = at_least(p, t.noun, t.nouns)
    query = Select((quoted(c.name),), quoted(t.name), group=quoted(c.name), having=f"COUNT(*) {bound}")
    return query, things(p, t, over=over, **grouping(p, c))


@shape
def group_having_aggregate(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t, "AVG", "AVG", "SUM")
    bound = middle(p, x, function)
    having = f"{function}({quoted(x.name)}) > {bound}"
    query = Select((quoted(c.name),), quoted(t.name), group=quoted(c.name), having=having)
    return query, things(p, t, agg=words, an_agg=article(words), bound=bound, **grouping(p, c))


@shape
def most_common(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    down = p.chance(0.8)
    query = Select((quoted(c.name),), quoted(t.name), group=quoted(c.name), order="COUNT(*)", descending=down, limit=1)
    most = {"common": "common" if down else None, "most": "[most|largest number of|highest number of]"}
    most["most"] = p.say(most["most"] if down else "[fewest|smallest number of|lowest number of]")
    return query, things(p, t, **grouping(p, c), **most)


@shape
def top_group_aggregate(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t, "AVG", "SUM")
    order = f"{function}({quoted(x.name)})"
    query = Select((quoted(c.name),), quoted(t.name), group=quoted(c.name), order=order, descending=True, limit=1)
    return query, things(p, t, agg=words, **grouping(p, c))


@shape
def group_count_ordered(p: Picker) -> Made:
    t = p.table()
    c = quoted((column := p.any(t.of("category"))).name)
    query = Select((c, "COUNT(*)"), quoted(t.name), group=c, order="COUNT(*)", descending=True)
    return query, things(p, t, **grouping(p, column))


# -- one table: nesting and set operations -----------------------------------------------------------------------------


def comparison(c: Column, up: bool, to: str) -> str | None:
    """The column's own phrase with something else than a number in it: 'that cost more than the average'."""
    own = c.phrases.get("more" if up else "less")
    own = next((o for o in (own if isinstance(own, list) else [own]) if o and o.endswith("{}")), None)
    return own and own.replace("{}", to)


@shape
def versus_average(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    up = p.chance(0.65)
    col = quoted(c.name)
    condition = f"{col} {'>' if up else '<'} (SELECT AVG({col}) FROM {quoted(t.name)})"
    query = Select(names(t, Scope((t,))), quoted(t.name), (condition,))
    than = p.say("[above|higher than|greater than|more than]" if up else "[below|lower than|less than]")
    level = "higher than average" if up else "lower than average"
    own = comparison(c, up, p.say(f"[the average|the average {measure(c)}|the average {t.noun}]"))
    return query, things(p, t, col=measure(c), than=than, level=level, own=own, own_which=own and verb_of(own))


@shape
def versus_named(p: Picker) -> Made:
    t = p.table(named=True)
    scope = Scope((t,))
    name, condition = named(p, t, scope)
    c = p.any(t.of("number"))
    up = p.chance(0.7)
    inner = Select((quoted(c.name),), scope.text, (condition,))
    query = Select(names(t, scope), scope.text, (f"{quoted(c.name)} {'>' if up else '<'} ({inner})",))
    higher = p.say("[higher|greater|larger]" if up else "[lower|smaller]")
    own = comparison(c, up, name)
    return query, things(p, t, col=measure(c), name=name, higher=higher, own=own, own_which=own and verb_of(own))


@shape
def count_above_average(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    condition = f"{quoted(c.name)} > (SELECT AVG({quoted(c.name)}) FROM {quoted(t.name)})"
    query = Select(("COUNT(*)",), quoted(t.name), (condition,))
    own = comparison(c, True, "the average")
    return query, things(p, t, col=measure(c), an_col=article(measure(c)), own_which=own and verb_of(own))


def two_sided(p: Picker, operator: str) -> Made:
    """A category under two conditions on another column of its table, combined by a set operator."""
    t = p.table()
    c = p.any(t.of("category"))
    kinds = p.any([("equal", "equal"), ("greater", "less"), ("less", "greater")])
    first = p.condition(t, kinds[:1], besides=[c])
    second = p.condition(t, kinds[1:], besides=[k for k in t.columns if k != first.column])
    if first.sql == second.sql:
        raise Unsuitable
    scope = Scope((t,))
    sides = [Select((quoted(c.name),), scope.text, (side.within(scope),)) for side in (first, second)]
    return Compound(operator, *sides), things(p, t, first=first.text, second=second.text, **grouping(p, c))


variants(
    two_sided,
    intersect_groups=("INTERSECT",),
    except_groups=("EXCEPT",),
)


@shape
def union_tables(p: Picker) -> Made:
    t, u = p.table(), p.table()
    people = t.who == u.who == "who" and len(t.label) == len(u.label) == 1
    roles = ("category", "label") if people else ("category",)
    pairs = [(c, d) for c in t.of(*roles) for d in u.of(*roles) if _alike(c, d)]
    if t == u:
        raise Unsuitable
    c, d = p.any(pairs)
    query = Compound("UNION", Select((quoted(c.name),), quoted(t.name)), Select((quoted(d.name),), quoted(u.name)))
    return query, things(p, t, cols=plural(c.words), cols2=plural(d.words), things2=u.nouns)


def _alike(c: Column, d: Column) -> bool:
    """Whether two columns hold things of one kind: both names, or categories with common values."""
    return c.role == d.role and (c.role == "label" or len(set(c.values) & set(d.values)) > 1)


# -- two tables: children of a parent ----------------------------------------------------------------------------------


def kid_columns(p: Picker, child: Table, n: int = 1) -> list[Column]:
    """What to show of a child: its name most of the time."""
    return list(child.label) if child.named and n == 1 and p.chance(0.75) else p.shown(child, n)


@shape
def join_columns(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    own = list(child.label) if child.named else [p.any(child.of("date", "number", "category", "text"))]
    query = Select(names(child, scope, own) + names(parent, scope), scope.text)
    words = {"kid_label": p.column_words(own, many=False), "kid_labels": p.column_words(own)}
    return query, family(p, link, child, parent, **words)


@shape
def join_by_name(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    name, condition = named(p, parent, scope)
    cols = kid_columns(p, child, p.any([1, 1, 1, 2]))
    words = family(p, link, child, parent, cols=p.column_words(cols), name=name)
    words |= {"shown": ""} if cols == list(child.label) else {"did": None}  # "Which books" asks for their names
    return Select(names(child, scope, cols), scope.text, (condition,)), words


@shape
def join_by_condition(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(parent, SIMPLE)
    cols = kid_columns(p, child, p.any([1, 1, 1, 2]))
    scope = join([child, parent], [link])
    query = Select(names(child, scope, cols), scope.text, (condition.within(scope),))
    return query, family(p, link, child, parent, condition, cols=p.column_words(cols))


@shape
def join_two_conditions(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    name, of_parent = named(p, parent, scope)
    condition = p.condition(child, SIMPLE)
    cols = list(child.label)
    count = p.chance(0.4)
    columns = ("COUNT(*)",) if count else names(child, scope, cols)
    words = family(p, link, child, parent, name=name, **kids_where(p, child, condition))
    words |= {"counted": ""} if count else {"cols": p.column_words(cols)}  # decides which phrasings fit
    return Select(columns, scope.text, (condition.within(scope), of_parent)), words


@shape
def join_count_named(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    name, condition = named(p, parent, scope)
    return Select(("COUNT(*)",), scope.text, (condition,)), family(p, link, child, parent, name=name)


@shape
def join_count_condition(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(parent, SIMPLE)
    scope = join([child, parent], [link])
    return Select(("COUNT(*)",), scope.text, (condition.within(scope),)), family(p, link, child, parent, condition)


@shape
def join_aggregate_named(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    name, condition = named(p, parent, scope)
    function, c, text = aggregate(p, child)
    query = Select((f"{function}({scope.col(child, c)})",), scope.text, (condition,))
    return query, family(p, link, child, parent, agg=text, name=name)


@shape
def join_aggregate_condition(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(parent, SIMPLE)
    function, c, text = aggregate(p, child)
    scope = join([child, parent], [link])
    query = Select((f"{function}({scope.col(child, c)})",), scope.text, (condition.within(scope),))
    return query, family(p, link, child, parent, condition, agg=text)


@shape
def parent_of_named(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    name, condition = named(p, child, scope)
    other = p.any(parent.of("category", "number", "year")) if p.chance(0.35) else None
    columns = (scope.col(parent, other),) if other else names(parent, scope)
    words = family(p, link, child, parent, name=name)
    return Select(columns, scope.text, (condition,)), {**words, "label": measure(other) if other else words["label"]}


@shape
def parent_of_best(p: Picker) -> Made:
    link, child, parent = p.link()
    c, descending = ordering(p, child)
    scope = join([child, parent], [link])
    query = Select(names(parent, scope), scope.text, order=scope.col(child, c), descending=descending, limit=1)
    return query, family(p, link, child, parent, **best(p, child, c, descending))


@shape
def best_of_parent(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    name, condition = named(p, parent, scope)
    c, descending = ordering(p, child)
    order = scope.col(child, c)
    query = Select(names(child, scope), scope.text, (condition,), order=order, descending=descending, limit=1)
    words = family(p, link, child, parent, name=name, **best(p, child, c, descending))
    return query, {**words, "label": p.label_words(child, many=False)}


# -- two tables: parents by their children -----------------------------------------------------------------------------


@shape
def join_group_count(p: Picker) -> Made:
    link, child, parent = p.link(across=True)
    scope = join([parent, child], [link])
    query = Select((*names(parent, scope), "COUNT(*)"), scope.text, group=key(parent, scope))
    return query, family(p, link, child, parent)


@shape
def join_group_count_where(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(child, SIMPLE)
    scope = join([parent, child], [link])
    columns = (*names(parent, scope), "COUNT(*)")
    query = Select(columns, scope.text, (condition.within(scope),), group=key(parent, scope))
    return query, family(p, link, child, parent, **kids_where(p, child, condition))


@shape
def left_join_count(p: Picker) -> Made:
    link, child, parent = p.link()
    if len(child.key) != 1:
        raise Unsuitable
    scope = join([parent, child], [link])
    counted = f"COUNT({scope.col(child, child.key[0])})"
    query = Select(
        (*names(parent, scope), counted), scope.text.replace(" JOIN ", " LEFT JOIN "), group=key(parent, scope)
    )
    return query, family(p, link, child, parent)


def of_kids(p: Picker, c: Column, child: Table, parent: Table) -> str:
    """' of its books', or nothing where the column is the child's alone and people would leave it out."""
    alone = not any(set(c.words.split()) & set(k.words.split()) for k in parent.of("number", "year"))
    return "" if alone and p.chance(0.4) else f" of {child.nouns}"


@shape
def join_group_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    function, c, text = aggregate(p, child)
    scope = join([parent, child], [link])
    query = Select((*names(parent, scope), f"{function}({scope.col(child, c)})"), scope.text, group=key(parent, scope))
    return query, family(p, link, child, parent, agg=text, of_kids=of_kids(p, c, child, parent))


@shape
def join_group_category(p: Picker) -> Made:
    link, child, parent = p.link()
    c = p.any(parent.of("category"))
    scope = join([parent, child], [link])
    col = scope.col(parent, c)
    return Select((col, "COUNT(*)"), scope.text, group=col), family(p, link, child, parent, **grouping(p, c))


@shape
def join_category_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    c = p.any(parent.of("category"))
    function, x, text = aggregate(p, child)
    scope = join([parent, child], [link])
    col = scope.col(parent, c)
    query = Select((col, f"{function}({scope.col(child, x)})"), scope.text, group=col)
    return query, family(p, link, child, parent, agg=text, **grouping(p, c))


@shape
def join_most_category(p: Picker) -> Made:
    link, child, parent = p.link()
    c = p.any(parent.of("category"))
    scope = join([parent, child], [link])
    col = scope.col(parent, c)
    query = Select((col,), scope.text, group=col, order="COUNT(*)", descending=True, limit=1)
    return query, family(p, link, child, parent, **grouping(p, c))


@shape
def join_having_count(p: Picker) -> Made:
    link, child, parent = p.link(across=True)
    scope = join([parent, child], [link])
    bound, over = at_least(p, child.noun, child.nouns)
    if "<" in bound:
        raise Unsuitable  # "fewer than" would take in those without any, which an inner join leaves out
    query = Select(names(parent, scope), scope.text, group=key(parent, scope), having=f"COUNT(*) {bound}")
    return query, family(p, link, child, parent, over=over)


@shape
def join_having_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    function, c, text = aggregate(p, child, "AVG", "AVG", "SUM")
    scope = join([parent, child], [link])
    bound = middle(p, c, function, max(1, child.rows // parent.rows))
    query = Select(
        names(parent, scope),
        scope.text,
        group=key(parent, scope),
        having=f"{function}({scope.col(child, c)}) > {bound}",
    )
    extra = of_kids(p, c, child, parent)
    return query, family(p, link, child, parent, agg=text, an_agg=article(text), bound=bound, of_kids=extra)


def every_parent(link: Link, child: Table, parent: Table) -> bool:
    """Whether all parents have children: else those with the fewest are those with none, whom no inner join finds."""
    return len(next(c for c in child.columns if c.name == link.column).values) == parent.rows


def top_parent(p: Picker, limits: tuple[int, ...], aggregated: bool, shown: bool) -> Made:
    """Parents with the most children, or the highest aggregate over them."""
    limit = p.any(limits)
    link, child, parent = p.link(across=not aggregated)
    scope = join([parent, child], [link])
    order, words = "COUNT(*)", {"n": spell(p, limit)}
    if aggregated:
        function, c, words["agg"] = aggregate(p, child, "AVG", "SUM", "SUM")
        order, words["of_kids"] = f"{function}({scope.col(child, c)})", of_kids(p, c, child, parent)
    down = aggregated or p.chance(0.7) or not every_parent(link, child, parent)
    words["most"] = p.say("[most|most|largest number of|highest number of]" if down else "[fewest|smallest number of]")
    columns = (*names(parent, scope), order) if shown else names(parent, scope)
    query = Select(columns, scope.text, group=key(parent, scope), order=order, descending=down, limit=limit)
    return query, family(p, link, child, parent, **words)


variants(
    top_parent,
    join_most=((1,), False, False),
    join_most_shown=((1,), False, True),
    join_top_n=((2, 3, 3, 5), False, False),
    join_top_aggregate=((1,), True, False),
    join_top_n_aggregate=((2, 3, 3, 5), True, True),
)


@shape
def amount_top(p: Picker) -> Made:
    link, child, parent = p.link(lambda child, parent: child.amounts)
    words, x, y = p.any(child.amounts)
    scope = join([parent, child], [link])
    order = f"SUM({scope.col(child, x)} * {scope.col(child, y)})"
    query = Select(names(parent, scope), scope.text, group=key(parent, scope), order=order, descending=True, limit=1)
    return query, family(p, link, child, parent, amount=words, first=x.words, second=y.words)


@shape
def amount_by_parent(p: Picker) -> Made:
    link, child, parent = p.link(lambda child, parent: child.amounts)
    words, x, y = p.any(child.amounts)
    scope = join([parent, child], [link])
    total = f"SUM({scope.col(child, x)} * {scope.col(child, y)})"
    query = Select((*names(parent, scope), total), scope.text, group=key(parent, scope))
    return query, family(p, link, child, parent, amount=words)


# -- nesting across tables ---------------------------------------------------------------------------------------------


def within(operator: str, link: Link, child: Table, condition: Condition | None = None) -> str:
    """A parent's key IN or NOT IN its children's foreign keys; these without NULLs, as NOT IN a NULL is never true."""
    where = (condition.within(Scope((child,))),) if condition else ()
    known = (f"{quoted(link.column)} IS NOT NULL",) if link.nullable and operator == "NOT IN" else ()
    inner = Select((quoted(link.column),), quoted(child.name), where + known)
    return f"{quoted(link.parent_column)} {operator} ({inner})"


def membership(p: Picker, operator: str, kinds: tuple[str, ...] = (), count: bool = False) -> Made:
    """Parents whose key is IN or NOT IN the children's, which may have to meet a condition."""
    link, child, parent = p.link(across=not kinds)
    condition = p.condition(child, kinds) if kinds else None
    where = (within(operator, link, child, condition),)
    scope = Scope((parent,))
    query = Select(("COUNT(*)",) if count else names(parent, scope), scope.text, where)
    return query, family(p, link, child, parent, **(kids_where(p, child, condition) if condition else {}))


variants(
    membership,
    without_children=("NOT IN",),
    count_without_children=("NOT IN", (), True),
    with_child=("IN", SIMPLE),
    count_with_child=("IN", SIMPLE, True),
    without_child=("NOT IN", SIMPLE),
)


@shape
def count_parents(p: Picker) -> Made:
    link, child, parent = p.link(across=True)
    query = Select((f"COUNT(DISTINCT {quoted(link.column)})",), quoted(child.name))
    return query, family(p, link, child, parent)


@shape
def with_and_without(p: Picker) -> Made:
    link, child, parent = p.link()
    other_link, other, _ = p.link(lambda other, same: same == parent and other != child)
    have, lack = p.condition(child, SIMPLE), p.condition(other, SIMPLE) if p.chance(0.5) else None
    scope = Scope((parent,))
    where = (within("IN", link, child, have), within("NOT IN", other_link, other, lack))
    words = kids_where(p, child, have) | {"others": other.nouns, "other_where": ""}
    if lack:
        lacked = kids_where(p, other, lack)
        words |= {"others": lacked.get("kids", other.nouns), "other_where": lacked["kid_where"]}
    words |= {"other_have": other_link.have}
    return Select(names(parent, scope), scope.text, where), family(p, link, child, parent, **words)


@shape
def exists_child(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(child, SIMPLE)
    no = "" if p.chance(0.6) else "no "
    scope = join([child, parent], [link])
    inner = Select(("1",), quoted(child.name), (scope.joins[0], condition.within(scope)))
    outer = Scope((parent,))
    query = Select(names(parent, outer), outer.text, (f"{'NOT ' if no else ''}EXISTS ({inner})",))
    return query, family(p, link, child, parent, no=no, **kids_where(p, child, condition))


@shape
def average_count(p: Picker) -> Made:
    link, child, parent = p.link()
    if link.nullable:
        raise Unsuitable
    inner = Select(("COUNT(*) AS n",), quoted(child.name), group=quoted(link.column))
    return Select(("AVG(n)",), f"({inner}) AS counts"), family(p, link, child, parent)


def both(p: Picker, operator: str) -> Made:
    """Parents with children of one kind and (INTERSECT) or but not (EXCEPT) of another."""
    link, child, parent = p.link()
    c = p.any(child.of("category"))
    scope = join([parent, child], [link])
    values = p.some(c.values, 2)
    sides = [Select(names(parent, scope), scope.text, (f"{scope.col(child, c)} = {literal(v)}",)) for v in values]
    where = p.phrase(c, "where", "[whose {w} is {}|with the {w} {}|with {w} {}]").replace("{w}", c.words)
    first, second = (where.replace("{}", p.value(c, v)) for v in values)
    words = {"first": first, "second": second}
    if c.phrases.get("adjective"):
        words |= {"one": values[0], "two": values[1]}
    return Compound(operator, *sides), family(p, link, child, parent, **words)


variants(
    both,
    intersect_children=("INTERSECT",),
    except_children=("EXCEPT",),
)


# -- three tables ------------------------------------------------------------------------------------------------------


def chain(p: Picker) -> tuple[Link, Link, Table, Table, Table]:
    """Child, parent and grandparent along two links."""
    upper, parent, grand = p.link()
    lower = p.any([link for link in p.graph.plain_links() if link.parent == parent.name and link.child != grand.name])
    child = p.graph.tables[lower.child]
    if any({link.child, link.parent} == {child.name, grand.name} for link in p.graph.links):
        raise Unsuitable  # a direct link as well: "orders of a city" would be ambiguous
    return lower, upper, child, parent, grand


def line(p: Picker, lower: Link, upper: Link, child: Table, parent: Table, grand: Table, **more: Any) -> dict[str, Any]:
    """The words for three generations: 'loans of books written by the author'."""
    words = family(p, upper, child, grand, **more)
    words |= {"mids": parent.nouns, "mid_by": words["by"], "mid_by_name": words["by_name"]}
    return {**words, "by": lower.by.partition(" the ")[0], "by_name": None}


@shape
def chain_by_name(p: Picker) -> Made:
    lower, upper, child, parent, grand = chain(p)
    scope = join([child, parent, grand], [lower, upper])
    name, condition = named(p, grand, scope)
    cols = kid_columns(p, child)
    words = line(p, lower, upper, child, parent, grand, cols=p.column_words(cols), name=name)
    return Select(names(child, scope, cols), scope.text, (condition,)), words


@shape
def chain_count(p: Picker) -> Made:
    lower, upper, child, parent, grand = chain(p)
    scope = join([child, parent, grand], [lower, upper])
    name, condition = named(p, grand, scope)
    return Select(("COUNT(*)",), scope.text, (condition,)), line(p, lower, upper, child, parent, grand, name=name)


def chain_groups(p: Picker, aggregated: bool, limit: int) -> Made:
    """Grandparents with a figure over their grandchildren."""
    lower, upper, child, parent, grand = chain(p)
    scope = join([grand, parent, child], [upper, lower])
    figure, words = "COUNT(*)", {}
    if aggregated:
        function, c, words["agg"] = aggregate(p, child, *(["AVG", "SUM", "SUM"] if limit else []))
        figure = f"{function}({scope.col(child, c)})"
    columns = names(grand, scope) if limit else (*names(grand, scope), figure)
    order = {"order": figure, "descending": True, "limit": limit} if limit else {}
    query = Select(columns, scope.text, group=key(grand, scope), **order)
    return query, line(p, lower, upper, child, parent, grand, **words)


variants(
    chain_groups,
    chain_group_count=(False, 0),
    chain_group_aggregate=(True, 0),
    chain_most=(False, 1),
    chain_top_aggregate=(True, 1),
)


@shape
def bridge_by_name(p: Picker) -> Made:
    left_link, right_link = p.any(list(p.graph.bridges()))
    left, bridge, right = (p.graph.tables[t] for t in (left_link.parent, left_link.child, right_link.parent))
    scope = join([left, bridge, right], [left_link, right_link])
    name, condition = named(p, right, scope)
    count = p.chance(0.25)
    words = family(p, left_link, bridge, left, name=name, other=right.noun)
    words |= {"counted": "", "labels": None} if count else {"shown": ""}  # decides which phrasings fit
    return Select(("COUNT(*)",) if count else names(left, scope), scope.text, (condition,)), words


# -- self references ---------------------------------------------------------------------------------------------------


@shape
def self_join(p: Picker) -> Made:
    link = p.any([link for link in p.graph.links if link.child == link.parent])
    t = p.graph.tables[link.child]
    name = quoted(t.name)
    source = f"{name} AS t1 JOIN {name} AS t2 ON t1.{quoted(link.column)} = t2.{quoted(link.parent_column)}"
    columns = tuple(f"{side}.{quoted(c.name)}" for side in ("t1", "t2") for c in t.label)
    return Select(columns, source), things(p, t, role=link.role)
