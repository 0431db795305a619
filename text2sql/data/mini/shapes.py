"""SQL shapes: shapes.yaml says what each of them draws from a graph, its SQL and its phrasings; this module binds them.

One meaning has one SQL: "at least one" is always IN, a superlative is always ORDER BY .. LIMIT, a category in words is
always equality, so that a small model is never taught two answers to one question.

An entry of shapes.yaml is carried out by a `Sketch`: each step of `draw` is a method of Sketch, called with the words
behind its name; what it returns is kept under the step's name, and its SQL is put in for {name} in `sql`. The steps of
`words` choose words for the phrasings, those of `also` when the entity's own words are there already. `build` is a step
that makes the query, where no template can say it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from text2sql.data.mini.english import article, plural, third_person, verb_of
from text2sql.data.mini.graph import Attribute, Entity, Link
from text2sql.data.mini.pick import SIMPLE, Condition, Picker, Unsuitable, measure, whole
from text2sql.data.mini.sql_parts import Compound, Query, Scope, SelectParts, join, literal, quoted
from text2sql.files import read_beside

Hardness = Literal["easy", "medium", "hard", "extra"]
_FILE = read_beside(__file__)
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
#: words of categories that people say "in" of: in each city, but for each status
_PLACES = set(_FILE["places"].split())


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape: `phrasings` say it, `weight` is how often it is asked against the others, `spec` its entry."""

    name: str
    hardness: Hardness
    phrasings: tuple[str, ...]
    weight: float
    spec: Mapping[str, Any]

    def make(self, picker: Picker) -> tuple[Query, dict[str, Any]]:
        """A query of this shape, and the words for its phrasings.

        Raises:
            Unsuitable: the graph has nothing for it, or this draw did not work out.
        """
        sketch = Sketch(picker)
        sketch.take(self.spec.get("draw", {}))
        query = sketch.step(self.spec["build"]) if "build" in self.spec else sketch.query(self.spec["sql"])
        sketch.take(self.spec.get("words", {}))
        words = sketch.entity_words()
        sketch.take(self.spec.get("also", {}))
        return query, words | sketch.words


@dataclasses.dataclass(frozen=True)
class Columns:
    """Attributes of an entity, and the SQL around them: '{}' or 'AVG({})'."""

    entity: Entity
    attributes: tuple[Attribute, ...]
    form: str = "{}"
    separator: str = ", "

    def within(self, scope: Scope) -> str:
        """The columns as SQL in a scope."""
        return self.separator.join(self.form.replace("{}", scope.col(self.entity, c)) for c in self.attributes)


class Direction(NamedTuple):
    """Up or down: the `sign` of comparisons, and the `order` of ORDER BY."""

    up: bool
    sign: str
    order: str


UP, DOWN = Direction(True, ">", "DESC"), Direction(False, "<", "")
#: kinds of two conditions on one column that no row meets both
OPPOSED = (
    ("equal", "equal"),
    ("greater", "less"),
    ("less", "greater"),
    ("flag", "flag"),
    ("after", "before"),
    ("in_year", "in_year"),
)


@dataclasses.dataclass(frozen=True)
class EntityInScope:
    """An entity in a template: {t} is its name, {t.label} the columns that name a row, {t.key} its key."""

    entity: Entity
    scope: Scope

    def __str__(self) -> str:
        return quoted(self.entity.name)

    @property
    def label(self) -> str:
        return Columns(self.entity, self.entity.label).within(self.scope)

    @property
    def key(self) -> str:
        """The primary key for GROUP BY: rows of one name stay apart."""
        if len(self.entity.key) != 1:
            raise Unsuitable
        return self.scope.col(self.entity, self.entity.key[0])


