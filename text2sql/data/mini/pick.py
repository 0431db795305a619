"""What shapes draw from a graph: entities, attributes, links and conditions that fit, together with the words for them.

The conditions, and how they are said, stand in conditions.yaml.
"""

from __future__ import annotations

import calendar
import dataclasses
import datetime
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from text2sql.data.mini.english import Item, expand, one_of, plural, verb_of
from text2sql.data.mini.graph import Attribute, Entity, Graph, Link
from text2sql.data.mini.sql_parts import Scope, literal

_FILE = yaml.safe_load(Path(__file__).with_name("conditions.yaml").read_text(encoding="utf-8"))
#: kinds of conditions that select one plain group of rows; the rest are for shapes that are about them
SIMPLE = (*("equal",) * 3, *("greater", "less") * 2, "at_least", "after", "before", "in_year", "flag", "has")


class Unsuitable(Exception):
    """This graph has nothing for what a shape asked for."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on one attribute: `sql` with {} for the column, `text` to stand behind a plural noun.

    `adjective` says it in front of the noun instead, where that is English: 'cancelled' in 'cancelled bookings'.
    """

    entity: Entity
    attribute: Attribute
    sql: str
    text: str
    adjective: str | None = None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attribute that the condition is on."""
        return (self.attribute,)

    @property
    def verb(self) -> str | None:
        """The condition as a predicate, for 'Which huts ...?': 'are in Oslo', 'have a shower'; None for 'whose ..'."""
        if self.text.startswith("whose "):
            return None
        was = self.attribute.role in ("date", "year")
        return verb_of(self.text, "were" if was else "are")

    def within(self, scope: Scope) -> str:
        """The condition as SQL in a scope."""
        return self.sql.replace("{}", scope.col(self.entity, self.attribute) + self.attribute.cast, 1)


def countable(attribute: Attribute) -> bool:
    """'pages', 'seats': more than 300 pages; against 'price': a price above 300."""
    words = attribute.words
    plain = words.endswith("s") and not words.endswith(("ss", "us")) and " in " not in words
    return bool(attribute.phrases.get("countable", plain))


def measure(attribute: Attribute) -> str:
    """What a number is called: 'number of pages', 'price'."""
    return f"number of {attribute.words}" if attribute.role == "number" and countable(attribute) else attribute.words


def whole(number: float) -> int | float:
    """3.0 as 3."""
    return int(number) if number == int(number) else number


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
        return one_of(items, self.rng)

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

    def link(
        self, fits: Callable[[Entity, Entity], Any] = lambda child, parent: True, across: bool = False
    ) -> tuple[Link, Entity, Entity]:
        """An unambiguous link whose parent has a name, with child and parent.

        `across`: the child is only counted, so that a bridge may go by the words of its far side: the missions that
        an astronaut has flown on, not the crew assignments.
        """
        far = {left.child + "." + left.column: right.parent for left, right in self.graph.bridges()}
        fitting = []
        for link in self.graph.plain_links():
            child, parent = self.graph.entities[link.child], self.graph.entities[link.parent]
            if parent.named and parent.rows > 3 and fits(child, parent):
                fitting.append((link, child, parent))
        link, child, parent = self.any(fitting)
        if other := far.get(f"{link.child}.{link.column}"):
            if across:
                there = self.graph.entities[other]
                child = dataclasses.replace(child, noun=there.noun, nouns=there.nouns)
            else:
                link = dataclasses.replace(link, have="have", did=None, never=None)
        return link, child, parent

    def shown(self, entity: Entity, n: int, besides: Sequence[Attribute] = ()) -> list[Attribute]:
        """`n` attributes worth showing, the name among them most of the time."""
        others = [c for c in entity.of("category", "number", "year", "date", "text") if c not in besides]
        if entity.named and self.chance(0.75):
            label = list(entity.label)
            return label + self.some(others, n - 1) if n > 1 else label
        return self.some(others, n)

    # -- words -------------------------------------------------------------------------------------------------------

    def spoken(self, attributes: Sequence[Attribute], many: bool = True) -> str:
        """The attributes' words, joined by commas and 'and', in the plural if `many`."""
        words = [measure(c) for c in attributes]
        if len(words) == 1 and words[0].endswith(" id"):
            words = ["id"]
        if words[:2] == ["first name", "last name"]:
            words[:2] = self.any([["first and last name"], ["full name"], ["first name", "last name"]])
        out = [plural(w) for w in words] if many else words
        return out[0] if len(out) == 1 else f"{', '.join(out[:-1])} and {out[-1]}"

    def value(self, attribute: Attribute, value: Any) -> str:
        """A value in a sentence: titles mostly in quotes, categories mostly without."""
        if not isinstance(value, str) or attribute.role == "date":
            return str(value)
        marked = self.chance(0.55 if attribute.role in ("label", "text") else 0.25)
        mark = '"' if "'" in value or self.chance(0.4) else "'"
        return f"{mark}{value}{mark}" if marked else value

    def phrase(self, attribute: Attribute, kind: str | None, default: str) -> str:
        """The attribute's own phrase of that kind (mostly), or the default."""
        own = attribute.phrases.get(kind) if kind else None
        if own is None or self.chance(0.3):
            return self.say(default)
        return self.say(self.any(own) if isinstance(own, list) else own)

    def date_part(self, part: str) -> str:
        """SQL around a date column, {}: its year, the first day of its month, the number of its month, or its span."""
        return _FILE["parts"][part][self.graph.dialect]

    def superlative(self, attribute: Attribute, descending: bool) -> tuple[str | None, str]:
        """The attribute's own adjective or None, and a general form: ('oldest', 'highest age')."""
        own = attribute.phrases.get("most" if descending else "least")
        own = self.any(own) if isinstance(own, list) else own
        adjective = own if own and self.chance(0.7) else None
        is_time, is_count = attribute.role in ("date", "year"), measure(attribute) != attribute.words
        extremes = _FILE["extremes"]["time" if is_time else "count" if is_count else "number"]
        return adjective, f"{self.say(extremes[not descending])} {attribute.words}"

    # -- conditions --------------------------------------------------------------------------------------------------

    def condition(self, entity: Entity, kinds: Sequence[str], besides: Sequence[Attribute] = ()) -> Condition:
        """A condition on one of the entity's attributes, of one of `kinds`."""
        fitting = []
        for kind in kinds:
            roles = _FILE["conditions"][kind]["roles"]
            if attributes := [c for c in entity.of(*roles) if c not in besides and _allows(kind, c)]:
                fitting.append((kind, attributes))
        kind, attributes = self.any(fitting)
        attribute = self.any(attributes)
        sql, text = self._flag(attribute) if kind == "flag" else self._compared(kind, attribute)
        return Condition(entity, attribute, sql, text, _adjective(attribute, kind, sql, text))

    def _compared(self, kind: str, attribute: Attribute) -> tuple[str, str]:
        """A condition of conditions.yaml: the value is drawn first, then the text, then how the value is said."""
        spec = _FILE["conditions"][kind]
        operand, form, say_value = getattr(self, f"_{spec['draw']}")(attribute)
        text = spec.get(form) or spec["text"]
        if isinstance(text, dict) and "unless" in text:  # a default of its own where the attribute has a phrase
            text = text["say"] if attribute.phrases.get(text["phrase"]) else text["unless"]
        if isinstance(text, dict):
            text = self.phrase(attribute, text["phrase"], text["say"])
        text = self.say(text).replace("{w}", attribute.words)
        column = self.date_part(spec["part"]) if "part" in spec else "{}"
        sql = spec.get("sql", f"{column} {spec.get('operator')} {{value}}").replace("{value}", operand)
        return sql.rstrip(), text.replace("{}", say_value())

    def _flag(self, attribute: Attribute) -> tuple[str, str]:
        yes = self.chance(0.5)
        said = attribute.words.removeprefix("is ").removeprefix("has ")
        own = attribute.phrases.get("holds" if yes else "fails", f"that are {'' if yes else 'not '}{said}")
        value = yes if True in attribute.values and isinstance(attribute.values[0], bool) else int(yes)
        return "{} = " + literal(value), self.say(self.any(own) if isinstance(own, list) else own)

    # Each of these draws a value; returns it as SQL, the form of the text that fits, and how the value is said.

    def _nothing(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        return "", "text", lambda: ""

    def _one(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        value = self.any(attribute.values)
        return literal(value), self._form(attribute), lambda: self.value(attribute, value)

    def _two(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        a, b = self.some(attribute.values, 2)
        said = lambda: f"{self.value(attribute, a)} or {self.value(attribute, b)}"  # noqa: E731
        return f"({literal(a)}, {literal(b)})", "text", said

    def _pattern(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        value = self.any(attribute.values)
        if "%" in value or "_" in value or not value.isascii():
            raise Unsuitable
        words = [w for w in value.split() if len(w) > 3 and w.isalnum()]
        form = self.any(["contains", "starts", "ends"])
        if form == "contains":
            part = self.any(words)
            pattern = f"%{part}%"
        elif form == "starts":
            part = value[0] if self.chance(0.5) else value.split()[0]
            pattern, form = f"{part}%", "starts" if len(part) > 1 else "starts_with_letter"
        else:
            part = value.split()[-1]
            pattern = f"%{part}"
        mark = self.any(["'", '"'])
        return literal(pattern), form, lambda: f"{mark}{part}{mark}"

    def _threshold(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        bound = self._bound(attribute)
        return str(bound), self._form(attribute), lambda: str(bound)

    def _between(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        if attribute.role == "date":
            early, late = sorted((self._day(attribute), self._day(attribute)))
            return f"'{early}' AND '{late}'", "date", lambda: f"{early} and {late}"
        low, high = sorted((self._bound(attribute), self._bound(attribute)))
        if low >= high:
            raise Unsuitable
        return f"{low} AND {high}", "countable" if countable(attribute) else "text", lambda: f"{low} and {high}"

    def _date(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        day = self._day(attribute)
        long = f"{_FILE['months'][day.month - 1]} {day.day}, {day.year}"
        return literal(day.isoformat()), "text", lambda: day.isoformat() if self.chance(0.6) else long

    def _year(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        year = self._day(attribute).year
        return f"'{year:04}-01-01' AND '{year:04}-12-31'", "text", lambda: self.say(f"[|the year ]{year}")

    def _month(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        day = self._day(attribute).replace(day=1)
        last = day.replace(day=calendar.monthrange(day.year, day.month)[1])
        return f"'{day}' AND '{last}'", "text", lambda: f"{_FILE['months'][day.month - 1]} {day.year}"

    def _month_number(self, attribute: Attribute) -> tuple[str, str, Callable[[], str]]:
        month = self._day(attribute).month
        name = _FILE["months"][month - 1]
        return str(month), "text", lambda: f"{name} {self.say('[of any year|of whatever year|of all years]')}"

    def _form(self, attribute: Attribute) -> str:
        if attribute.role == "number":
            return "countable" if countable(attribute) else "number"
        return attribute.role

    def _bound(self, attribute: Attribute) -> int | float:
        """A round number (or a year) somewhere in the middle of the values."""
        ranked = sorted(attribute.values)
        value = ranked[int((0.2 + 0.6 * self.rng.random()) * len(ranked))]
        if attribute.role == "year" or (isinstance(value, int) and abs(value) < 100):
            return value
        digits = 1 - len(str(int(abs(value))))
        return whole(round(value, digits) if abs(value) >= 10 else round(value, 1))

    def _day(self, attribute: Attribute) -> datetime.date:
        ranked = sorted(attribute.values)
        return datetime.date.fromisoformat(ranked[int((0.15 + 0.7 * self.rng.random()) * len(ranked))])


def _adjective(attribute: Attribute, kind: str, sql: str, text: str) -> str | None:
    """The value as an adjective: of attributes that are described so, and of flags 'that are active'."""
    if kind == "equal" and attribute.phrases.get("adjective"):
        return next((v for v in attribute.values if sql == "{} = " + literal(v)), None)
    word = text.removeprefix("that are ").removeprefix("who are ")
    return word if kind == "flag" and word != text and " " not in word and sql.endswith(("1", "TRUE")) else None


def _allows(kind: str, attribute: Attribute) -> bool:
    values = attribute.values
    if kind in ("null", "not_null"):
        return attribute.nulls > 0
    if kind in ("equal", "not_equal", "either"):
        return len(values) > 1
    if kind == "equal_number":
        return len(values) > 3 and all(isinstance(v, int) and v < 3000 for v in values)
    return len(values) > 3 or kind == "flag"
