"""The registry of SQL shapes. Each is a function that draws what it needs and returns the query and the words for it.

Phrasings are templates over those words; `[a|b]` is a choice. One meaning has one SQL: "at least one" is always IN, a
superlative is always ORDER BY .. LIMIT, so that a small model is never taught two answers to one question.
Hardness follows Spider's counting; a test compares it with `text2sql.postgres.hardness`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml

from text2sql.mini.graph import Column, Link, Table
from text2sql.mini.pick import SIMPLE, Picker, Unsuitable
from text2sql.mini.sql import Compound, Query, Scope, Select, join, literal, quoted

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
DESCRIPTIONS: dict[str, Any] = _FILE["shapes"]


def shape(make: Callable[[Picker], Made]) -> Callable[[Picker], Made]:
    """Register a function as the shape of its name, with hardness, weight and phrasings of shapes.yaml."""
    about = DESCRIPTIONS[make.__name__]
    phrasings = tuple(spell_out(text) for text in about["phrasings"])
    SHAPES[make.__name__] = Shape(make.__name__, about["hardness"], phrasings, make, about.get("weight", 1.0))
    return make


def spell_out(text: str) -> str:
    """A phrasing with its macros put in."""
    for name, macro in _FILE["macros"].items():
        text = text.replace("{" + name + "}", macro)
    return text


#: a number as people say it
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def names(table: Table, scope: Scope) -> tuple[str, ...]:
    """The columns that name a row."""
    return tuple(scope.col(table, c) for c in table.label)


def key(table: Table, scope: Scope) -> str:
    """The primary key for GROUP BY: namesakes stay apart."""
    if len(table.key) != 1:
        raise Unsuitable
    return scope.col(table, table.key[0])


def things(table: Table, **more: Any) -> dict[str, Any]:
    """The words that every phrasing about a table may use."""
    return {"thing": table.noun, "things": table.nouns, "who": table.who, **more}


def family(p: Picker, link: Link, child: Table, parent: Table, **more: Any) -> dict[str, Any]:
    """The words for a parent and its children."""
    return {
        "kid": child.noun,
        "kids": child.nouns,
        "thing": parent.noun,
        "things": parent.nouns,
        "who": parent.who,
        "by": link.by,
        "have": link.have,
        "role": link.role,
        "labels": p.label_words(parent),
        "label": p.label_words(parent, many=False),
        **more,
    }


def words_for(p: Picker, aggregate: str) -> str:
    """'average', 'total' and so on."""
    return p.say(
        {
            "AVG": "[average|average|mean]",
            "SUM": "total",
            "MIN": "[lowest|minimum|smallest]",
            "MAX": "[highest|maximum|largest]",
        }[aggregate]
    )


def aggregate(p: Picker, table: Table, *functions: str) -> tuple[str, Column, str]:
    """A function, a column that it suits and the words: ('AVG', price, 'average price')."""
    functions = functions or ("AVG", "AVG", "SUM", "SUM", "MIN", "MAX")
    function = p.any(functions)
    column = p.any([c for c in table.of("number") if c.additive or function != "SUM"])
    own = column.phrases.get({"MIN": "min", "MAX": "max"}.get(function, ""))
    if own and p.chance(0.5):
        return function, column, own
    if function == "SUM" and column.words.split()[0] == "number":
        return function, column, f"total {column.words}"
    return function, column, f"{words_for(p, function)} {column.words}"


def a(words: str) -> str:
    """With its article: 'an average'."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def spell(p: Picker, n: int) -> str:
    """A small number in words or digits."""
    return NUMBERS[n] if n <= 10 and p.chance(0.35) else str(n)


# -- one table: projection ---------------------------------------------------------------------------------------------


@shape
def list_column(p: Picker) -> Made:
    t = p.table()
    cols = p.shown(t, 1)
    if len(cols) > 1 or cols[0].role == "category":
        raise Unsuitable
    scope = Scope((t,))
    return Select(names_of(t, cols, scope), scope.text), things(t, cols=p.column_words(t, cols))


def names_of(t: Table, cols: list[Column], scope: Scope) -> tuple[str, ...]:
    """Columns of one table in a scope."""
    return tuple(scope.col(t, c) for c in cols)


@shape
def list_columns(p: Picker) -> Made:
    t = p.table()
    cols = p.shown(t, p.any([2, 2, 3]))
    scope = Scope((t,))
    words = things(t, cols=p.column_words(t, cols), col=p.column_words(t, cols, many=False))
    return Select(names_of(t, cols, scope), scope.text), words


