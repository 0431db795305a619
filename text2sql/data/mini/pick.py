"""What shapes draw from a graph: tables, columns, links and conditions that fit, together with the words for them."""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from text2sql.data.mini.graph import Column, Graph, Link, Table, plural
from text2sql.data.mini.sql import Scope, literal

Item = TypeVar("Item")
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


class Unsuitable(Exception):
    """This graph has nothing for what a shape asked for."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on one column: `sql` with {} for the column, `text` to stand behind a plural noun.

    `adjective` says it in front of the noun instead, where that is English: 'cancelled' in 'cancelled bookings'.
    """

    table: Table
    column: Column
    kind: str
    sql: str
    text: str
    adjective: str | None = None

    @property
    def verb(self) -> str | None:
        """The condition as a predicate, for 'Which huts ...?': 'are in Oslo', 'have a shower'; None for 'whose ..'."""
        if self.text.startswith("whose "):
            return None
        was = self.column.role in ("date", "year")
        return verb_of(self.text, "were" if was else "are")

    def within(self, scope: Scope) -> str:
        """The condition as SQL in a scope."""
        return self.sql.replace("{}", scope.col(self.table, self.column), 1)


def expand(text: str, rng: random.Random) -> str:
    """Choose one of each `[a|b|c]` in a phrasing."""
    while "[" in text:
        head, _, rest = text.rpartition("[")
        inner, _, tail = rest.partition("]")
        options = inner.split("|")
        text = head + options[int(rng.random() * len(options))] + tail
    return text


def verb_of(text: str, be: str = "are") -> str:
    """A phrase behind a noun as a predicate: 'that cost more' to 'cost more', 'older than 5' to 'are older than 5'."""
    for start, verb in (
        ("that ", ""),
        ("who ", ""),
        ("with ", "have "),
        ("without a ", "have no "),
        ("without ", "have no "),
    ):
        if text.startswith(start):
            return verb + text.removeprefix(start)
    return f"{be} {text}"


def article(words: str) -> str:
    """With its article: 'an average'."""
    return f"{'an' if words[0] in 'aeiou' and not words.startswith(('uni', 'use', 'eu', 'one')) else 'a'} {words}"


def measure(c: Column) -> str:
    """What a number is called: 'number of pages', 'price'."""
    return f"number of {c.words}" if c.role == "number" and _countable(c) else c.words


