"""Which beginnings of a query can still be completed so that PostgreSQL knows what every name in it refers to.

A grammar sees one word after another, not that a column's table is missing from FROM a line later. `References` reads
the beginning again at each step and refuses the word after which the query could only fail:

- a column of a table that FROM does not have, or a FROM that ends before it has all tables whose columns were selected;
- a table for the second time without an alias;
- a join along anything but a declared key (columns of one name that are part of a key, where no key joins the two);
- a column beside an aggregate, or beside GROUP BY, that GROUP BY does not cover (a table's primary key covers its row);
- set operations on different numbers of columns; DISTINCT ordered by what is not selected.

It is for queries as `postgres.dialect.qualifiers.by_table` writes them: columns stand alone where FROM has one table,
otherwise after their table's name. A query in FROM is taken to have all columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from text2sql.schema import Schema, Table, kind_of

LEXEME = re.compile(
    r"""(?P<string>'(?:[^']|'')*'?)|(?P<quoted>"(?:[^"]|"")*"?)|(?P<word>[A-Za-z_]\w*)|::|\d[\d.]*|\S"""
)
#: SELECTs in one another, in one set operation, tables of one FROM: a model that repeats itself does not stop by itself
DEEPEST, LONGEST, WIDEST = 4, 3, 6
#: brackets in one another
INNERMOST = 7
AGGREGATES = frozenset("count sum avg min max any_value array_agg string_agg bool_and bool_or".split())  # noqa: SIM905
#: functions that are no aggregates
FUNCTIONS = frozenset(
    """coalesce nullif abs round ceil floor mod power sqrt greatest least length lower upper trim substring replace
    concat left right to_char to_date date_trunc date_part""".split()  # noqa: SIM905
)
JOINS = frozenset(("JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS"))
SETS = frozenset(("UNION", "INTERSECT", "EXCEPT"))
#: words after which neither SELECT's list nor FROM goes on
ENDS = frozenset(("WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", *SETS))
#: words before a * that is no multiplication
STARRED = (".", "SELECT", "DISTINCT", ",")
ALIASES = frozenset(f"t{i}" for i in range(1, 100))
#: words that go on with a condition
LINKS = frozenset(("AND", "OR"))
COMPARISONS = frozenset(("IN", "IS", "LIKE", "ILIKE", "NOT", "BETWEEN"))
OPERATORS = frozenset(("=", "<", ">"))  # and their beginnings and ends
#: words that may follow a value, a column or a table, by the part of the query
FOLLOWING = {
    "select": frozenset(("FROM", "AS")),
    "from": ENDS | JOINS | {"AS", "ON"},
    "on": ENDS | JOINS | LINKS,
    "where": ENDS | LINKS | COMPARISONS,
    "group": ENDS,
    "having": ENDS | LINKS | COMPARISONS,
    "order": SETS | {"LIMIT", "ASC", "DESC", "NULLS"},
    "limit": SETS | {"OFFSET"},
}
CASES = LINKS | COMPARISONS | {"WHEN", "THEN", "ELSE", "END"}
KEYWORDS = frozenset().union(*FOLLOWING.values(), CASES)
#: what a value can end with
VALUE_ENDS = re.compile(r"[\w)\"'*]$")

Name = tuple[str, str]  # qualifier ("" for none) and column


class Refused(Exception):
    """The beginning leads nowhere."""


@dataclass
class _Scope:
    """One SELECT: what has been read of it."""

    outer: _Scope | None = None
    phase: str = "select"  # select | from | on | where | group | having | order | limit
    items: int = 1  # of the select list
    wanted: int = 0  # as many as the SELECT before the set operator has; 0: any number
    distinct: bool = False
    star: bool = False
    place: int = 1  # among the SELECTs of a set operation
    combined: bool = False  # follows a set operator: its ORDER BY names outputs
    aggregate: bool = False
    plain: list[Name] = field(default_factory=list)  # selected columns outside aggregates
    used: list[Name] = field(default_factory=list)  # all columns of the select list
    grouped: list[Name] | None = None
    sources: dict[str, Table | None] = field(default_factory=dict)  # by name or alias; None: a query
    last: str = ""  # the newest source
    on: list[Name] = field(default_factory=list)  # the columns of the newest join's condition
    inside: bool = False  # an aggregate's brackets
    joined: list[set[Name]] = field(default_factory=list)  # along which columns
    compared: bool = False  # with `left`: x = x says nothing
    left: Name | None = None  # the newest column of WHERE or HAVING
    cases: int = 0  # CASEs without their END

    def table(self, name: str) -> Table | None:
        """The table called so, here or around; None if it is not known yet, or a query."""
        if name in self.sources:
            return self.sources[name]
        return self.outer.table(name) if self.outer else None

    @property
    def depth(self) -> int:
        return 1 + (self.outer.depth if self.outer else 0)

    @property
    def visible(self) -> set[str]:
        """The sources of this SELECT and of those around it."""
        return set(self.sources) | (self.outer.visible if self.outer else set())


