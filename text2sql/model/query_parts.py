"""What may stand in each part of a SELECT: one class for the select list, FROM, ON, WHERE, GROUP BY, HAVING, ORDER BY.

`references.Reading` reads a query word by word and asks the part that it is in. `Select` is what has been read of one
SELECT; the parts have no state. Everything that can only lead to a query that PostgreSQL rejects raises `Refused`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from text2sql.files import read_beside
from text2sql.schema import Table

if TYPE_CHECKING:
    from text2sql.model.references import References

#: tables of one FROM: a model that repeats itself does not stop by itself
WIDEST = 6
#: conditions of one WHERE, HAVING or ON; Spider's longest WHERE has 4
MOST_CONDITIONS = 8
_NAMES = read_beside(__file__)
#: functions
AGGREGATES, FUNCTIONS = (frozenset(_NAMES[name].split()) for name in ("aggregates", "functions"))
#: CROSS JOIN is none of them: a join is along a key
JOINS = frozenset(("JOIN", "LEFT", "RIGHT", "FULL", "INNER"))
SETS = frozenset(("UNION", "INTERSECT", "EXCEPT"))
#: words after which neither SELECT's list nor FROM goes on
ENDS = frozenset(("WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", *SETS))
#: words that go on with a condition, and words that compare
LINKS = frozenset(("AND", "OR"))
COMPARISONS = frozenset(("IN", "IS", "LIKE", "ILIKE", "NOT", "BETWEEN"))
#: words within and after CASE
CASES = LINKS | COMPARISONS | {"WHEN", "THEN", "ELSE", "END"}
ALIASES = frozenset(f"t{i}" for i in range(1, 100))

Name = tuple[str, str]  # qualifier ("" for none) and column
Scope = dict[str, Collection[str]]  # by qualifier the columns that may be named after it; "": those without one


class Refused(Exception):
    """No query that begins so can be right."""


@dataclass(frozen=True)
class Source:
    """An item of FROM: a table, or a query (`table` is None). `columns` is None where they are not known."""

    table: Table | None
    columns: frozenset[str] | None

    def has(self, column: str) -> bool:
        return self.columns is None or column in self.columns


@dataclass
class Select:
    """What has been read of one SELECT. Its containers are replaced, never changed, so that a shallow copy is apart."""

    #: the SELECT around this one whose tables it may name; None in FROM, where it sees nothing of it
    outer: Select | None = None
    part: Part = field(default_factory=lambda: SELECT_LIST)
    #: bare columns that the query around this one has selected from it, where this one is in FROM
    required: frozenset[str] = frozenset()

    # The set operation that it is a part of.
    place: int = 1
    #: columns of the SELECT before the set operator; 0: any number
    width: int = 0
    #: names of the first SELECT's columns, which ORDER BY after the last one names; None: not known
    results: frozenset[str] | None = None
    combined: bool = False

    # The select list.
    distinct: bool = False
    star: bool = False
    aggregate: bool = False
    items: int = 1
    #: names of the columns that it returns, and of the item that is being read; None: not known
    outputs: tuple[str, ...] | None = ()
    item: str | None = None
    #: selected columns, and those of them outside aggregates
    used: tuple[Name, ...] = ()
    plain: tuple[Name, ...] = ()

    # FROM: the sources by name or alias (a query without alias: ""), and the newest one's; None: it comes next.
    sources: dict[str, Source] = field(default_factory=dict)
    newest: str | None = None
    #: whether the ON of the newest JOIN is still to come
    on_due: bool = False
    #: columns of the condition that joins the newest source, as far as they have been read
    key: tuple[Name, ...] = ()
    #: the keys along which sources have been joined
    joined: tuple[frozenset[Name], ...] = ()

    #: the texts of the items or conditions of this part before the present one, and where that one begins in the query
    texts: tuple[str, ...] = ()
    begun: int = 0

    # WHERE, HAVING, ON.
    #: whether the next AND is that of a BETWEEN
    between: bool = False
    #: CASEs without their END
    cases: int = 0

    grouped: tuple[Name, ...] | None = None

    @property
    def around(self) -> dict[str, Source]:
        """The sources of the queries around it."""
        return self.outer.visible if self.outer else {}

    @property
    def visible(self) -> dict[str, Source]:
        """The sources whose columns it may name: its own and those of the queries around it."""
        return {**self.around, **self.sources} if self.outer else self.sources

    @property
    def bare(self) -> frozenset[str]:
        """The selected columns without a qualifier."""
        return frozenset(column for qualifier, column in self.used if not qualifier and column != "*")

    @property
    def qualified(self) -> frozenset[str]:
        """The qualifiers of the selected columns that FROM must provide."""
        around = self.around
        return frozenset(qualifier for qualifier, _ in self.used if qualifier and qualifier not in around)

    @property
    def by_tables_only(self) -> bool:
        """Whether all sources are tables; joins with a query in FROM are not checked."""
        return all(source.table is not None for source in self.sources.values())

    @property
    def joining(self) -> bool:
        """Whether columns of the newest join's key are still to be named."""
        return self.part is ON and len(self.key) < 2 and self.by_tables_only

    def covers(self, name: Name) -> bool:
        """Whether GROUP BY determines the column: it names it, or the whole primary key of its table."""
        assert self.grouped is not None
        if name in self.grouped:
            return True
        qualifier, column = name
        if column == "*" and not qualifier:
            return all(self.covers((source, "*")) for source in self.sources)
        qualifier = qualifier or next(iter(self.sources), "")
        source = self.sources.get(qualifier)
        if source is None:
            return qualifier in self.visible  # a query around this one: constant here
        names = {c for q, c in self.grouped if (q or qualifier) == qualifier}
        key = source.table.primary_key if source.table else ()
        return (bool(key) and set(key) <= names) or column in names

    @property
    def returned(self) -> frozenset[str] | None:
        """The names of the columns that it returns, of a set operation those of the first SELECT; None: not known."""
        if self.combined:
            return self.results
        return None if self.outputs is None or self.item is None else frozenset((*self.outputs, self.item))

    def end_list(self) -> None:
        """The select list is whole."""
        if self.width and self.items != self.width:
            raise Refused  # set operations want equally many columns
        if self.required and self.returned is not None and not self.required <= self.returned:
            raise Refused  # the query around selects what this one in FROM does not return

    def leave(self, word: str) -> None:
        """May the SELECT go on with the part that begins with `word`, or end ("")?"""
        self.part.end(self, word)
        if word not in ("WHERE", "GROUP"):
            self._check_groups()
        if word == "HAVING" and self.grouped is None and (self.plain or self.star):
            raise Refused  # HAVING makes one group of all rows
        if word == "ORDER" and self.aggregate and self.grouped is None:
            raise Refused  # a single row needs no order

    def _check_groups(self) -> None:
        """Every selected column is the same in all rows of a group."""
        selected = (*self.plain, *((("", "*"),) if self.star else ()))
        if self.grouped is None:
            if self.aggregate and selected:
                raise Refused
        elif not all(self.covers(name) for name in selected):
            raise Refused