class Picker:
    """Draws from `graph` on the stream `rng`."""

    def __init__(self, graph: Graph, rng: random.Random) -> None:
        self.graph = graph
        self.rng = rng

    # -- draws -------------------------------------------------------------------------------------------------------

    def any(self, items: Sequence[Item]) -> Item:
        """One of `items`."""
        if not items:
            raise Unsuitable
        return items[int(self.rng.random() * len(items))]

    def some(self, items: Sequence[Item], n: int) -> list[Item]:
        """`n` different ones of `items`, in their order."""
        if len(items) < n:
            raise Unsuitable
        left = list(range(len(items)))
        chosen = [left.pop(int(self.rng.random() * len(left))) for _ in range(n)]
        return [items[i] for i in sorted(chosen)]

    def chance(self, share: float) -> bool:
        """True with that probability."""
        return self.rng.random() < share

    def say(self, text: str) -> str:
        """One choice of each `[a|b]`."""
        return expand(text, self.rng)

    def table(self, fits: Callable[[Table], Any] = lambda t: True, named: bool = False) -> Table:
        """A table with rows to ask about; `named`: one whose rows have names."""
        tables = [t for t in self.graph.tables.values() if t.rows > 3 and (t.named or not named) and fits(t)]
        if not named:  # tables of things are asked about more than tables of events
            tables += [t for t in tables if t.named]
        return self.any(tables)

    def link(
        self, fits: Callable[[Table, Table], Any] = lambda child, parent: True, across: bool = False
    ) -> tuple[Link, Table, Table]:
        """An unambiguous link whose parent has a name, with child and parent.

        `across`: the child is only counted, so that a bridge may go by the words of its far side: the missions that
        an astronaut has flown on, not the crew assignments.
        """
        far = {left.child + "." + left.column: right.parent for left, right in self.graph.bridges()}
        found = []
        for link in self.graph.plain_links():
            child, parent = self.graph.tables[link.child], self.graph.tables[link.parent]
            if parent.named and parent.rows > 3 and fits(child, parent):
                found.append((link, child, parent))
        link, child, parent = self.any(found)
        if other := far.get(f"{link.child}.{link.column}"):
            if across:
                there = self.graph.tables[other]
                child = dataclasses.replace(child, noun=there.noun, nouns=there.nouns)
            else:
                link = dataclasses.replace(link, have="have", did=None, never=None)
        return link, child, parent

    def shown(self, table: Table, n: int, besides: Sequence[Column] = ()) -> list[Column]:
        """`n` columns worth showing, the name among them most of the time."""
        others = [c for c in table.of("category", "number", "year", "date", "text") if c not in besides]
        if table.named and self.chance(0.75):
            label = list(table.label)
            return label + self.some(others, n - 1) if n > 1 else label
        return self.some(others, n)

    # -- words -------------------------------------------------------------------------------------------------------

    def label_words(self, table: Table, many: bool = True) -> str:
        """'names', 'first and last names', 'ids' of a table's rows."""
        return self.column_words(table.label, many)

    def column_words(self, columns: Sequence[Column], many: bool = True) -> str:
        """The columns' words, joined by commas and 'and'."""
        words = [measure(c) for c in columns]
        if len(words) == 1 and words[0].endswith(" id"):
            words = ["id"]
        if words[:2] == ["first name", "last name"]:
            words[:2] = self.any([["first and last name"], ["full name"], ["first name", "last name"]])
        return self.words(words, many)

    def words(self, words: Sequence[str], many: bool) -> str:
        """'a, b and c', in the plural if `many`."""
        out = [plural(w) for w in words] if many else list(words)
        return out[0] if len(out) == 1 else f"{', '.join(out[:-1])} and {out[-1]}"

    def value(self, column: Column, value: Any) -> str:
        """A value in a sentence: titles mostly in quotes, categories mostly without."""
        if not isinstance(value, str) or column.role == "date":
            return str(value)
        marked = self.chance(0.55 if column.role in ("label", "text") else 0.25)
        mark = '"' if "'" in value or self.chance(0.4) else "'"
        return f"{mark}{value}{mark}" if marked else value

    def name_of(self, table: Table) -> tuple[Column, Any]:
        """A row of `table` by its name, where that is a single column."""
        if not table.named or len(table.label) != 1:
            raise Unsuitable
        return table.label[0], self.any(table.label[0].values)

    def phrase(self, column: Column, kind: str, default: str) -> str:
        """The column's own phrase of that kind (mostly), or the default."""
        own = column.phrases.get(kind)
        if own is None or self.chance(0.3):
            return self.say(default)
        return self.say(self.any(own) if isinstance(own, list) else own)

    def superlative(self, column: Column, descending: bool) -> tuple[str | None, str]:
        """The column's own adjective or None, and a general form: ('oldest', 'highest age')."""
        own = column.phrases.get("most" if descending else "least")
        own = self.any(own) if isinstance(own, list) else own
        adjective = own if own and self.chance(0.7) else None
        if column.role in ("date", "year"):
            extreme = "[latest|most recent]" if descending else "earliest"
        elif measure(column) != column.words:
            extreme = "[most|highest number of|largest number of]" if descending else "[fewest|lowest number of]"
        else:
            extreme = "[highest|highest|largest|greatest]" if descending else "[lowest|lowest|smallest]"
        return adjective, f"{self.say(extreme)} {column.words}"

    # -- conditions --------------------------------------------------------------------------------------------------

    def condition(self, table: Table, kinds: Sequence[str] = (), besides: Sequence[Column] = ()) -> Condition:
        """A condition on one of the table's columns, of one of `kinds` (all if none are given)."""
        fitting = []
        for kind in kinds or CONDITIONS:
            roles, make = CONDITIONS[kind]
            columns = [c for c in table.of(*roles) if c not in besides and _allows(kind, c)]
            if columns:
                fitting.append((kind, make, columns))
        kind, make, columns = self.any(fitting)
        column = self.any(columns)
        sql, text = make(self, column)
        return Condition(table, column, kind, sql, text, self.adjective(column, kind, sql, text))

    def adjective(self, column: Column, kind: str, sql: str, text: str) -> str | None:
        """The value as an adjective: of columns that are described so, and of flags 'that are active'."""
        if kind == "equal" and column.phrases.get("adjective"):
            return next((v for v in column.values if sql == "{} = " + literal(v)), None)
        word = text.removeprefix("that are ").removeprefix("who are ")
        return word if kind == "flag" and word != text and " " not in word and sql.endswith(("1", "TRUE")) else None