class References:
    """The names of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.tables = {table.name: table for table in schema.tables if table.columns}
        self.columns = {name: {c.name for c in table.columns} for name, table in self.tables.items()}
        self.all = set().union(*self.columns.values())
        keyed: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for table in self.tables.values():
            for key in table.foreign_keys:
                if key.referred_table in self.tables:
                    for own, other in zip(key.columns, key.referred_columns, strict=True):
                        keyed.setdefault((table.name, key.referred_table), set()).add((own, other))
                        keyed.setdefault((key.referred_table, table.name), set()).add((other, own))
        self._keyed, self._links = keyed, dict[tuple[str, str], set[tuple[str, str]]]()
        self._with_key = {a for a, _ in keyed}

    def _in_keys(self, name: str) -> set[str]:
        table = self.tables[name]
        return {*table.primary_key, *(column for key in table.foreign_keys for column in key.columns)}

    def links(self, a: str, b: str) -> set[tuple[str, str]]:
        """The pairs of columns along which table `a` is joined with `b`."""
        if (a, b) not in self._links:
            self._links[a, b] = self._linked(a, b)
        return self._links[a, b]

    def _linked(self, a: str, b: str) -> set[tuple[str, str]]:
        if found := self._keyed.get((a, b)):
            return found
        columns = itertools.product(self.tables[a].columns, self.tables[b].columns)
        pairs = [(x, y) for x, y in columns if kind_of(x.type) == kind_of(y.type)]
        keys = self._in_keys(a) | self._in_keys(b)
        same = {(x.name, y.name) for x, y in pairs if x.name == y.name and x.name in keys and x.name != "id"}
        if a != b and a in self._with_key and b in self._with_key:
            return same
        return {(x.name, y.name) for x, y in pairs}  # with itself, or a table without any key: whatever fits

    def admits(self, text: str, ended: bool = False) -> bool:
        """Whether a query may begin with `text`, or, if it has `ended`, be it."""
        try:
            self._read(text, ended)
        except Refused:
            return False
        return True

    def _read(self, text: str, ended: bool) -> None:
        found = list(LEXEME.finditer(text))
        scope: _Scope | None = None
        brackets: list[str | _Scope] = []  # "(" | "aggregate" | the scope around a query in brackets
        before = ""  # the lexeme before
        items = 0  # of the newest query in brackets
        for i, match in enumerate(found):
            lexeme = match.group()
            open_ended = match.end() == len(text) and not ended
            following = found[i + 1].group() if i + 1 < len(found) else ""
            if scope is not None and self._joining(scope):
                name = match["word"] or match["quoted"]
                if not name and lexeme != "." and not (lexeme == "=" and len(scope.on) == 1):
                    raise Refused  # a join is along a key
            if match["string"] is not None:
                pass
            elif lexeme == "(":
                if before.lower() in AGGREGATES:
                    brackets.append("aggregate")
                    if scope is not None:
                        self._aggregate(scope)
                else:
                    brackets.append("(")
                if len(brackets) > INNERMOST:
                    raise Refused
            elif lexeme == ")":
                if not brackets:
                    raise Refused
                closed = brackets.pop()
                if isinstance(closed, _Scope):
                    assert scope is not None
                    self._end(scope)
                    items = scope.items
                    scope = closed if closed.phase != "none" else None
            elif (
                lexeme == "*"
                and scope is not None
                and scope.phase == "select"
                and before in (".", "SELECT", "DISTINCT", ",")
            ):
                scope.star = True
                if before == ".":
                    scope.used.append((found[i - 2].group().strip('"'), "*"))
            elif lexeme == ",":
                if scope is not None and not _within(brackets):
                    self._comma(scope)
            elif match["word"] and lexeme.isupper() and before not in (".", "::"):
                if open_ended:
                    self._some(scope, lexeme, before, brackets)
                elif lexeme == "SELECT":
                    scope = self._select(scope, brackets)
                elif lexeme in SETS:
                    scope = self._set(scope, items)
                elif scope is not None:
                    self._keyword(scope, lexeme, brackets)
            elif (match["word"] or match["quoted"]) and scope is not None and before != "::":
                name = lexeme.strip('"').replace('""', '"') if match["quoted"] else lexeme
                closed_quote = bool(match["quoted"]) and len(lexeme) > 1 and lexeme.endswith('"')
                partial = open_ended and not closed_quote
                qualifier = found[i - 2].group().strip('"') if before == "." and i > 1 else ""
                operator = found[i - 3].group() if qualifier and i > 2 else ""
                self._name(scope, name, before, qualifier, following, partial, brackets, operator)
            before = lexeme
        if ended:
            if brackets or scope is None:
                raise Refused
            self._end(scope)

    def _aggregate(self, scope: _Scope) -> None:
        if scope.phase == "order" and scope.grouped is None and (scope.plain or scope.star):
            raise Refused
        scope.aggregate = True

    # --- Keywords ---------------------------------------------------------------------------------------------------

    def _some(self, scope: _Scope | None, begun: str, before: str, brackets: list[str | _Scope]) -> None:
        """Some word that begins so must be possible."""
        if "SELECT".startswith(begun) and brackets and brackets[-1] == "(":
            if scope is not None and scope.depth == DEEPEST and begun != "S":
                raise Refused
            return
        if scope is None or _within(brackets) or scope.phase == "set":
            return
        if not VALUE_ENDS.search(before) or before in KEYWORDS or before in ("SELECT", "DISTINCT", "BY"):
            return  # a value begins
        words = FOLLOWING[scope.phase] | (CASES if scope.cases else frozenset())
        for word in words:
            if word.startswith(begun):
                try:
                    self._follows(scope, word)
                except Refused:
                    continue
                return
        raise Refused

    def _follows(self, scope: _Scope, word: str) -> None:
        """May `word` follow a value here?"""
        if self._joining(scope):
            raise Refused
        if word in ENDS:
            self._leave(scope, word)
        elif word in JOINS:
            self._join(scope)
        elif word == "FROM":
            self._counted(scope)
        elif word in LINKS:
            self._condition(scope)

    def _select(self, scope: _Scope | None, brackets: list[str | _Scope]) -> _Scope:
        if brackets and brackets[-1] == "(":
            brackets[-1] = scope if scope is not None else _Scope(phase="none")
            made = _Scope(outer=scope)
            if made.depth > DEEPEST:
                raise Refused
            return made
        if scope is not None and scope.phase == "set":
            scope.phase = "select"
            return scope
        return _Scope()

    def _set(self, scope: _Scope | None, items: int) -> _Scope:
        if scope is None:  # after a query in brackets
            return _Scope(phase="set", wanted=items, combined=True)
        if scope.phase != "set":
            self._end(scope)
        if scope.place == LONGEST:
            raise Refused
        return _Scope(scope.outer, "set", wanted=scope.items, combined=True, place=scope.place + 1)

    def _keyword(self, scope: _Scope, word: str, brackets: list[str | _Scope]) -> None:
        if _within(brackets):
            return
        if word == "DISTINCT" and scope.phase == "select" and not scope.used:
            scope.distinct = True
        elif word == "FROM" and scope.phase == "select":
            self._counted(scope)
            scope.phase = "from"
        elif word in LINKS:
            self._condition(scope)
            scope.left = None  # another comparison
            if scope.phase == "on":
                scope.on = []  # another key
        elif word in ("CASE", "END"):
            scope.cases += 1 if word == "CASE" else -1
        elif word in JOINS and scope.phase in ("from", "on"):
            self._join(scope)
            scope.phase = "from"
        elif word == "ON":
            scope.phase, scope.on = "on", []
        elif word in ENDS:
            self._leave(scope, word)
            scope.phase = word.lower()
            if word == "GROUP":
                scope.grouped = []

    def _condition(self, scope: _Scope) -> None:
        """Is there a condition that may go on?"""
        if scope.phase not in ("where", "on", "having") and not scope.cases:
            raise Refused
        if scope.phase == "on" and self._plain(scope):
            read, scope.on = scope.on, []
            further, scope.on = self._pairs(scope), read
            if len(read) < 2 or not further:
                raise Refused

    def _counted(self, scope: _Scope) -> None:
        if scope.wanted and scope.items != scope.wanted:
            raise Refused

    def _join(self, scope: _Scope) -> None:
        """A further source, as far as the select list allows one."""
        if self._joining(scope):
            raise Refused
        if len(scope.sources) == WIDEST or any(not q for q, _ in scope.used):
            raise Refused

    def _comma(self, scope: _Scope) -> None:
        if scope.phase == "select":
            scope.items += 1
            if scope.wanted and scope.items > scope.wanted:
                raise Refused
        elif scope.phase in ("from", "on"):
            self._join(scope)
            scope.phase, scope.last = "from", ""

    def _leave(self, scope: _Scope, word: str) -> None:
        """May `word` follow what there is of this SELECT?"""
        if scope.phase == "select" and (scope.used or scope.star):
            raise Refused
        if scope.phase in ("from", "on"):
            self._complete_from(scope)
        if word not in ("WHERE", "GROUP"):
            self._complete_groups(scope)
        if word == "ORDER" and scope.aggregate and scope.grouped is None:
            raise Refused  # a single row

    def _complete_from(self, scope: _Scope) -> None:
        if self._joining(scope):
            raise Refused
        visible = scope.visible
        for qualifier, _ in scope.used:
            if qualifier and qualifier not in visible:
                raise Refused

    def _complete_groups(self, scope: _Scope) -> None:
        if scope.grouped is None:
            if scope.aggregate and scope.plain:
                raise Refused
            return
        for name in scope.plain:
            if not self._covered(scope, name):
                raise Refused

    def _covered(self, scope: _Scope, name: Name) -> bool:
        assert scope.grouped is not None
        if name in scope.grouped:
            return True
        source = name[0] or next(iter(scope.sources), "")
        table = scope.sources.get(source)
        if table is None:
            return source in scope.sources or source in scope.visible
        names = {column for q, column in scope.grouped if (q or source) == source}
        return (bool(table.primary_key) and set(table.primary_key) <= names) or name[1] in names

    def _end(self, scope: _Scope) -> None:
        self._counted(scope)
        self._leave(scope, "end")

    # --- Names ------------------------------------------------------------------------------------------------------

    def _name(
        self,
        scope: _Scope,
        name: str,
        before: str,
        qualifier: str,
        following: str,
        partial: bool,
        brackets: list[str | _Scope],
        operator: str,
    ) -> None:
        scope.inside, scope.compared = "aggregate" in brackets, before in OPERATORS
        if before == "AS":
            if partial or scope.phase != "from" or _within(brackets):
                return
            if name in scope.sources:
                raise Refused
            if scope.last == "":  # a query
                scope.sources[name] = None
            else:
                scope.sources[name] = scope.sources.pop(scope.last)
                scope.last = name
        elif scope.phase == "from" and not _within(brackets):
            if before in ("FROM", "JOIN", ","):
                self._source(scope, name, following, partial)
        elif before == ".":
            self._column(scope, qualifier, name, partial, brackets, operator)
        elif following == "(":
            return  # a function
        elif following == "." or partial:
            self._begun(scope, name, following, partial, brackets)
        else:
            self._column(scope, "", name, False, brackets, before)

    def _source(self, scope: _Scope, name: str, following: str, partial: bool) -> None:
        possible = self._possible_sources(scope)
        if partial:
            _require_some(name, possible)
            return
        if name not in possible or name in scope.sources:
            raise Refused
        scope.sources[name] = self.tables.get(name)
        scope.last = name

    def _possible_sources(self, scope: _Scope) -> set[str]:
        bare = {column for q, column in scope.used if not q}
        qualified = {q for q, _ in scope.used if q and not (scope.outer and q in scope.outer.visible)}
        if not scope.sources:
            if bare:
                return {name for name, columns in self.columns.items() if bare <= columns}
            return {name for name in self.tables if self._reaches(name, qualified)}
        if not self._plain(scope):
            return set(self.tables)
        present = [table.name for table in scope.sources.values() if table]
        return {n for n in self.tables if n not in scope.sources and any(self.links(n, other) for other in present)}

    def _reaches(self, start: str, wanted: Iterable[str]) -> bool:
        """Whether joins lead from a table to all those that are wanted."""
        left = {name for name in wanted if name in self.tables} - {start}
        seen, border = {start}, [start]
        while left and border:
            here = border.pop()
            for name in self.tables:
                if name not in seen and self.links(here, name):
                    seen.add(name)
                    border.append(name)
        return not left - seen

    def _plain(self, scope: _Scope) -> bool:
        """Whether all sources are tables by their own names."""
        return all(table is not None for table in scope.sources.values())

    def _joining(self, scope: _Scope) -> bool:
        """Whether the columns of a join are still to be named."""
        return scope.phase == "on" and len(scope.on) < 2 and self._plain(scope)

    def _qualifiers(self, scope: _Scope) -> set[str]:
        """What may stand before a column's dot."""
        outer = scope.outer.visible if scope.outer else set()
        if scope.phase == "select":
            return outer | ALIASES | (set() if any(not q for q, _ in scope.used) else set(self.tables))
        if self._joining(scope):
            return {q for pair in self._pairs(scope) for q, _ in pair[len(scope.on) : len(scope.on) + 1]}
        ordered = self._orderable(scope)
        return scope.visible if ordered is None else {q for q, _ in ordered}

    def _orderable(self, scope: _Scope) -> set[Name] | None:
        """The columns that ORDER BY may name outside aggregates; None: any."""
        if scope.phase != "order" or scope.combined or scope.inside:
            return None
        if scope.distinct:
            return set(scope.plain)
        if scope.grouped is None:
            return None
        names = {(q, c) for q, table in scope.sources.items() if table for c in self.columns[table.name]}
        names |= {("", c) for _, c in names} if len(scope.sources) == 1 else set()
        return {name for name in names if self._covered(scope, name)} | set(scope.grouped)

    def _pairs(self, scope: _Scope) -> list[tuple[Name, Name]]:
        """The conditions that may join the newest source, in either order; those that begin as what is there."""
        made = []
        newest = scope.sources.get(scope.last)
        for earlier, table in scope.sources.items():
            if earlier != scope.last and newest and table:
                for own, other in self.links(newest.name, table.name):
                    made += [((scope.last, own), (earlier, other)), ((earlier, other), (scope.last, own))]
        return [pair for pair in made if list(pair[: len(scope.on)]) == scope.on and set(pair) not in scope.joined]

    def _bare(self, scope: _Scope) -> set[str]:
        """The columns that may stand alone."""
        if self._joining(scope):
            return set()
        if scope.combined and scope.phase == "order":
            return self.all
        if scope.phase == "select":
            if any(q and not (scope.outer and q in scope.outer.visible) for q, _ in scope.used):
                return set()
            bare = {column for q, column in scope.used if not q}
            return set().union(*(columns for columns in self.columns.values() if bare <= columns))
        if len(scope.sources) != 1:
            return set()
        ordered = self._orderable(scope)
        if ordered is not None:
            return {column for q, column in ordered if not q}
        (table,) = scope.sources.values()
        if table is None:
            return self.all
        same = {scope.left[1]} if scope.compared and scope.left and not scope.left[0] else set()
        return self.columns[table.name] - same

    def _begun(self, scope: _Scope, name: str, following: str, partial: bool, brackets: list[str | _Scope]) -> None:
        if not partial:  # a dot follows
            if name not in self._qualifiers(scope) and not scope.combined:
                raise Refused
            return
        alone = scope.phase == "order" and scope.grouped is None  # no aggregate beside the rows themselves
        functions = FUNCTIONS if alone or scope.phase in ("where", "on", "group") else FUNCTIONS | AGGREGATES
        if self._joining(scope):
            functions = frozenset()
        _require_some(name, self._qualifiers(scope) | self._bare(scope) | functions)

    def _column(
        self, scope: _Scope, qualifier: str, name: str, partial: bool, brackets: list[str | _Scope], before: str
    ) -> None:
        if scope.combined and scope.phase == "order":
            return
        if self._joining(scope):
            at = len(scope.on)
            possible = {pair[at][1] for pair in self._pairs(scope) if pair[at][0] == qualifier}
            if partial:
                _require_some(name, possible)
            elif name not in possible:
                raise Refused
            else:
                scope.on.append((qualifier, name))
                if len(scope.on) == 2:
                    scope.joined.append(set(scope.on))
            return
        if qualifier:
            table = scope.table(qualifier)
            possible = self.columns[table.name] if table else self.all
        else:
            possible = self._bare(scope)
        if scope.phase in ("where", "having") and before in OPERATORS and scope.left and scope.left[0] == qualifier:
            possible = possible - {scope.left[1]}  # x = x
        if partial:
            _require_some(name, possible)
            return
        if name not in possible:
            raise Refused
        found = (qualifier, name)
        if scope.phase == "select":
            scope.used.append(found)
            if not scope.inside:
                scope.plain.append(found)
        elif scope.phase == "group":
            assert scope.grouped is not None
            scope.grouped.append(found)
        elif scope.phase == "order":
            if (ordered := self._orderable(scope)) is not None and found not in ordered:
                raise Refused
        elif scope.phase in ("where", "having"):
            scope.left = found


def _within(brackets: list[str | _Scope]) -> bool:
    """Whether we are in brackets that hold no query."""
    return bool(brackets) and not isinstance(brackets[-1], _Scope)


def _require_some(begun: str, names: Iterable[str]) -> None:
    if not any(name.startswith(begun) for name in names):
        raise Refused