def _scope(sources: dict[str, Source], names: References) -> Scope:
    """The columns of sources that have a name."""
    return {q: names.all if source.columns is None else source.columns for q, source in sources.items() if q}


def _by_qualifier(names: Iterable[Name]) -> Scope:
    scope: dict[str, set[str]] = defaultdict(set)
    for qualifier, column in names:
        scope[qualifier].add(column)
    return dict(scope)


class Part:
    """A part of a SELECT."""

    #: words that may follow a value, a column or a table here
    following = ENDS
    #: whether aggregates may stand here
    aggregates = False
    #: whether conditions stand here, which AND and OR link
    conditions = False
    #: how often the same item or condition may stand here; 0: is not counted
    repeats = 0

    def end(self, select: Select, word: str) -> None:
        """Is the part complete, so that `word` (or the end, "") may follow?"""

    def link(self, select: Select, names: References, word: str) -> None:
        """May AND or OR follow?"""
        if not self.conditions and not select.cases:
            raise Refused

    def comma(self, select: Select) -> None:
        """A comma outside of brackets."""

    def join(self, select: Select) -> None:
        """A further source."""
        raise Refused

    def functions(self, select: Select) -> frozenset[str]:
        return FUNCTIONS | AGGREGATES if self.aggregates else FUNCTIONS

    def scope(self, select: Select, names: References, aggregated: bool) -> Scope:
        """The columns that may be named, by what stands before their dot; without one: those of the only source.

        `aggregated`: within the brackets of an aggregate.
        """
        scope = _scope(select.visible, names)
        if len(select.sources) == 1:
            (source,) = select.sources.values()
            scope[""] = names.all if source.columns is None else source.columns
        return scope

    def column(self, select: Select, name: Name, aggregated: bool) -> None:
        """A column has been named."""