def _allows(kind: str, column: Column) -> bool:
    if kind in ("null", "not_null"):
        return column.nulls > 0
    if kind in ("equal", "not_equal", "either"):
        return len(column.values) > 1
    if kind == "equal_number":
        return len(column.values) > 3 and all(isinstance(v, int) and v < 3000 for v in column.values)
    return len(column.values) > 3 or kind == "flag"


Made = tuple[str, str]


def _equal(p: Picker, c: Column) -> Made:
    value = p.any(c.values)
    if c.role == "year":
        text = p.phrase(c, "where", "[whose {w} is {}|with the {w} {}|with {w} {}]")
    elif c.role == "number":
        text = "[with exactly {} {w}|that have {} {w}]" if _countable(c) else "[whose {w} is {}|with a {w} of {}]"
        text = p.say(text)
    else:
        text = p.phrase(c, "where", "[whose {w} is {}|with the {w} {}|with {w} {}]")
    return "{} = " + literal(value), _fill(c, text, p.value(c, value))


def _not_equal(p: Picker, c: Column) -> Made:
    value = p.any(c.values)
    text = p.say("[whose {w} is not {}|whose {w} is anything but {}|with [a|any] {w} other than {}]")
    return "{} <> " + literal(value), _fill(c, text, p.value(c, value))


def _either(p: Picker, c: Column) -> Made:
    a, b = p.some(c.values, 2)
    text = p.phrase(c, "where", "[whose {w} is {}|whose {w} is either {}|with {w} {}]")
    words = f"{p.value(c, a)} or {p.value(c, b)}"
    return f"{{}} IN ({literal(a)}, {literal(b)})", _fill(c, text, words)


def _like(p: Picker, c: Column) -> Made:
    value = p.any(c.values)
    if "%" in value or "_" in value or not value.isascii():
        raise Unsuitable
    words = [w for w in value.split() if len(w) > 3 and w.isalnum()]
    kind = p.any(["contains", "starts", "ends"])
    if kind == "contains":
        part = p.any(words)
        pattern, text = f"%{part}%", "[whose {w} contains {}|whose {w} includes {}|with {} in their {w}]"
    elif kind == "starts":
        part = value[0] if p.chance(0.5) else value.split()[0]
        pattern, text = f"{part}%", "[whose {w} starts with {}|whose {w} begins with {}]"
        if len(part) == 1:
            text = "[whose {w} starts with [|the letter ]{}|whose {w} begins with [|the letter ]{}]"
    else:
        part = value.split()[-1]
        pattern, text = f"%{part}", "whose {w} ends [with|in] {}"
    mark = p.any(["'", '"'])
    return "{} LIKE " + literal(pattern), _fill(c, p.say(text), f"{mark}{part}{mark}")


def _threshold(p: Picker, c: Column) -> int | float:
    """A round number (or a year) somewhere in the middle of the values."""
    ranked = sorted(c.values)
    value = ranked[int((0.2 + 0.6 * p.rng.random()) * len(ranked))]
    if c.role == "year" or (isinstance(value, int) and abs(value) < 100):
        return value
    digits = 1 - len(str(int(abs(value))))
    rounded = round(value, digits) if abs(value) >= 10 else round(value, 1)
    return whole(rounded)