@shape
def distinct_column(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    scope = Scope((t,))
    words = things(t, cols=p.column_words(t, [c]), col=c.words)
    return Select((scope.col(t, c),), scope.text, distinct=True), words


@shape
def count_rows(p: Picker) -> Made:
    t = p.table()
    return Select(("COUNT(*)",), Scope((t,)).text), things(t)


@shape
def count_distinct(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    return Select((f"COUNT(DISTINCT {Scope((t,)).col(t, c)})",), Scope((t,)).text), things(
        t, cols=p.column_words(t, [c])
    )


# -- one table: conditions ---------------------------------------------------------------------------------------------


def filtered(p: Picker, *kinds: str) -> Made:
    """One column under one condition."""
    t = p.table()
    condition = p.condition(t, kinds)
    cols = p.shown(t, 1, besides=[condition.column]) if p.chance(0.4) else list(t.label)
    scope = Scope((t,))
    query = Select(names_of(t, cols, scope), scope.text, (condition.within(scope),))
    return query, things(t, cols=p.column_words(t, cols), where=condition.text, asks_label=cols == list(t.label))


@shape
def filter_equal(p: Picker) -> Made:
    return filtered(p, "equal", "equal", "equal", "equal_number")


@shape
def filter_not_equal(p: Picker) -> Made:
    return filtered(p, "not_equal")


@shape
def filter_compare(p: Picker) -> Made:
    return filtered(p, "greater", "greater", "less", "less", "at_least", "at_most")


@shape
def filter_between(p: Picker) -> Made:
    return filtered(p, "between")


@shape
def filter_like(p: Picker) -> Made:
    return filtered(p, "like")


@shape
def filter_in(p: Picker) -> Made:
    return filtered(p, "either")


@shape
def filter_null(p: Picker) -> Made:
    return filtered(p, "null", "null", "not_null")


@shape
def filter_flag(p: Picker) -> Made:
    return filtered(p, "flag")


@shape
def filter_date(p: Picker) -> Made:
    return filtered(p, "after", "before", "in_year", "in_month")


@shape
def filter_columns(p: Picker) -> Made:
    t = p.table()
    condition = p.condition(t, SIMPLE)
    cols = p.shown(t, 2, besides=[condition.column])
    scope = Scope((t,))
    query = Select(names_of(t, cols, scope), scope.text, (condition.within(scope),))
    return query, things(t, cols=p.column_words(t, cols), where=condition.text)


@shape
def filter_and(p: Picker) -> Made:
    t = p.table()
    first = p.condition(t, SIMPLE)
    second = p.condition(t, SIMPLE, besides=[first.column])
    cols = p.shown(t, 1, besides=[first.column, second.column]) if p.chance(0.4) else list(t.label)
    scope = Scope((t,))
    query = Select(names_of(t, cols, scope), scope.text, (first.within(scope), second.within(scope)))
    return query, things(t, cols=p.column_words(t, cols), where=f"{first.text} and {second.text}")


@shape
def filter_or(p: Picker) -> Made:
    t = p.table()
    first = p.condition(t, SIMPLE)
    second = p.condition(t, SIMPLE, besides=[first.column])
    scope = Scope((t,))
    query = Select(names(t, scope), scope.text, (f"{first.within(scope)} OR {second.within(scope)}",))
    return query, things(t, cols=p.label_words(t), where=f"{first.text} or {second.text}")


@shape
def count_where(p: Picker) -> Made:
    t = p.table()
    condition = p.condition(t, (*SIMPLE, "not_equal", "between"))
    scope = Scope((t,))
    return Select(("COUNT(*)",), scope.text, (condition.within(scope),)), things(t, where=condition.text)


@shape
def count_where_and(p: Picker) -> Made:
    t = p.table()
    first = p.condition(t, SIMPLE)
    second = p.condition(t, SIMPLE, besides=[first.column])
    scope = Scope((t,))
    query = Select(("COUNT(*)",), scope.text, (first.within(scope), second.within(scope)))
    return query, things(t, where=f"{first.text} and {second.text}")


@shape
def attribute_of_named(p: Picker) -> Made:
    t = p.table(named=True)
    name, pairs = p.name_of(t)
    c = p.any(t.of("category", "number", "year", "date", "text"))
    scope = Scope((t,))
    query = Select((scope.col(t, c),), scope.text, tuple(f"{scope.col(t, k)} = {v}" for k, v in pairs))
    return query, things(t, col=c.words, name=name)


# -- one table: aggregates ---------------------------------------------------------------------------------------------


@shape
def aggregate_column(p: Picker) -> Made:
    t = p.table()
    function, c, words = aggregate(p, t)
    scope = Scope((t,))
    return Select((f"{function}({scope.col(t, c)})",), scope.text), things(t, agg=words)


@shape
def aggregate_where(p: Picker) -> Made:
    t = p.table()
    function, c, words = aggregate(p, t)
    condition = p.condition(t, SIMPLE, besides=[c])
    scope = Scope((t,))
    query = Select((f"{function}({scope.col(t, c)})",), scope.text, (condition.within(scope),))
    return query, things(t, agg=words, where=condition.text)


@shape
def aggregate_several(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    functions = p.any([("MIN", "MAX"), ("MAX", "MIN"), ("AVG", "MAX"), ("MIN", "AVG", "MAX"), ("AVG", "MIN")])
    words = [words_for(p, f) for f in functions]
    text = f"{', '.join(words[:-1])} and {words[-1]} {c.words}"
    scope = Scope((t,))
    return Select(tuple(f"{f}({scope.col(t, c)})" for f in functions), scope.text), things(t, aggs=text)


@shape
def value_range(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    col = Scope((t,)).col(t, c)
    return Select((f"MAX({col}) - MIN({col})",), Scope((t,)).text), things(t, col=c.words)


@shape
def amount_total(p: Picker) -> Made:
    t = p.table(lambda t: t.amounts)
    words, x, y = p.any(t.amounts)
    scope = Scope((t,))
    query = Select((f"SUM({scope.col(t, x)} * {scope.col(t, y)})",), scope.text)
    return query, things(t, amount=words, first=x.words, second=y.words)


# -- one table: order and limit ----------------------------------------------------------------------------------------


def ordering(p: Picker, table: Table) -> tuple[Column, bool]:
    """A column to sort by, and whether descending."""
    return p.any(table.of("number", "number", "year", "date")), p.chance(0.6)


def order_words(p: Picker, c: Column, descending: bool) -> str:
    """'sorted by price from highest to lowest'."""
    verb = p.say("[sorted|ordered|ranked|listed] by [|their ]")
    if c.role == "date":
        way = (
            "[from newest to oldest|from latest to earliest|in descending order|latest first]"
            if descending
            else ("[from oldest to newest|from earliest to latest|in ascending order|earliest first]")
        )
    else:
        way = (
            "[from highest to lowest|in descending order|from largest to smallest|descending|highest first]"
            if descending
            else ("[from lowest to highest|in ascending order|from smallest to largest|ascending|lowest first|]")
        )
    return f"{verb}{c.words} {p.say(way)}".strip()


@shape
def order_column(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    scope = Scope((t,))
    query = Select(names(t, scope), scope.text, order=scope.col(t, c), descending=descending)
    return query, things(t, cols=p.label_words(t), sorted=order_words(p, c, descending))


@shape
def order_where(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    condition = p.condition(t, SIMPLE, besides=[c])
    scope = Scope((t,))
    query = Select(
        names(t, scope), scope.text, (condition.within(scope),), order=scope.col(t, c), descending=descending
    )
    return query, things(t, cols=p.label_words(t), where=condition.text, sorted=order_words(p, c, descending))


@shape
def top_one(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    say = p.superlative(t, c, descending)
    scope = Scope((t,))
    query = Select(names(t, scope), scope.text, order=scope.col(t, c), descending=descending, limit=1)
    best = say(t.noun)
    is_best = best.removeprefix(f"{t.noun} with ")
    is_best = f"has {is_best}" if is_best != best else f"is the {best.removesuffix(t.noun).strip()}"
    return query, things(t, best=best, best_one=f"{t.noun} {is_best}", is_best=is_best, label=p.label_words(t, False))


@shape
def top_one_columns(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    say = p.superlative(t, c, descending)
    if p.chance(0.5) and t.named:
        cols = [*t.label, p.any([k for k in t.of("number", "category", "year", "date") if k not in t.label])]
    else:
        cols = [p.any([k for k in t.of("number", "category", "year", "date", "text") if k != c])]
    scope = Scope((t,))
    query = Select(names_of(t, cols, scope), scope.text, order=scope.col(t, c), descending=descending, limit=1)
    text = p.column_words(t, cols, many=False)
    return query, things(t, best=say(t.noun), col=text)


@shape
def top_n(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    say = p.superlative(t, c, descending)
    n = p.any([2, 3, 3, 4, 5, 5])
    scope = Scope((t,))
    query = Select(names(t, scope), scope.text, order=scope.col(t, c), descending=descending, limit=n)
    best = say(t.nouns)
    have = best.removeprefix(f"{t.nouns} with ")
    ones = f"{t.nouns} have {have}" if have != best else f"{t.nouns} are the {best.removesuffix(t.nouns).strip()}"
    return query, things(t, best=best, best_ones=ones, n=spell(p, n), labels=p.label_words(t))


@shape
def top_where(p: Picker) -> Made:
    t = p.table()
    c, descending = ordering(p, t)
    condition = p.condition(t, SIMPLE, besides=[c])
    say = p.superlative(t, c, descending)
    scope = Scope((t,))
    query = Select(
        names(t, scope), scope.text, (condition.within(scope),), order=scope.col(t, c), descending=descending, limit=1
    )
    best = say(t.noun)
    is_best = best.removeprefix(f"{t.noun} with ")
    is_best = f"has {is_best}" if is_best != best else f"is the {best.removesuffix(t.noun).strip()}"
    return query, things(t, best=best, is_best=is_best, where=condition.text, label=p.label_words(t, False))


# -- one table: groups -------------------------------------------------------------------------------------------------


@shape
def group_count(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    col = Scope((t,)).col(t, c)
    return Select((col, "COUNT(*)"), Scope((t,)).text, group=col), things(t, col=c.words)


@shape
def group_count_where(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    condition = p.condition(t, SIMPLE, besides=[c])
    scope = Scope((t,))
    col = scope.col(t, c)
    query = Select((col, "COUNT(*)"), scope.text, (condition.within(scope),), group=col)
    return query, things(t, col=c.words, where=condition.text)


@shape
def group_aggregate(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t)
    scope = Scope((t,))
    query = Select((scope.col(t, c), f"{function}({scope.col(t, x)})"), scope.text, group=scope.col(t, c))
    return query, things(t, col=c.words, agg=words)


@shape
def group_having_count(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    n = p.any([1, 2, 2, 3, 4])
    scope = Scope((t,))
    col = scope.col(t, c)
    more = p.chance(0.6)
    query = Select((col,), scope.text, group=col, having=f"COUNT(*) {'>' if more else '>='} {n if more else n + 1}")
    return query, things(
        t, cols=p.column_words(t, [c]), n=spell(p, n), n1=spell(p, n + 1), keep="more" if more else "at"
    )


@shape
def group_having_aggregate(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t, "AVG", "AVG", "SUM")
    scope = Scope((t,))
    bound = middle(p, x, function)
    query = Select(
        (scope.col(t, c),), scope.text, group=scope.col(t, c), having=f"{function}({scope.col(t, x)}) > {bound}"
    )
    return query, things(t, cols=p.column_words(t, [c]), agg=words, an_agg=a(words), bound=bound)


def middle(p: Picker, column: Column, function: str, rows: int = 4) -> int | float:
    """A round bound for an aggregate over some rows of a column."""
    ranked = sorted(column.values)
    value = sum(ranked) / len(ranked) * (0.85 + 0.3 * p.rng.random())
    value *= rows if function == "SUM" else 1
    if abs(value) < 10:
        return round(value, 1) if function == "AVG" else max(1, round(value))
    return round(value, 1 - len(str(int(abs(value))))) and int(round(value, 1 - len(str(int(abs(value))))))


@shape
def most_common(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    scope = Scope((t,))
    col = scope.col(t, c)
    query = Select((col,), scope.text, group=col, order="COUNT(*)", descending=True, limit=1)
    return query, things(t, col=c.words)


@shape
def top_group_aggregate(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    function, x, words = aggregate(p, t, "AVG", "SUM")
    scope = Scope((t,))
    order = f"{function}({scope.col(t, x)})"
    query = Select((scope.col(t, c),), scope.text, group=scope.col(t, c), order=order, descending=True, limit=1)
    return query, things(t, col=c.words, agg=words)


@shape
def group_count_ordered(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("category"))
    col = Scope((t,)).col(t, c)
    query = Select((col, "COUNT(*)"), Scope((t,)).text, group=col, order="COUNT(*)", descending=True)
    return query, things(t, col=c.words)


# -- one table: nesting and set operations -----------------------------------------------------------------------------


@shape
def versus_average(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    up = p.chance(0.65)
    scope = Scope((t,))
    col = scope.col(t, c)
    query = Select(names(t, scope), scope.text, (f"{col} {'>' if up else '<'} (SELECT AVG({col}) FROM {scope.text})",))
    than = p.say("[above|higher than|greater than|over|more than]" if up else "[below|lower than|less than|under]")
    words = things(
        t,
        labels=p.label_words(t),
        col=c.words,
        than=than,
        than_one="higher than average" if up else "lower than average",
        compare=f"whose {c.words} is {than} the",
    )
    return query, words


@shape
def versus_named(p: Picker) -> Made:
    t = p.table(named=True)
    name, pairs = p.name_of(t)
    c = p.any(t.of("number"))
    scope = Scope((t,))
    inner = Select((scope.col(t, c),), scope.text, tuple(f"{scope.col(t, k)} = {v}" for k, v in pairs))
    query = Select(names(t, scope), scope.text, (f"{scope.col(t, c)} > ({inner})",))
    return query, things(t, labels=p.label_words(t), col=c.words, name=name)


@shape
def count_above_average(p: Picker) -> Made:
    t = p.table()
    c = p.any(t.of("number"))
    scope = Scope((t,))
    col = scope.col(t, c)
    query = Select(("COUNT(*)",), scope.text, (f"{col} > (SELECT AVG({col}) FROM {scope.text})",))
    return query, things(t, col=c.words, an_col=a(c.words))


def two_sided(p: Picker, operator: str) -> tuple[Compound, dict[str, Any]]:
    """A category under two conditions of one table, combined by a set operator."""
    t = p.table()
    shown = p.any(t.of("category"))
    first = p.condition(t, ("equal", "greater", "less", "equal"), besides=[shown])
    second = p.condition(t, (first.kind,) if first.kind == "equal" else ("greater", "less"), besides=[shown])
    if (
        second.column != first.column
        or first.sql == second.sql
        or (first.kind != "equal" and first.kind == second.kind)
    ):
        raise Unsuitable
    scope = Scope((t,))
    sides = [Select((scope.col(t, shown),), scope.text, (c.within(scope),)) for c in (first, second)]
    words = things(t, cols=p.column_words(t, [shown]), first=first.text, second=second.text)
    return Compound(operator, *sides), words


@shape
def intersect_groups(p: Picker) -> Made:
    return two_sided(p, "INTERSECT")


@shape
def except_groups(p: Picker) -> Made:
    return two_sided(p, "EXCEPT")


@shape
def union_tables(p: Picker) -> Made:
    t, u = p.table(), p.table()
    if t == u:
        raise Unsuitable
    shared = [(c, d) for c in t.of("category", "label") for d in u.of("category", "label") if _alike(c, d)]
    c, d = p.any(shared)
    query = Compound("UNION", Select((quoted(c.name),), quoted(t.name)), Select((quoted(d.name),), quoted(u.name)))
    words = {"cols2": p.column_words(u, [d]), "things2": u.nouns}
    return query, things(t, cols=p.column_words(t, [c]), **words)


def _alike(c: Column, d: Column) -> bool:
    """Whether two columns hold things of one kind: both names, or categories with common values."""
    return c.role == d.role == "label" or (c.role == d.role and len(set(c.values) & set(d.values)) > 1)


# -- two tables --------------------------------------------------------------------------------------------------------


@shape
def join_columns(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([child, parent], [link])
    own = list(child.label) if child.named else [p.any(child.of("date", "number", "category", "text"))]
    query = Select(names_of(child, own, scope) + names(parent, scope), scope.text)
    words = {"kid_label": p.column_words(child, own, False), "kid_labels": p.column_words(child, own)}
    return query, family(p, link, child, parent, **words)


@shape
def join_by_parent_name(p: Picker) -> Made:
    link, child, parent = p.link()
    name, pairs = p.name_of(parent)
    cols = list(child.label) if child.named and p.chance(0.6) else p.shown(child, p.any([1, 1, 2]))
    scope = join([child, parent], [link])
    query = Select(names_of(child, cols, scope), scope.text, tuple(f"{scope.col(parent, k)} = {v}" for k, v in pairs))
    return query, family(p, link, child, parent, cols=p.column_words(child, cols), name=name)


@shape
def join_by_parent_condition(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(parent, SIMPLE)
    cols = list(child.label) if child.named and p.chance(0.6) else p.shown(child, p.any([1, 1, 2]))
    scope = join([child, parent], [link])
    query = Select(names_of(child, cols, scope), scope.text, (condition.within(scope),))
    return query, family(p, link, child, parent, cols=p.column_words(child, cols), where=condition.text)


@shape
def join_count_named(p: Picker) -> Made:
    link, child, parent = p.link()
    name, pairs = p.name_of(parent)
    scope = join([child, parent], [link])
    query = Select(("COUNT(*)",), scope.text, tuple(f"{scope.col(parent, k)} = {v}" for k, v in pairs))
    return query, family(p, link, child, parent, name=name)


@shape
def join_count_condition(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(parent, SIMPLE)
    scope = join([child, parent], [link])
    query = Select(("COUNT(*)",), scope.text, (condition.within(scope),))
    return query, family(p, link, child, parent, where=condition.text)


@shape
def join_aggregate_named(p: Picker) -> Made:
    link, child, parent = p.link()
    name, pairs = p.name_of(parent)
    function, c, text = aggregate(p, child)
    scope = join([child, parent], [link])
    query = Select(
        (f"{function}({scope.col(child, c)})",), scope.text, tuple(f"{scope.col(parent, k)} = {v}" for k, v in pairs)
    )
    return query, family(p, link, child, parent, agg=text, name=name)


@shape
def join_aggregate_condition(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(parent, SIMPLE)
    function, c, text = aggregate(p, child)
    scope = join([child, parent], [link])
    query = Select((f"{function}({scope.col(child, c)})",), scope.text, (condition.within(scope),))
    return query, family(p, link, child, parent, agg=text, where=condition.text)


@shape
def join_group_count(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([parent, child], [link])
    query = Select((*names(parent, scope), "COUNT(*)"), scope.text, group=key(parent, scope))
    return query, family(p, link, child, parent)


@shape
def join_group_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    function, c, text = aggregate(p, child)
    scope = join([parent, child], [link])
    query = Select((*names(parent, scope), f"{function}({scope.col(child, c)})"), scope.text, group=key(parent, scope))
    return query, family(p, link, child, parent, agg=text)


@shape
def join_group_category(p: Picker) -> Made:
    link, child, parent = p.link()
    c = p.any(parent.of("category"))
    scope = join([parent, child], [link])
    col = scope.col(parent, c)
    return Select((col, "COUNT(*)"), scope.text, group=col), family(p, link, child, parent, col=c.words)


@shape
def join_group_having(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([parent, child], [link])
    n, more = p.any([1, 2, 2, 3, 4]), p.chance(0.6)
    having = f"COUNT(*) {'>' if more else '>='} {n if more else n + 1}"
    query = Select(names(parent, scope), scope.text, group=key(parent, scope), having=having)
    words = {"n": spell(p, n), "n1": spell(p, n + 1), "keep": "more" if more else "at"}
    return query, family(p, link, child, parent, **words)


@shape
def join_having_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    function, c, text = aggregate(p, child, "AVG", "SUM", "SUM")
    scope = join([parent, child], [link])
    bound = middle(p, c, function, max(1, child.rows // max(1, parent.rows)))
    having = f"{function}({scope.col(child, c)}) > {bound}"
    query = Select(names(parent, scope), scope.text, group=key(parent, scope), having=having)
    return query, family(p, link, child, parent, agg=text, an_agg=a(text), bound=bound)


@shape
def join_most(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([parent, child], [link])
    query = Select(
        names(parent, scope), scope.text, group=key(parent, scope), order="COUNT(*)", descending=True, limit=1
    )
    return query, family(p, link, child, parent, has=third_person(link.have))


def third_person(have: str) -> str:
    """'have written' to 'has written', 'own' to 'owns'."""
    first, _, rest = have.partition(" ")
    if first.endswith(("ch", "sh", "ss", "o")):
        first += "es"
    elif first.endswith("y") and first[-2] not in "aeiou":
        first = first[:-1] + "ies"
    else:
        first = {"have": "has", "are": "is", "were": "was"}.get(first, first + "s" if first not in _PAST else first)
    return f"{first} {rest}".strip()


_PAST = {"placed", "wrote", "made", "took", "won", "hosted", "held"}


@shape
def join_top_n(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = join([parent, child], [link])
    n = p.any([2, 3, 3, 5])
    query = Select(
        names(parent, scope), scope.text, group=key(parent, scope), order="COUNT(*)", descending=True, limit=n
    )
    return query, family(p, link, child, parent, n=spell(p, n))


@shape
def join_top_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    function, c, text = aggregate(p, child, "AVG", "SUM", "SUM")
    scope = join([parent, child], [link])
    order = f"{function}({scope.col(child, c)})"
    query = Select(names(parent, scope), scope.text, group=key(parent, scope), order=order, descending=True, limit=1)
    return query, family(p, link, child, parent, agg=text)


@shape
def join_top_n_aggregate(p: Picker) -> Made:
    link, child, parent = p.link()
    function, c, text = aggregate(p, child, "AVG", "SUM", "SUM")
    scope = join([parent, child], [link])
    order = f"{function}({scope.col(child, c)})"
    query = Select(
        (*names(parent, scope), order),
        scope.text,
        group=key(parent, scope),
        order=order,
        descending=True,
        limit=p.any([2, 3, 3, 5]),
    )
    return query, family(p, link, child, parent, agg=text, n=spell(p, query.limit))


@shape
def parent_of_best(p: Picker) -> Made:
    link, child, parent = p.link()
    c, descending = ordering(p, child)
    say = p.superlative(child, c, descending)
    scope = join([child, parent], [link])
    query = Select(names(parent, scope), scope.text, order=scope.col(child, c), descending=descending, limit=1)
    return query, family(p, link, child, parent, best=say(child.noun))


@shape
def best_of_parent(p: Picker) -> Made:
    link, child, parent = p.link()
    name, pairs = p.name_of(parent)
    c, descending = ordering(p, child)
    say = p.superlative(child, c, descending)
    scope = join([child, parent], [link])
    where = tuple(f"{scope.col(parent, k)} = {v}" for k, v in pairs)
    query = Select(names(child, scope), scope.text, where, order=scope.col(child, c), descending=descending, limit=1)
    words = family(p, link, child, parent, name=name)
    return query, {**words, "label": p.label_words(child, False), "best": say(child.noun)}


# -- nesting across tables ---------------------------------------------------------------------------------------------


@shape
def without_children(p: Picker) -> Made:
    link, child, parent = p.link()
    scope = Scope((parent,))
    query = Select(names(parent, scope), scope.text, (f"{parent_key(link)} NOT IN ({children(link, child)})",))
    return query, family(p, link, child, parent)


def children(link: Link, child: Table, condition: str = "") -> Select:
    """The foreign keys of a child table, without NULLs: NOT IN over a NULL is never true."""
    where = (f"{quoted(link.column)} IS NOT NULL",) if link.nullable and not condition else ()
    return Select((quoted(link.column),), quoted(child.name), where + ((condition,) if condition else ()))


def parent_key(link: Link) -> str:
    """The parent's side of a link in its own table."""
    return quoted(link.parent_column)


@shape
def count_without_children(p: Picker) -> Made:
    link, child, parent = p.link()
    query = Select(("COUNT(*)",), quoted(parent.name), (f"{parent_key(link)} NOT IN ({children(link, child)})",))
    return query, family(p, link, child, parent)


@shape
def with_child(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(child, SIMPLE)
    inner = children(link, child, condition.within(Scope((child,))))
    scope = Scope((parent,))
    query = Select(names(parent, scope), scope.text, (f"{parent_key(link)} IN ({inner})",))
    return query, family(p, link, child, parent, where=condition.text)


@shape
def without_child(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(child, SIMPLE)
    if link.nullable:
        raise Unsuitable
    inner = children(link, child, condition.within(Scope((child,))))
    scope = Scope((parent,))
    query = Select(names(parent, scope), scope.text, (f"{parent_key(link)} NOT IN ({inner})",))
    return query, family(p, link, child, parent, where=condition.text)


@shape
def exists_child(p: Picker) -> Made:
    link, child, parent = p.link()
    condition = p.condition(child, SIMPLE)
    yes = p.chance(0.6)
    scope = join([child, parent], [link])
    inner = Select(("1",), quoted(child.name), (scope.joins[0], condition.within(scope)))
    outer = Scope((parent,))
    query = Select(names(parent, outer), outer.text, (f"{'' if yes else 'NOT '}EXISTS ({inner})",))
    there, q_there = ("there exist", "do there exist") if yes else ("there exist no", "do there exist no")
    return query, family(p, link, child, parent, where=condition.text, there=there, q_there=q_there)


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
    column = p.any(child.of("category"))
    one, two = p.some(column.values, 2)
    scope = join([parent, child], [link])
    sides = [
        Select(names(parent, scope), scope.text, (f"{scope.col(child, column)} = {literal(v)}",)) for v in (one, two)
    ]
    where = p.phrase(column, "where", "[whose {w} is {}|with the {w} {}|with {w} {}]").replace("{w}", column.words)
    words = {"first": where.replace("{}", p.value(column, one)), "second": where.replace("{}", p.value(column, two))}
    return Compound(operator, *sides), family(p, link, child, parent, **words)


@shape
def intersect_children(p: Picker) -> Made:
    return both(p, "INTERSECT")


@shape
def except_children(p: Picker) -> Made:
    return both(p, "EXCEPT")


# -- three tables and more ---------------------------------------------------------------------------------------------


def chain(p: Picker) -> tuple[Link, Link, Table, Table, Table]:
    """Child, parent and grandparent along two links."""
    upper, parent, top = p.link()
    lower = p.any([link for link in p.graph.plain_links() if link.parent == parent.name and link.child != top.name])
    child = p.graph.tables[lower.child]
    if any({link.child, link.parent} == {child.name, top.name} for link in p.graph.links):
        raise Unsuitable  # a direct link as well: "orders of a city" would be ambiguous
    return lower, upper, child, parent, top


@shape
def chain_by_name(p: Picker) -> Made:
    lower, upper, child, parent, top = chain(p)
    name, pairs = p.name_of(top)
    cols = list(child.label) if child.named and p.chance(0.6) else p.shown(child, 1)
    scope = join([child, parent, top], [lower, upper])
    query = Select(names_of(child, cols, scope), scope.text, tuple(f"{scope.col(top, k)} = {v}" for k, v in pairs))
    words = {"mids": parent.nouns, "mid_by": upper.by, "by": lower.by, "name": name}
    return query, {**family(p, upper, child, top, cols=p.column_words(child, cols)), **words}


@shape
def chain_count(p: Picker) -> Made:
    lower, upper, child, parent, top = chain(p)
    name, pairs = p.name_of(top)
    scope = join([child, parent, top], [lower, upper])
    query = Select(("COUNT(*)",), scope.text, tuple(f"{scope.col(top, k)} = {v}" for k, v in pairs))
    words = {"mids": parent.nouns, "mid_by": upper.by, "by": lower.by, "name": name}
    return query, {**family(p, upper, child, top), **words}


@shape
def chain_group_count(p: Picker) -> Made:
    lower, upper, child, parent, top = chain(p)
    scope = join([top, parent, child], [upper, lower])
    query = Select((*names(top, scope), "COUNT(*)"), scope.text, group=key(top, scope))
    return query, {**family(p, upper, child, top), "mids": parent.nouns, "by": lower.by}


@shape
def chain_group_aggregate(p: Picker) -> Made:
    lower, upper, child, parent, top = chain(p)
    function, c, text = aggregate(p, child)
    scope = join([top, parent, child], [upper, lower])
    query = Select((*names(top, scope), f"{function}({scope.col(child, c)})"), scope.text, group=key(top, scope))
    return query, {**family(p, upper, child, top), "mids": parent.nouns, "by": lower.by, "agg": text}


@shape
def bridge_by_name(p: Picker) -> Made:
    left_link, right_link, left, bridge, right = bridged(p)
    name, pairs = p.name_of(right)
    scope = join([left, bridge, right], [left_link, right_link])
    query = Select(names(left, scope), scope.text, tuple(f"{scope.col(right, k)} = {v}" for k, v in pairs))
    return query, {**family(p, left_link, bridge, left), "name": name, "other": right.noun, "have": across(left_link)}


def across(link: Link) -> str:
    """The verb from one side of a bridge to the other: 'speak', 'play in'."""
    return link.have


def bridged(p: Picker) -> tuple[Link, Link, Table, Table, Table]:
    """Both links of a bridge table: left, bridge, right."""
    left_link, right_link = p.any(list(p.graph.bridges()))
    tables = p.graph.tables
    left, right = tables[left_link.parent], tables[right_link.parent]
    if not left.named or not right.named:
        raise Unsuitable
    return left_link, right_link, left, tables[left_link.child], right


@shape
def bridge_group_count(p: Picker) -> Made:
    left_link, _, left, bridge, right = bridged(p)
    scope = join([left, bridge], [left_link])
    query = Select((*names(left, scope), "COUNT(*)"), scope.text, group=key(left, scope))
    have = across(left_link)
    words = {"others": right.nouns, "have": have, "has": third_person(have)}
    return query, {**family(p, left_link, bridge, left), **words}


@shape
def bridge_most(p: Picker) -> Made:
    left_link, _, left, bridge, right = bridged(p)
    scope = join([left, bridge], [left_link])
    query = Select(names(left, scope), scope.text, group=key(left, scope), order="COUNT(*)", descending=True, limit=1)
    words = {"others": right.nouns, "has": third_person(across(left_link))}
    return query, {**family(p, left_link, bridge, left), **words}


@shape
def amount_top(p: Picker) -> Made:
    link, child, parent = p.link(lambda child, parent: child.amounts)
    words, x, y = p.any(child.amounts)
    scope = join([parent, child], [link])
    order = f"SUM({scope.col(child, x)} * {scope.col(child, y)})"
    query = Select(names(parent, scope), scope.text, group=key(parent, scope), order=order, descending=True, limit=1)
    return query, family(p, link, child, parent, amount=words)


@shape
def amount_by_parent(p: Picker) -> Made:
    link, child, parent = p.link(lambda child, parent: child.amounts)
    words, x, y = p.any(child.amounts)
    scope = join([parent, child], [link])
    total = f"SUM({scope.col(child, x)} * {scope.col(child, y)})"
    query = Select((*names(parent, scope), total), scope.text, group=key(parent, scope))
    return query, family(p, link, child, parent, amount=words)


# -- self references ---------------------------------------------------------------------------------------------------


@shape
def self_join(p: Picker) -> Made:
    link = p.any([link for link in p.graph.links if link.child == link.parent])
    t = p.graph.tables[link.child]
    name = quoted(t.name)
    source = f"{name} AS t1 JOIN {name} AS t2 ON t1.{quoted(link.column)} = t2.{quoted(link.parent_column)}"
    columns = tuple(f"{side}.{quoted(c.name)}" for side in ("t1", "t2") for c in t.label)
    return Select(columns, source), things(t, label=p.label_words(t, False), role=link.role)