class _SelectList(Part):
    following = frozenset(("FROM", "AS"))
    aggregates = True
    repeats = 2  # twenty of Spider's gold queries have a column twice

    def end(self, select: Select, word: str) -> None:
        select.end_list()
        if select.used or select.star:
            raise Refused  # columns of no table

    def comma(self, select: Select) -> None:
        select.outputs = None if select.outputs is None or select.item is None else (*select.outputs, select.item)
        select.items, select.item = select.items + 1, None
        if select.width and select.items > select.width:
            raise Refused

    def scope(self, select: Select, names: References, aggregated: bool) -> Scope:
        """All columns alone, or all after their tables' names."""
        around = _scope(select.around, names)
        if not select.qualified:
            around[""] = names.beside(select.bare)
        if select.bare:
            return around
        tables = names.joined_with(select.qualified - ALIASES)
        return {**{t: names.columns[t] for t in tables}, **dict.fromkeys(ALIASES, names.all), **around}

    def column(self, select: Select, name: Name, aggregated: bool) -> None:
        select.used = (*select.used, name)
        if not aggregated:
            select.plain = (*select.plain, name)


class _From(Part):
    following = ENDS | JOINS | {"AS"}

    def end(self, select: Select, word: str) -> None:
        visible = select.visible
        if select.newest is None or any(qualifier not in visible for qualifier, _ in select.used if qualifier):
            raise Refused  # every table of the select list is there

    def join(self, select: Select) -> None:
        """As far as the select list allows one."""
        if select.joining or select.newest is None or len(select.sources) == WIDEST or select.bare:
            raise Refused

    def comma(self, select: Select) -> None:
        self.join(select)
        select.part, select.newest = FROM, None

    def add(self, select: Select, name: str, source: Source) -> None:
        """`source` comes next, called `name`."""
        select.sources = {**select.sources, name: source}
        select.newest = name

    def source(self, select: Select, names: References) -> Iterable[str]:
        """The tables that may come next."""
        if not select.sources:
            if bare := select.bare:
                return [table for table, columns in names.columns.items() if bare <= columns]
            return names.reaching(select.qualified - ALIASES, WIDEST)
        if not select.by_tables_only:
            return names.tables.keys() - select.sources.keys()
        present = {source.table.name for source in select.sources.values() if source.table}
        missing = select.qualified - ALIASES - set(select.sources)
        room = WIDEST - len(select.sources)
        return names.reaching(missing, room, present) - set(select.sources)

    def alias(self, select: Select, alias: str) -> None:
        """The newest source is called `alias`."""
        if select.newest is None or alias in select.sources:
            raise Refused
        source = select.sources[select.newest]
        if not all(source.has(column) for qualifier, column in select.used if qualifier == alias and column != "*"):
            raise Refused  # the select list takes other columns from it
        select.sources = {name: other for name, other in select.sources.items() if name != select.newest}
        self.add(select, alias, source)