def whole(number: float) -> int | float:
    """3.0 as 3."""
    return int(number) if number == int(number) else number


def _greater(p: Picker, c: Column) -> Made:
    bound = _threshold(p, c)
    if c.role == "year":
        return f"{{}} > {bound}", _fill(c, p.phrase(c, "more", "[whose {w} is after {}|with a {w} after {}]"), bound)
    if _countable(c):
        text = p.phrase(c, "more", "[with more than {} {w}|that have more than {} {w}|with over {} {w}]")
    else:
        text = p.phrase(
            c,
            "more",
            "[with a {w} [above|over|greater than|higher than|of more than] {}"
            "|whose {w} is [above|over|greater than|more than|higher than] {}]",
        )
    return f"{{}} > {bound}", _fill(c, text, bound)


def _less(p: Picker, c: Column) -> Made:
    bound = _threshold(p, c)
    if c.role == "year":
        return f"{{}} < {bound}", _fill(c, p.phrase(c, "less", "[whose {w} is before {}|with a {w} before {}]"), bound)
    if _countable(c):
        text = p.phrase(c, "less", "[with fewer than {} {w}|that have fewer than {} {w}|with less than {} {w}]")
    else:
        text = p.phrase(
            c,
            "less",
            "[with a {w} [below|under|less than|lower than|of less than] {}"
            "|whose {w} is [below|under|less than|smaller than|lower than] {}]",
        )
    return f"{{}} < {bound}", _fill(c, text, bound)


def _at_least(p: Picker, c: Column) -> Made:
    bound = _threshold(p, c)
    if c.role == "year":
        return f"{{}} >= {bound}", _fill(c, "whose {w} is {} or later", bound)
    text = (
        "[with at least {} {w}|with {} or more {w}]"
        if _countable(c)
        else "[whose {w} is at least {}|with a {w} of at least {}|with a {w} of {} or more]"
    )
    return f"{{}} >= {bound}", _fill(c, p.say(text), bound)


def _at_most(p: Picker, c: Column) -> Made:
    bound = _threshold(p, c)
    if c.role == "year":
        return f"{{}} <= {bound}", _fill(c, "whose {w} is {} or earlier", bound)
    text = (
        "[with at most {} {w}|with no more than {} {w}]"
        if _countable(c)
        else "[whose {w} is at most {}|with a {w} of at most {}|with a {w} of {} or less]"
    )
    return f"{{}} <= {bound}", _fill(c, p.say(text), bound)


def _between(p: Picker, c: Column) -> Made:
    if c.role == "date":
        early, late = sorted((_day(p, c), _day(p, c)))
        text = p.phrase(c, "span", "[whose {w} is between {}|with a {w} between {}]")
        text = _fill(c, text, f"{early} and {late}")
        return f"{{}} BETWEEN '{early}' AND '{late}'", text
    low, high = sorted((_threshold(p, c), _threshold(p, c)))
    if low >= high:
        raise Unsuitable
    if c.phrases.get("span"):
        text = p.phrase(c, "span", "[whose {w} is between {}|with a {w} between {}]")
    elif _countable(c):
        text = "[with between {} {w}|that have between {} {w}]"
    else:
        text = "[with a {w} between {}|whose {w} is between {}|whose {w} lies between {}]"
    return f"{{}} BETWEEN {low} AND {high}", _fill(c, p.say(text), f"{low} and {high}")


def _day(p: Picker, c: Column) -> datetime.date:
    ranked = sorted(c.values)
    return datetime.date.fromisoformat(ranked[int((0.15 + 0.7 * p.rng.random()) * len(ranked))])


def _say_day(p: Picker, day: datetime.date) -> str:
    long = f"{MONTHS[day.month - 1]} {day.day}, {day.year}"
    return day.isoformat() if p.chance(0.6) else long