class Sketch:
    """One draw of a shape: `slots` are what was drawn, by name; `words` are what phrasings may use."""

    def __init__(self, picker: Picker) -> None:
        self.p = picker
        self.slots: dict[str, Any] = {}
        self.words: dict[str, Any] = {}
        self.links: tuple[Link, ...] = ()

    def take(self, steps: Mapping[str, str | list[Any]]) -> None:
        """Carry out steps, `name: method argument ...`, in their order; an argument that names a slot stands for it."""
        for name, step in steps.items():
            outcome = self.step(step)
            if isinstance(outcome, dict):
                self.words |= outcome
            elif isinstance(outcome, str | None):
                self.words[name] = outcome
            else:
                self.slots[name] = outcome
            if isinstance(outcome, Condition):
                self.words[name] = outcome.text

    def step(self, step: str | list[Any]) -> Any:
        """What a step makes: a slot, a word, several words, or a query."""
        method, *arguments = step.split() if isinstance(step, str) else step
        return getattr(self, method)(*(self.slots.get(a, a) if isinstance(a, str) else a for a in arguments))

    def query(self, sql: Mapping[str, Any]) -> SelectParts:
        """The query of a template; `from` names the joined entities (default: t)."""
        entities = [self.slots[name] for name in sql.get("from", "t").split()]
        scope = join(entities, self.links)
        slots = {name: _in_scope(slot, scope) for name, slot in self.slots.items()} | {
            name: word for name, word in self.words.items() if name not in self.slots
        }
        where = sql.get("where", [])
        order = str(sql.get("order", "")).format_map(slots).strip()
        return SelectParts(
            columns=(sql["select"].format_map(slots),),
            source=scope.text.replace(" JOIN ", " LEFT JOIN ") if sql.get("left") else scope.text,
            where=tuple(part.format_map(slots) for part in ([where] if isinstance(where, str) else where)),
            group=sql.get("group", "").format_map(slots),
            having=sql.get("having", "").format_map(slots),
            order=order.removesuffix(" DESC"),
            descending=order.endswith(" DESC"),
            limit=int(str(sql.get("limit", 0)).format_map(slots)),
            distinct=sql.get("distinct", False),
        )

    # -- entities and links ------------------------------------------------------------------------------------------

    def table(self, needs: str = "") -> Entity:
        """An entity with rows to ask about; `named`: they have names, `amounts`: it has two columns to multiply."""
        entities = [e for e in self.p.graph.entities.values() if e.rows > 3 and (not needs or getattr(e, needs))]
        if needs != "named":  # things are asked about more than events
            entities += [e for e in entities if e.named]
        return self.p.any(entities)

    def link(self, needs: str = "") -> Link:
        """A link with the slots kid and parent; `across`: see Picker.link, `amounts`: of the kid."""
        link, kid, parent = self.p.link(lambda kid, _: kid.amounts if needs == "amounts" else True, needs == "across")
        self.slots |= {"kid": kid, "parent": parent}
        self.links = (link,)
        return link

    def chain(self) -> Link:
        """Three entities along two links: the slots kid, mid and parent."""
        upper, mid, parent = self.p.link()
        graph = self.p.graph
        lower = self.p.any([one for one in graph.plain_links() if one.parent == mid.name and one.child != parent.name])
        kid = graph.entities[lower.child]
        if any({one.child, one.parent} == {kid.name, parent.name} for one in graph.links):
            raise Unsuitable  # a direct link as well: "orders of a city" would be ambiguous
        self.slots |= {"kid": kid, "mid": mid, "parent": parent}
        self.links = (lower, upper)
        return upper

    def bridge(self) -> Link:
        """The entities on both sides of a bridge: the slots parent, kid (the bridge) and far."""
        left, right = self.p.any(list(self.p.graph.bridges()))
        entities = self.p.graph.entities
        self.slots |= {"parent": entities[left.parent], "kid": entities[left.child], "far": entities[right.parent]}
        self.links = (left, right)
        self.words["other"] = entities[right.parent].noun
        return left

    # -- columns -----------------------------------------------------------------------------------------------------

    def column(self, entity: Entity, *roles: str) -> Columns:
        """A column in one of these roles, with the words {col}, {cols} and {an_col}."""
        c = self.p.any(entity.of(*roles))
        self.words |= {"col": measure(c), "cols": plural(c.words), "an_col": article(measure(c))}
        return Columns(entity, (c,))

    def shown(self, entity: Entity, *rest: Any) -> Columns:
        """Columns worth showing: `shown t 2 2 3 besides if` is two (mostly) or three, but not that of the condition."""
        counts, besides = _besides(rest)
        return Columns(entity, tuple(self.p.shown(entity, self._one_of(counts), besides)))

    def list_of(self, entity: Entity) -> Columns:
        """A column whose values may be listed: not a category, whose values repeat."""
        columns = self.shown(entity, "1")
        if columns.attributes[0].role == "category":
            raise Unsuitable
        return columns

    def label_or_shown(self, entity: Entity, share: str, *rest: Any) -> Columns:
        """The name with that probability, else columns worth showing."""
        counts, besides = _besides(rest)
        n = self._one_of(counts)
        label = entity.named and n == 1 and self.p.chance(float(share))
        return Columns(entity, entity.label if label else tuple(self.p.shown(entity, n, besides)))

    def shown_or_label(self, entity: Entity, share: str, *rest: Any) -> Columns:
        """One column worth showing with that probability, else the name or key."""
        return self.shown(entity, "1", *rest) if self.p.chance(float(share)) else Columns(entity, entity.label)

    def label_and(self, entity: Entity, *roles: str) -> Columns:
        """The name and a column in one of these roles."""
        return Columns(entity, (*entity.label, self.p.any(entity.of(*roles))))

    def perhaps_label_and(self, entity: Entity, *roles: str) -> Columns:
        """A column in one of these roles, half of the time behind the name."""
        both = entity.named and self.p.chance(0.5)
        columns = self.label_and(entity, *roles)
        return columns if both else Columns(entity, columns.attributes[-1:])

    def label_or(self, entity: Entity, *roles: str) -> Columns:
        """The name; where there is none, a column in one of these roles."""
        return Columns(entity, entity.label if entity.named else (self.p.any(entity.of(*roles)),))

    def label_or_figure(self, entity: Entity, share: str, *roles: str) -> Columns:
        """A column in one of these roles with that probability, said as {label}; else the name."""
        if not self.p.chance(float(share)):
            return Columns(entity, entity.label)
        c = self.p.any(entity.of(*roles))
        self.words["label"] = measure(c)
        return Columns(entity, (c,))

    def count_or_label(self, entity: Entity, share: str) -> Columns:
        """COUNT(*) with that probability, else the name; no attributes are those of a count."""
        return Columns(entity, () if self.p.chance(float(share)) else entity.label)

    def aggregate(self, entity: Entity, *functions: str) -> Columns:
        """An aggregate of a number, with the words {agg} ('average price') and {an_agg}."""
        function = self.p.any(functions or ("AVG", "AVG", "SUM", "SUM", "MIN", "MAX"))
        # without NULLs, of which engines disagree where they sort
        c = self.p.any([c for c in entity.of("number") if not c.nulls and (c.additive or function != "SUM")])
        said = measure(c)
        if function == "SUM" and said.startswith("number of ") and self.p.chance(0.5):
            said = c.words
        self.words["agg"] = f"{self.p.say(_FILE['aggregates'][function])} {said}"
        self.words["an_agg"] = article(self.words["agg"])
        return Columns(entity, (c,), f"{function}({{}})")

    def aggregates(self, entity: Entity) -> Columns:
        """Several aggregates of one number, with the words {aggs}."""
        c = self.p.any(entity.of("number"))
        functions = self.p.any([("MIN", "MAX"), ("MAX", "MIN"), ("AVG", "MAX"), ("MIN", "AVG", "MAX"), ("AVG", "MIN")])
        said = [self.p.say(_FILE["aggregates"][function]) for function in functions]
        self.words["aggs"] = f"{', '.join(said[:-1])} and {said[-1]} {measure(c)}"
        return Columns(entity, (c,), ", ".join(f"{function}({{}})" for function in functions))

    def date_part(self, entity: Entity, *parts: str) -> Columns:
        """The year or month of a date, of which there are several, with the words {part} ('month') and {of_date}."""
        part = self.p.any(parts)
        c = self.p.any([c for c in entity.of("date") if not c.nulls])
        if len({value[: len("2026-01") if part == "month" else len("2026")] for value in c.values}) < 2:
            raise Unsuitable
        alone = len(entity.of("date", "year")) == 1 and self.p.chance(0.5)
        self.words |= {"part": part, "of_date": "" if alone else f" of the {c.words}"}
        return Columns(entity, (c,), self.p.date_part(part))

    def called(self, word: str, entity: Entity, role: str, *rest: Any) -> Columns:
        """A column in this role, with its words as {word}: `called first t number`; `total`: a number that adds up."""
        _, besides = _besides(rest)
        columns = [c for c in entity.of("number") if c.additive] if role == "total" else entity.of(role)
        c = self.p.any([c for c in columns if c not in besides and not c.nulls])
        self.words[word] = measure(c)
        return Columns(entity, (c,))

    def two_dates(self, entity: Entity) -> Columns:
        """The later of two dates, the slot x for the earlier one, with the words {early} and {late}."""
        early, late = sorted(self.p.some(entity.of("date"), 2), key=lambda c: (min(c.values), max(c.values)))
        form = self.p.date_part("day")
        self.slots["x"] = Columns(entity, (early,), form.replace("{}", f"{{}}{early.cast}"))
        self.words |= {"early": early.words, "late": late.words}
        return Columns(entity, (late,), form.replace("{}", f"{{}}{late.cast}"))

    def date_span(self, entity: Entity) -> Columns:
        """The days between the first and the last date of a column, with the words {col}."""
        c = self.p.any([c for c in entity.of("date") if len(c.values) > 1])
        self.words["col"] = c.words
        return Columns(entity, (c,), self.p.date_part("span").replace("{}", f"{{}}{c.cast}"))

    def amount(self, entity: Entity) -> Columns:
        """The product of two columns that the description names, with the words {amount}, {first} and {second}."""
        words, x, y = self.p.any(entity.amounts)
        self.words |= {"amount": words, "first": x.words, "second": y.words}
        return Columns(entity, (x, y), separator=" * ")

    def ordering(self, entity: Entity, *besides: Any) -> Columns:
        """A column to sort by, DESC or not; not one of those `besides`."""
        numbers = entity.of("number", "year")  # without NULLs, of which engines disagree whether they come first
        c = self.p.any([c for c in (*numbers, *numbers, *entity.of("date")) if not c.nulls])
        descending = self.p.chance(0.6)
        if any(c in slot.attributes for slot in besides):
            raise Unsuitable
        return Columns(entity, (c,), "{} DESC" if descending else "{}")

    # -- conditions and numbers --------------------------------------------------------------------------------------

    def condition(self, entity: Entity, *rest: Any) -> Condition:
        """A condition of one of these kinds (default: SIMPLE); `condition t besides c` is on another column than c."""
        kinds, besides = _besides(rest)
        kinds = tuple(k for kind in kinds for k in (SIMPLE if kind == "SIMPLE" else (kind,))) or SIMPLE
        return self.p.condition(entity, kinds, besides)

    def opposed(self, entity: Entity, *rest: Any) -> Condition:
        """A condition, and the slot second for one on the same column that no row meets as well: Asia and Africa."""
        one, other = self.p.any(OPPOSED)
        first = self.p.condition(entity, (one,), _besides(rest)[1])
        second = self.p.condition(entity, (other,), [c for c in entity.columns if c != first.attribute])
        if first.sql == second.sql or _overlap(first, second):
            raise Unsuitable
        self.slots["second"], self.words["second"] = second, second.text
        return first

    def name_of(self, entity: Entity) -> Condition:
        """A row by its name, as a condition on it, with the word {name}, as which every shape draws it."""
        if not entity.named or len(entity.label) != 1:
            raise Unsuitable
        value = self.p.any(entity.label[0].values)
        return Condition(entity, entity.label[0], "{} = " + literal(value), self.p.value(entity.label[0], value))

    def any(self, *numbers: str) -> int:
        """One of these numbers."""
        return int(self.p.any(numbers))

    def direction(self, share: str) -> Direction:
        """Up with that probability."""
        return UP if self.p.chance(float(share)) else DOWN

    def upwards(self) -> Direction:
        """Up."""
        return UP

    def every_parent_or_up(self, share: str) -> Direction:
        """As `direction`, but up where some parent has no children: those with the fewest are those with none."""
        link, kid, parent = self.links[0], self.slots["kid"], self.slots["parent"]
        up = self.p.chance(float(share))
        keys = next(c for c in kid.columns if c.name == link.column).values
        return UP if up or len(keys) != parent.rows else DOWN

    def at_least(self, entity: Entity, *only: str) -> dict[str, str]:
        """A bound on COUNT(*), {bound}, and its words, {over}: '> 2', 'more than two books'.

        `at_least kid not_fewer` leaves out "fewer than", which would take in parents that an inner join leaves out.
        """
        n = self.p.any([1, 2, 2, 3, 3, 4, 5])
        if self.p.chance(0.6):
            over = f"more than {self.spell(n)} {entity.noun if n == 1 else entity.nouns}"
            return {"bound": f"> {n}", "over": over}
        if self.p.chance(0.2):
            over = f"fewer than {self.spell(n + 1)} {entity.nouns}"
            if only:
                raise Unsuitable
            return {"bound": f"< {n + 1}", "over": over}
        said = [f"at least {self.spell(n + 1)} {entity.nouns}", f"{self.spell(n + 1)} or more {entity.nouns}"]
        return {"bound": f">= {n + 1}", "over": self.p.any(said)}

    def middle(self, aggregate: Columns) -> str:
        """A round bound for an aggregate over a few rows (over a parent's children)."""
        rows = max(1, self.slots["kid"].rows // self.slots["parent"].rows) if self.links else 4
        values, is_sum = aggregate.attributes[0].values, aggregate.form.startswith("SUM")
        mean = sum(values) / len(values) * (0.85 + 0.3 * self.p.rng.random()) * (rows if is_sum else 1)
        if abs(mean) < 10:
            return str(max(1, round(mean)) if is_sum else whole(round(mean, 1)))
        return str(round(mean, 1 - len(str(int(abs(mean))))).__trunc__())

    def among(self, operator: str, condition: Condition | None = None) -> str:
        """A parent's key IN or NOT IN its children's foreign keys."""
        return _among(operator, self.links[0], self.slots["kid"], condition)

    def exists(self, condition: Condition) -> str:
        """[NOT] EXISTS children that meet a condition, with the word {no}."""
        no = "" if self.p.chance(0.6) else "no "
        scope = join([self.slots["kid"], self.slots["parent"]], self.links)
        inner = SelectParts(("1",), quoted(self.slots["kid"].name), (scope.joins[0], condition.within(scope)))
        self.words["no"] = no
        return f"{'NOT ' if no else ''}EXISTS ({inner})"

    # -- queries that no template can say ------------------------------------------------------------------------------

    def two_sided(self, operator: str) -> Query:
        """A category under two conditions on another column of its entity, combined by a set operator."""
        entity, c = self.slots["t"], self.slots["c"]
        kinds = self.p.any([("equal", "equal"), ("greater", "less"), ("less", "greater")])
        first = self.p.condition(entity, kinds[:1], c.attributes)
        second = self.p.condition(entity, kinds[1:], [one for one in entity.columns if one != first.attribute])
        if first.sql == second.sql:
            raise Unsuitable
        self.words |= {"first": first.text, "second": second.text}
        scope = Scope((entity,))
        left, right = (SelectParts((c.within(scope),), scope.text, (side.within(scope),)) for side in (first, second))
        return Compound(operator, left, right)

    def both(self, operator: str) -> Query:
        """Parents with children of one kind and (INTERSECT) or but not (EXCEPT) of another."""
        kid, parent = self.slots["kid"], self.slots["parent"]
        c = self.p.any(kid.of("category"))
        scope = join([parent, kid], self.links)
        values = self.p.some(c.values, 2)
        label = EntityInScope(parent, scope).label
        left, right = (SelectParts((label,), scope.text, (f"{scope.col(kid, c)} = {literal(v)}",)) for v in values)
        where = self.p.phrase(c, "where", "[whose {w} is {}|with the {w} {}|with {w} {}]").replace("{w}", c.words)
        self.words["first"], self.words["second"] = (where.replace("{}", self.p.value(c, v)) for v in values)
        if c.phrases.get("adjective"):
            self.words["one"], self.words["two"] = values
        return Compound(operator, left, right)

    def union(self) -> Query:
        """The values of like columns of two entities: names of people, or categories with common values."""
        t, u = self.slots["t"], self.slots["u"]
        people = t.who == u.who == "who" and len(t.label) == len(u.label) == 1
        roles = ("category", "label") if people else ("category",)
        alike = [
            (c, d)
            for c in t.of(*roles)
            for d in u.of(*roles)
            if c.role == d.role and (c.role == "label" or len(set(c.values) & set(d.values)) > 1)
        ]
        if t == u:
            raise Unsuitable
        c, d = self.p.any(alike)
        self.words |= {"cols": plural(c.words), "cols2": plural(d.words), "things2": u.nouns}
        left, right = (SelectParts((quoted(c.name),), quoted(entity.name)) for entity, c in ((t, c), (u, d)))
        return Compound("UNION", left, right)

    def with_and_without(self) -> Query:
        """Parents that have children under a condition, and none of another entity."""
        kid, parent = self.slots["kid"], self.slots["parent"]
        other_link, other, _ = self.p.link(lambda other, same: same == parent and other != kid)
        have, lack = self.p.condition(kid, SIMPLE), self.p.condition(other, SIMPLE) if self.p.chance(0.5) else None
        where = (_among("IN", self.links[0], kid, have), _among("NOT IN", other_link, other, lack))
        self.words |= self.kids_where(have) | {"others": other.nouns, "other_where": "", "other_have": other_link.have}
        if lack:
            lacked = self.kids_where(lack)
            self.words |= {"others": lacked.get("kids", other.nouns), "other_where": lacked["kid_where"]}
        scope = Scope((parent,))
        return SelectParts((EntityInScope(parent, scope).label,), scope.text, where)

    def average_count(self) -> Query:
        """The average number of children of those parents that have some."""
        return self.over_counts("AVG(n)")

    def ratio_by_count(self, n: int) -> Query:
        """Parents with `n` children or more to those with fewer, of those that have some."""
        many, few = (f"SUM(CASE WHEN n {sign} {n} THEN 1 ELSE 0 END)" for sign in (">=", "<"))
        query = self.over_counts(f"1.0 * {many} / NULLIF({few}, 0)")
        self.words["n"] = self.spell(n)
        return query

    def over_counts(self, figure: str) -> Query:
        """A figure over `n`, the number of children of each parent that has some."""
        link = self.links[0]
        if link.nullable:
            raise Unsuitable
        inner = SelectParts(("COUNT(*) AS n",), quoted(self.slots["kid"].name), group=quoted(link.column))
        return SelectParts((figure,), f"({inner}) AS counts")

    def self_join(self) -> Query:
        """Rows of an entity with the row of the same entity that they refer to."""
        link = self.p.any([link for link in self.p.graph.links if link.child == link.parent])
        entity = self.slots["t"] = self.p.graph.entities[link.child]
        name = quoted(entity.name)
        self.words["role"] = link.role
        source = f"{name} AS t1 JOIN {name} AS t2 ON t1.{quoted(link.column)} = t2.{quoted(link.parent_column)}"
        return SelectParts(tuple(f"{side}.{quoted(c.name)}" for side in ("t1", "t2") for c in entity.label), source)

    # -- words -------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> str:
        """One choice of each [a|b]."""
        return self.p.say(text)

    def choose(self, direction: Direction, up: str | None, down: str | None) -> str | None:
        """The text for that direction."""
        text = up if direction.up else down
        return text and self.p.say(text)

    def spell(self, n: int | str) -> str:
        """A small number in words or digits."""
        n = int(n)
        return _DIGITS[n] if n <= 10 and self.p.chance(0.4) else str(n)

    def many(self, what: Columns | Entity, plurals: bool = True) -> str | None:
        """What columns, or the label of an entity, are called, in the plural."""
        attributes = what.label if isinstance(what, Entity) else what.attributes
        return self.p.spoken(attributes, plurals) if attributes else None

    def one(self, what: Columns | Entity) -> str | None:
        """What columns, or the label of an entity, are called, in the singular."""
        return self.many(what, plurals=False)

    def naming(self, columns: Columns, loosely: str = "") -> dict[str, str | None]:
        """Which phrasings ask for these columns: 'Which huts ..?' asks for names, with `loosely` for others as well."""
        label = columns.entity.label
        if label[0] in columns.attributes if loosely else columns.attributes == label:
            return {"shown": ""}
        return {"which": None, "did": None}

    def counted(self, columns: Columns) -> dict[str, str | None]:
        """Which phrasings fit a count, and which a list."""
        return {"shown": ""} if columns.attributes else {"counted": "", "labels": None}

    def sorted_by(self, ordering: Columns) -> str:
        """'sorted by price from highest to lowest'."""
        c, descending = ordering.attributes[0], ordering.form.endswith("DESC")
        ways = _FILE["orders"]["time" if c.role in ("date", "year") else "number"]
        return self.p.say(f"[sorted|ordered|ranked|sorted] by [|their ]{measure(c)} {ways[not descending]}").strip()

    def best(self, ordering: Columns) -> dict[str, str]:
        """The words for the top rows by a column: 'oldest member', 'is the oldest', or 'has the highest age'."""
        noun, nouns = ordering.entity.noun, ordering.entity.nouns
        adjective, measured = self.p.superlative(ordering.attributes[0], ordering.form.endswith("DESC"))
        if adjective:
            verbs = {"is_best": f"is the {adjective}", "are_best": f"are the {adjective}"}
            return {"best": f"{adjective} {noun}", "bests": f"{adjective} {nouns}", **verbs}
        words = {"best": f"{noun} with the {measured}", "bests": f"{nouns} with the {measured}"}
        return {**words, "is_best": f"has the {measured}", "are_best": f"have the {measured}"}

    def grouping(self, columns: Columns) -> dict[str, str]:
        """The words for a category: 'each genre', 'in each region'."""
        place = columns.attributes[0].words.split()[-1] in _PLACES
        return {"each": self.p.say("in each" if place else "[for each|of each|per]")}

    def kids_where(self, condition: Condition) -> dict[str, str]:
        """The words for children under a condition: 'books longer than 300 pages', 'cancelled bookings'."""
        kid = condition.entity
        if condition.adjective and self.p.chance(0.6):
            one = f"{condition.adjective} {kid.noun}"
            many = f"{condition.adjective} {kid.nouns}"
            return {"kid": one, "kids": many, "a_kid": article(one), "kid_where": ""}
        return {"kid_where": condition.text}

    def of_kids(self, aggregate: Columns) -> str:
        """' of its books', or nothing where the column is the child's alone and people would leave it out."""
        words = set(aggregate.attributes[0].words.split())
        alone = not any(words & set(c.words.split()) for c in self.slots["parent"].of("number", "year"))
        return "" if alone and self.p.chance(0.4) else f" of {aggregate.entity.nouns}"

    def comparison(self, columns: Columns, direction: Direction, to: str) -> dict[str, str | None]:
        """The column's own phrase with something else than a number in it: 'that cost more than the average'."""
        c = columns.attributes[0]
        to = self.p.say(to.format_map({**self.words, "noun": columns.entity.noun, "measure": measure(c)}))
        own = c.phrases.get("more" if direction.up else "less")
        own = next((o for o in (own if isinstance(own, list) else [own]) if o and o.endswith("{}")), None)
        own = own and own.replace("{}", to)
        return {"own": own, "own_which": own and verb_of(own)}

    def entity_words(self) -> dict[str, Any]:
        """The words about the entity that is asked for, and about its children where there are any."""
        words: dict[str, Any] = {}
        entity = self.slots["parent"] if self.links else self.slots["t"]
        if self.links:
            words = self._family(entity)
        slots = [slot for name, slot in self.slots.items() if name != "name"]  # a row's name does not describe it
        conditions = [c for c in slots if isinstance(c, Condition) and c.entity is entity]
        words |= {"thing": entity.noun, "things": entity.nouns, "who": entity.who}
        words |= {"its": "their" if entity.who == "who" else "its"}
        words |= {"labels": self.many(entity), "label": self.one(entity)}
        words |= {"where": " and ".join(c.text for c in conditions), "which": None}
        if len(conditions) == 1:
            words["which"] = conditions[0].verb  # None where no verb can follow 'Which things'
            if (adjective := conditions[0].adjective) and self.p.chance(0.6):
                words |= {"thing": f"{adjective} {entity.noun}", "things": f"{adjective} {entity.nouns}"}
                words |= {"where": "", "which": None}
        return words

    def _family(self, parent: Entity) -> dict[str, Any]:
        """The words for a parent and its children, or its grandchildren: 'loans of books written by the author'."""
        kid = self.slots["kid"]
        link = self.links[-1] if "mid" in self.slots else self.links[0]
        by, have = link.by.partition(" the ")[0], link.have
        words = {"kid": kid.noun, "kids": kid.nouns, "kid_its": "their" if kid.who == "who" else "its"}
        words |= {"by": by, "have": have, "has": third_person(have), "role": link.role, "roles": plural(link.role)}
        words |= {"did": link.did, "never": link.never}
        words["by_name"] = self._by_name(link, parent) if "name" in self.words else None
        if "mid" in self.slots:
            words |= {"mids": self.slots["mid"].nouns, "mid_by": by, "mid_by_name": words["by_name"]}
            words |= {"by": self.links[0].by.partition(" the ")[0], "by_name": None}
        return words

    def _by_name(self, link: Link, parent: Entity) -> str:
        """'written by Ann Lee', 'written by the author Ann Lee'."""
        by, _, noun = link.by.partition(" the ")
        name = self.words["name"]
        if parent.who == "that" and self.p.chance(0.25):
            return f"{by} the {name} {noun or parent.noun}"
        return f"{by} the {noun or parent.noun} {name}" if self.p.chance(0.75 if noun else 0.4) else f"{by} {name}"

    def _one_of(self, counts: Sequence[str]) -> int:
        return self.any(*counts) if len(counts) > 1 else int(counts[0])


def _besides(arguments: Sequence[Any]) -> tuple[tuple[str, ...], list[Attribute]]:
    """The arguments of a step before "besides", and the attributes of the slots behind that word."""
    at = arguments.index("besides") if "besides" in arguments else len(arguments)
    return tuple(arguments[:at]), [c for slot in arguments[at + 1 :] for c in slot.attributes]


def _in_scope(slot: Any, scope: Scope) -> Any:
    """A slot as templates see it."""
    if isinstance(slot, Entity):
        return EntityInScope(slot, scope)
    if isinstance(slot, Link):
        return dataclasses.replace(slot, column=quoted(slot.column), parent_column=quoted(slot.parent_column))
    if isinstance(slot, Columns) and not slot.attributes:
        return "COUNT(*)"
    return slot.within(scope) if isinstance(slot, Columns | Condition) else slot


def _overlap(first: Condition, second: Condition) -> bool:
    """Whether the conditions are a lower and an upper bound with room for values between them."""
    bounds = {operator: bound for _, operator, bound in (c.sql.split(maxsplit=2) for c in (first, second))}
    if bounds.keys() != {"<", ">"}:
        return False
    low, high = bounds[">"], bounds["<"]
    return low < high if low.startswith("'") else float(low) < float(high)


def _among(operator: str, link: Link, kid: Entity, condition: Condition | None) -> str:
    """A parent's key IN or NOT IN its children's foreign keys; these without NULLs, as NOT IN a NULL is never true."""
    where = (condition.within(Scope((kid,))),) if condition else ()
    known = (f"{quoted(link.column)} IS NOT NULL",) if link.nullable and operator == "NOT IN" else ()
    inner = SelectParts((quoted(link.column),), quoted(kid.name), where + known)
    return f"{quoted(link.parent_column)} {operator} ({inner})"


def _spell_out(text: str) -> str:
    for name, macro in _FILE["macros"].items():
        text = text.replace("{" + name + "}", macro)
    return text


#: the shapes of all data sets, and those of ratios and of days between dates, for data sets that want them
SHAPES, RATIOS = (
    {
        name: Shape(name, spec["hardness"], tuple(map(_spell_out, spec["phrasings"])), spec.get("weight", 1.0), spec)
        for name, spec in _FILE[part].items()
    }
    for part in ("shapes", "ratios")
)