class _On(_From):
    following = ENDS | JOINS | LINKS | COMPARISONS
    conditions = True
    repeats = 1

    def end(self, select: Select, word: str) -> None:
        if select.joining:
            raise Refused
        super().end(select, word)

    def link(self, select: Select, names: References, word: str) -> None:
        if word == "OR" and select.by_tables_only and not select.cases:
            if not names.keys(select, ()):
                raise Refused
            select.key = ()  # another key

    def scope(self, select: Select, names: References, aggregated: bool) -> Scope:
        if not select.joining:
            return super().scope(select, names, aggregated)
        return _by_qualifier(pair[len(select.key)] for pair in names.keys(select, select.key))

    def column(self, select: Select, name: Name, aggregated: bool) -> None:
        if select.joining:
            select.key = (*select.key, name)
            if len(select.key) == 2:
                select.joined = (*select.joined, frozenset(select.key))


class _Where(Part):
    following = ENDS | LINKS | COMPARISONS
    conditions = True
    repeats = 1


class _Group(Part):
    repeats = 1

    def column(self, select: Select, name: Name, aggregated: bool) -> None:
        select.grouped = (*(select.grouped or ()), name)


class _Grouped(Part):
    """A part that comes after GROUP BY: outside aggregates it has columns that GROUP BY determines."""

    aggregates = True

    def allowed(self, select: Select, aggregated: bool) -> set[Name] | None:
        """The columns that may be named; None: any."""
        if aggregated or select.grouped is None:
            return None
        names = {(q, c) for q, source in select.sources.items() for c in source.columns or ()}
        if len(select.sources) == 1:
            names |= {("", column) for _, column in names}
        return {name for name in names if select.covers(name)} | set(select.grouped)

    def scope(self, select: Select, names: References, aggregated: bool) -> Scope:
        allowed = self.allowed(select, aggregated)
        if allowed is None:
            return super().scope(select, names, aggregated)
        around = _scope(select.around, names)
        hidden = dict.fromkeys(around.keys() & select.sources.keys(), ())
        return {**around, **hidden, **_by_qualifier(name for name in allowed if name[0] in ("", *select.sources))}


class _Having(_Grouped):
    following = ENDS | LINKS | COMPARISONS
    conditions = True
    repeats = 1

    def allowed(self, select: Select, aggregated: bool) -> set[Name] | None:
        if select.grouped is None and not aggregated:
            return set()  # one group of all rows
        return super().allowed(select, aggregated)


class _Order(_Grouped):
    following = SETS | COMPARISONS | {"LIMIT", "ASC", "DESC", "NULLS"}

    def functions(self, select: Select) -> frozenset[str]:
        # Beside rows that are no groups there is no aggregate.
        return FUNCTIONS if select.grouped is None and (select.plain or select.star) else FUNCTIONS | AGGREGATES

    def allowed(self, select: Select, aggregated: bool) -> set[Name] | None:
        if select.distinct and not aggregated and not select.star:
            return set(select.plain)  # ordered by what is selected
        return super().allowed(select, aggregated)

    def scope(self, select: Select, names: References, aggregated: bool) -> Scope:
        if select.combined:  # the columns that the set operation returns
            return {"": names.all if select.results is None else select.results}
        return super().scope(select, names, aggregated)


class _Limit(Part):
    following = SETS | {"OFFSET"}


class _Operator(Part):
    """After UNION, INTERSECT or EXCEPT: a SELECT, or one in brackets, comes next."""

    following = SETS | {"ORDER", "LIMIT"}

    def end(self, select: Select, word: str) -> None:
        if select.items != select.width:
            raise Refused


SELECT_LIST, FROM, ON, WHERE, GROUP = _SelectList(), _From(), _On(), _Where(), _Group()
HAVING, ORDER, LIMIT, OPERATOR = _Having(), _Order(), _Limit(), _Operator()
#: the part that begins with the word
PARTS: dict[str, Part] = {"WHERE": WHERE, "GROUP": GROUP, "HAVING": HAVING, "ORDER": ORDER, "LIMIT": LIMIT}