def _after(p: Picker, c: Column) -> Made:
    day = _day(p, c)
    text = p.phrase(c, "after", "[whose {w} is after {}|with a {w} after {}|with a {w} later than {}]")
    return "{} > " + literal(day.isoformat()), _fill(c, text, _say_day(p, day))


def _before(p: Picker, c: Column) -> Made:
    day = _day(p, c)
    text = p.phrase(c, "before", "[whose {w} is before {}|with a {w} before {}|with a {w} earlier than {}]")
    return "{} < " + literal(day.isoformat()), _fill(c, text, _say_day(p, day))


def _in_year(p: Picker, c: Column) -> Made:
    year = _day(p, c).year
    text = p.phrase(c, "during", "[whose {w} is in {}|with a {w} in {}|whose {w} falls in {}]")
    return f"{{}} BETWEEN '{year}-01-01' AND '{year}-12-31'", _fill(c, text, p.say(f"[|the year ]{year}"))


def _in_month(p: Picker, c: Column) -> Made:
    day = _day(p, c).replace(day=1)
    last = (day + datetime.timedelta(days=31)).replace(day=1) - datetime.timedelta(days=1)
    text = p.phrase(c, "during", "[whose {w} is in {}|with a {w} in {}|whose {w} falls in {}]")
    return f"{{}} BETWEEN '{day}' AND '{last}'", _fill(c, text, f"{MONTHS[day.month - 1]} {day.year}")


def _flag(p: Picker, c: Column) -> Made:
    yes = p.chance(0.5)
    default = f"that are {'' if yes else 'not '}{c.words.removeprefix('is ').removeprefix('has ')}"
    own = c.phrases.get("holds" if yes else "fails", default)
    return "{} = " + literal(yes if True in c.values and isinstance(c.values[0], bool) else int(yes)), p.say(
        p.any(own) if isinstance(own, list) else own
    )


def _null(p: Picker, c: Column) -> Made:
    return "{} IS NULL", _fill(
        c,
        p.phrase(c, "none", "[that have no {w}|without a {w}|whose {w} is [missing|unknown|not known|not recorded]]"),
        "",
    )


def _not_null(p: Picker, c: Column) -> Made:
    return "{} IS NOT NULL", _fill(
        c, p.phrase(c, "some", "[that have a {w}|whose {w} is known|whose {w} is recorded]"), ""
    )


def _countable(c: Column) -> bool:
    """'pages', 'seats': more than 300 pages; against 'price': a price above 300."""
    plain = c.words.endswith("s") and not c.words.endswith(("ss", "us")) and " in " not in c.words
    return bool(c.phrases.get("countable", plain))


def _fill(c: Column, text: str, value: Any) -> str:
    return text.replace("{w}", c.words).replace("{}", str(value))


#: kind -> (roles of columns that it fits, function)
CONDITIONS: dict[str, tuple[tuple[Any, ...], Callable[[Picker, Column], Made]]] = {
    "equal": (("category",), _equal),
    "equal_number": (("year", "number"), _equal),
    "not_equal": (("category",), _not_equal),
    "either": (("category",), _either),
    "like": (("label", "text"), _like),
    "greater": (("number", "year"), _greater),
    "less": (("number", "year"), _less),
    "at_least": (("number", "year"), _at_least),
    "at_most": (("number", "year"), _at_most),
    "between": (("number", "year", "date"), _between),
    "after": (("date",), _after),
    "before": (("date",), _before),
    "in_year": (("date",), _in_year),
    "in_month": (("date",), _in_month),
    "flag": (("flag",), _flag),
    "null": (("category", "number", "year", "date", "text"), _null),
    "not_null": (("category", "number", "year", "date", "text"), _not_null),
}
#: kinds that select one plain group of rows; the rest are for shapes that are about them
SIMPLE = (
    "equal",
    "equal",
    "equal",
    "greater",
    "less",
    "greater",
    "less",
    "at_least",
    "after",
    "before",
    "in_year",
    "flag",
)
