"""Which beginnings of a query can still be completed so that PostgreSQL knows what every name in it refers to.

A grammar sees one word after another, not that a column's table is missing from FROM a line later. A `Reading` is a
beginning of a query, taken apart; `after` adds the text of the next token, or refuses it where the query could then
only fail:

- a column of a table that FROM does not have, or a FROM that ends before it has all tables whose columns were selected;
- a table for the second time without an alias;
- a join whose first condition is anything but a declared key (where no key joins the two: columns of one name that are
  part of a key, or that refer to the same column of a third table);
- a column beside an aggregate, or beside GROUP BY, that GROUP BY does not cover (a table's primary key covers its row);
- set operations on different numbers of columns; DISTINCT ordered by what is not selected;
- a condition that stands in the same WHERE, HAVING or ON already, a column twice in GROUP BY, an item for the third
  time in the select list, a function within its own brackets;
- a text that is compared with a column and neither among its values nor in the question (`literals`).

It is for queries as `qualifiers.by_table` writes them: columns stand alone where FROM has one table, otherwise after
their table's name. The rules of each part of a query are in `query_parts`.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable

from text2sql.model.literals import Literals
from text2sql.model.query_parts import (
    AGGREGATES,
    CASES,
    ENDS,
    FROM,
    FUNCTIONS,
    JOINS,
    LINKS,
    MOST_CONDITIONS,
    ON,
    OPERATOR,
    PARTS,
    SELECT_LIST,
    SETS,
    Name,
    Refused,
    Select,
    Source,
)
from text2sql.schema import Column, Schema, kind_of, quote

#: what may go on with the next token has a group
LEXEME = re.compile(
    r"""(?P<string>'(?:[^']|'')*'?)|(?P<quoted>"(?:[^"]|"")*"?)|(?P<word>[A-Za-z_]\w*)|(?P<cast>::?)"""
    r"""|(?P<number>\d[\d.]*)|\S"""
)
#: SELECTs in one another, in one set operation, brackets in one another: a model that repeats itself stops there
DEEPEST, LONGEST, INNERMOST = 4, 3, 7
#: what a query in FROM calls the number that it returns: avg(n) FROM (SELECT count(*) AS n ...)
COUNTED = "n"
#: letters of a text, as it is written
LONGEST_TEXT = 200
OPERATORS = frozenset(("=", "<", ">"))  # and their beginnings and ends
#: keywords before a bracket
CALLS = frozenset(("CAST", "EXTRACT", "EXISTS", "IN"))
#: CALLS and SELECT, and what begins like them before a value; after one within brackets; after a table that was joined
OPENING = CALLS | {"SELECT", "CASE", "CURRENT_DATE", "CURRENT_TIMESTAMP", "ILIKE", "INTERVAL"}
INNER = CASES | {"FROM", "AS", "ORDER", "ASC", "DESC", "NULLS"}
JOINED = frozenset(("AS", "ON"))
#: keywords that end a value or stand for one
VALUES = frozenset(
    ("NULL", "TRUE", "FALSE", "END", "ASC", "DESC", "FIRST", "LAST", "CURRENT_DATE", "CURRENT_TIMESTAMP")
)
#: whose brackets hold plain columns only; and all that is kept of open brackets
AGGREGATED = AGGREGATES | {"filter"}
CALLED = AGGREGATED | FUNCTIONS | {"extract"}
#: comparisons whose texts are held to values and question, and those of them that compare with a pattern
HELD = frozenset(("=", "<>", "IN", "NOT IN", "LIKE", "ILIKE", "NOT LIKE", "NOT ILIKE"))


class References:
    """The names of one schema, and how its tables are joined."""

    def __init__(self, schema: Schema) -> None:
        self.tables = {table.name: table for table in schema.tables if table.columns}
        self.columns = {name: frozenset(c.name for c in table.columns) for name, table in self.tables.items()}
        self.all = frozenset((COUNTED,)).union(*self.columns.values())
        #: names with the quotes that they need
        self.written = {name: quote(name) for name in (*self.tables, *self.all)}
        self._keyed: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        #: of each column those that it refers to
        self._referred: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        for table in self.tables.values():
            for key in table.foreign_keys:
                for column, referred in zip(key.columns, key.referred_columns, strict=True):
                    self._referred[table.name, column].add((key.referred_table, referred))
                    if key.referred_table in self.tables:
                        self._keyed[table.name, key.referred_table].add((column, referred))
                        self._keyed[key.referred_table, table.name].add((referred, column))
        self._with_key = {name for name, _ in self._keyed}
        # Asked for again at every token.
        self.links, self.steps = functools.cache(self._links), functools.cache(self._steps)

    # --- Joins ------------------------------------------------------------------------------------------------------

    def _links(self, a: str, b: str) -> set[tuple[str, str]]:
        """The pairs of columns along which table `a` is joined with `b`."""
        if keyed := self._keyed.get((a, b)):
            return keyed
        columns = itertools.product(self.tables[a].columns, self.tables[b].columns)
        pairs = [(x, y) for x, y in columns if kind_of(x.type) == kind_of(y.type)]
        if a != b and a in self._with_key and b in self._with_key:
            keys = self._in_keys(a) | self._in_keys(b)
            named = {(x.name, y.name) for x, y in pairs if x.name == y.name and x.name in keys and x.name != "id"}
            referred = self._referred
            return named | {(x.name, y.name) for x, y in pairs if referred[a, x.name] & referred[b, y.name]}
        # With itself, or a table without foreign keys: a column with what identifies a row of the other table. Where a
        # table has no primary key, nothing says which column that is.
        unknown = not (self.tables[a].primary_key and self.tables[b].primary_key)
        return {
            (x.name, y.name)
            for x, y in pairs
            if x.name == y.name or unknown or (x.type == y.type and (self._identifies(a, x) or self._identifies(b, y)))
        }

    def _identifies(self, table: str, column: Column) -> bool:
        return column.unique or column.name in self.tables[table].primary_key

    def _in_keys(self, name: str) -> set[str]:
        table = self.tables[name]
        return {*table.primary_key, *(column for key in table.foreign_keys for column in key.columns)}

    def _steps(self, name: str) -> dict[str, int]:
        """How many joins lead from a table to each table that can be reached."""
        steps, border = {name: 0}, [name]
        for here in border:
            for other in self.tables:
                if other not in steps and self.links(here, other):
                    steps[other] = steps[here] + 1
                    border.append(other)
        return steps

    def reaching(self, missing: Iterable[str], room: int, present: Iterable[str] = ()) -> set[str]:
        """The tables that may come next in FROM, where joins must still lead to those `missing`.

        Args:
            room: tables that FROM may still take.
            present: tables that it has; the next one is joined with one of them.
        """
        present, missing = list(present), [name for name in missing if name in self.tables]
        reaching = set()
        for name in self.tables:
            if present and not any(self.links(name, other) for other in present):
                continue
            left = [other for other in missing if other != name]
            nearest = (min(self.steps(n).get(other, room) for n in (name, *present)) for other in left)
            if len(left) < room and all(steps < room for steps in nearest):
                reaching.add(name)
        return reaching

    def joined_with(self, names: Iterable[str]) -> set[str]:
        """The tables that joins connect with all of `names`."""
        steps = [self.steps(name) for name in names if name in self.tables]
        return {table for table in self.tables if all(table in reached for reached in steps)}

    def beside(self, columns: frozenset[str]) -> frozenset[str]:
        """The columns of the tables that have all of `columns`; and of a query in FROM, what it counts."""
        of_tables = (*self.columns.values(), frozenset((COUNTED,)))
        return frozenset().union(*(having for having in of_tables if columns <= having))

    def keys(self, select: Select, begun: tuple[Name, ...]) -> list[tuple[Name, Name]]:
        """The conditions that may join the newest source, in either order; those that begin with `begun`."""
        pairs: list[tuple[Name, Name]] = []
        assert select.newest is not None
        newest = select.sources[select.newest].table
        for earlier, source in select.sources.items():
            if earlier != select.newest and newest and source.table:
                for near, far in self.links(newest.name, source.table.name):
                    pair = (select.newest, near), (earlier, far)
                    pairs += [pair, pair[::-1]]
        return [p for p in pairs if p[: len(begun)] == begun and frozenset(p) not in select.joined]


class Reading:
    """A beginning of a query, at first an empty one. It is never changed: `after` gives another one."""

    def __init__(self, names: References, literals: Literals | None = None) -> None:
        """`literals`: the texts that the query may compare columns with."""
        self.names, self.literals = names, literals
        #: all that has been read; of it the last lexeme, as long as it may go on; where that one begins
        self.text, self.pending, self.at = "", "", 0
        #: the whole lexeme before, whether a value ends with it, and which bracket was closed by it
        self.before, self.ends_value = "", False
        #: what stood before the dot
        self.qualifier = ""
        #: the SELECT that is being read; None outside of one
        self.select: Select | None = None
        #: its open brackets, each the function that it belongs to, or "("
        self.brackets: tuple[str, ...] = ()
        #: the same of the newest bracket that was closed
        self.called = ""
        #: the SELECTs around it with their brackets
        self.around: tuple[tuple[Select | None, tuple[str, ...]], ...] = ()
        #: the newest query in brackets that has ended
        self.closed: Select | None = None
        #: the column that the next text or column is compared with, and how
        self.subject: Name | None = None
        self.comparison = ""

    def after(self, text: str) -> Reading | None:
        """The reading with more text; None if no query can go on so."""
        reading = self._copy()
        try:
            reading._read(text)
        except Refused:
            return None
        return reading

    def _copy(self) -> Reading:
        other = copy.copy(self)
        other.select = copy.copy(self.select)
        return other

    def complete(self) -> bool:
        """Whether it is a whole query."""
        whole = self.after(" ")
        if whole is None or (whole.select is None and whole.closed is None) or whole.brackets or whole.around:
            return False
        try:
            (whole.select or whole.closed).leave("")  # type: ignore[union-attr]
        except Refused:
            return False
        return True

    def _read(self, text: str) -> None:
        buffer, start = self.pending + text, len(self.text) - len(self.pending)
        self.text, self.pending = self.text + text, ""
        for match in LEXEME.finditer(buffer):
            self.at = start + match.start()
            following = buffer[match.end() : match.end() + 1]
            if match.lastgroup and not following:
                self.pending = match.group()
            self._lexeme(match.lastgroup or "symbol", match.group(), following)
        if self.select is not None and self.select.texts and not self._may_grow():
            self._refuse_repeated(self.text)

    def _lexeme(self, group: str, lexeme: str, following: str) -> None:
        """A lexeme and the character after it, or, while it is `pending`, one that may go on: is there any such?"""
        select, kind = self.select, self._kind(group, lexeme)
        self._refuse_in_key(kind, lexeme)
        if kind == "keyword":
            self._begun_keyword(lexeme) if self.pending else self._keyword(lexeme)
        elif kind == "name" and select is not None:
            self._begun_name(select, lexeme) if self.pending else self._name(select, lexeme, following)
        elif kind == "symbol":
            self._symbol(lexeme)
        elif kind == "string":
            self._text(lexeme, ended=not self.pending)
        if self.pending:
            return
        self._compare(kind, lexeme)
        if lexeme != "*":
            values = {"keyword": VALUES, "symbol": (")", "]"), "cast": ()}
            self.ends_value = kind not in values or lexeme in values[kind]
        self.before = lexeme

    def _kind(self, group: str, lexeme: str) -> str:
        """The lexeme's group; of words: type (also a part of a date), keyword or name."""
        if group not in ("word", "quoted"):
            return group
        capitals, before = group == "word" and lexeme.isupper(), self.before
        if (
            before == "::"
            or (before == "AS" and capitals)  # of CAST; aliases have no capitals
            or (before.lower() == "double" and "precision".startswith(lexeme.lower()))
            or (before == "(" and self.brackets[-1:] == ("extract",))
        ):
            return "type"
        return "keyword" if capitals and before != "." else "name"

    def _refuse_in_key(self, kind: str, lexeme: str) -> None:
        """Between ON and the two columns of a key stand their names only."""
        if self.select is not None and self.select.joining:
            dot = lexeme == "." and self.before not in ("ON", "=", "OR")
            if not (kind == "name" or dot or (lexeme == "=" and len(self.select.key) == 1)):
                raise Refused

    # --- Keywords ---------------------------------------------------------------------------------------------------

    def _begun_keyword(self, begun: str) -> None:
        """Some keyword that begins so must be possible."""
        words = [word for word in self._keywords() if word.startswith(begun)]
        if (words or self.ends_value) and not any(map(self._possible, words)):
            raise Refused

    def _keywords(self) -> frozenset[str]:
        """The keywords after a value; where one is to come, those that may be refused or begin as these do."""
        if not self.ends_value:
            return OPENING
        select = self.select
        if select is None:
            return SETS
        words = INNER if self.brackets else JOINED if select.on_due else select.part.following
        if select.cases:
            words |= CASES
        return words | {"FILTER"} if self.before == ")" and self.called in AGGREGATES else words

    def _possible(self, word: str) -> bool:
        """Whether the keyword may come next."""
        trial = self._copy()
        try:
            trial._keyword(word)
        except Refused:
            return False
        return True

    def _keyword(self, word: str) -> None:
        select = self.select
        if word in CALLS and (self._is_deepest or word.lower() in self._around_itself):
            raise Refused
        if word == "SELECT":
            self._begin_select()
        elif word in SETS:
            self._begin_operand()
        elif select is not None and not self.brackets:
            self._clause(select, word)

    def _clause(self, select: Select, word: str) -> None:
        """A keyword outside of brackets."""
        if word in ("DISTINCT", "BY"):
            if self.before in ("SELECT", "GROUP"):
                select.distinct |= word == "DISTINCT"
                select.begun = self.at + len(word)
        elif word == "FROM":
            if select.part is SELECT_LIST and self.before != "DISTINCT":  # x IS DISTINCT FROM y
                self._end_text(word)
                select.end_list()
                select.part = FROM
        elif word == "BETWEEN":
            select.between = True
        elif word in LINKS:
            self._link(select, word)
        elif word in ("CASE", "END"):
            select.cases += 1 if word == "CASE" else -1
            select.item = "case" if select.part is SELECT_LIST else None
        elif word in JOINS:
            if self.before not in JOINS and self.before != "OUTER":
                self._end_text(word)
                select.part.join(select)
                select.part, select.newest, select.on_due = FROM, None, True
        elif word == "ON":
            if select.newest is None:
                raise Refused
            self._end_text(word)
            select.part, select.texts, select.key, select.on_due = ON, (), (), False
        elif word in ENDS:
            self._end_text(word)
            select.leave(word)
            select.part, select.texts = PARTS[word], ()
            if word == "GROUP":
                select.grouped = ()
        elif word == "CROSS":
            raise Refused  # a join along no key

    def _link(self, select: Select, word: str) -> None:
        """AND or OR, outside of brackets."""
        if select.between and word == "AND":
            select.between = False
            return
        select.part.link(select, self.names, word)
        if not select.cases:
            self._end_text(word)
            if len(select.texts) == MOST_CONDITIONS:
                raise Refused

    def _end_text(self, lexeme: str) -> None:
        """The present item or condition ends before the lexeme that is being read; after it begins another one."""
        select = self.select
        if select is not None:
            if select.part.repeats:
                self._refuse_repeated(self.text[: self.at])
                select.texts = (*select.texts, _plain(self.text[select.begun : self.at]))
            select.begun = self.at + len(lexeme)

    def _refuse_repeated(self, text: str) -> None:
        """Refuse an item or a condition that stands in the same part already."""
        select = self.select
        if select is None or not select.texts or not select.part.repeats or self.brackets or select.cases:
            return
        if select.texts.count(_plain(text[select.begun :])) >= select.part.repeats:
            raise Refused

    def _may_grow(self) -> bool:
        """Whether the last lexeme may be the beginning of a longer name or number.

        A whole number takes no fraction: models that could not repeat `= 0` wrote `= 0.0`.
        """
        begun = self.pending
        if not begun[:1].isalpha():
            return begun[:1].isdigit() and begun != "0" and begun == _plain(begun)
        return any(name.startswith(begun) and name != begun for name in self.names.all)

    def _begin_select(self) -> None:
        select = self.select
        if self.brackets[-1:] == ("(",):  # a query in brackets
            self.around, self.brackets = (*self.around, (select, self.brackets[:-1])), ()
            if len(self.around) == DEEPEST:
                raise Refused
            if select is None:
                begun = Select()
            elif select.part is FROM:  # it sees nothing of the query around it
                begun = Select(outer=select.outer, required=frozenset() if select.sources else select.bare)
            elif select.part is OPERATOR:
                begun = Select(outer=select.outer, width=select.width)
            else:
                begun = Select(outer=select)
        elif select is None and self.closed is None:
            begun = Select()
        elif select is not None and select.part is OPERATOR:
            begun = select
            begun.part, begun.items = SELECT_LIST, 1
        else:
            raise Refused
        begun.begun = self.at + len("SELECT")
        self.select = begun

    def _begin_operand(self) -> None:
        """UNION, INTERSECT or EXCEPT."""
        first = self.select or self.closed
        if first is None or self.brackets or first.place == LONGEST:
            raise Refused
        if self.select is not None:
            self._end_text("")
            first.leave("")
        self.select = Select(
            first.outer, OPERATOR, place=first.place + 1, width=first.items, items=0,
            results=first.returned, combined=True,
        )  # fmt: skip
        self.closed = None

    # --- Symbols and texts ------------------------------------------------------------------------------------------

    def _symbol(self, symbol: str) -> None:
        select = self.select
        if symbol == "(":
            self._open_bracket()
        elif symbol == ")":
            self._close_bracket()
        elif select is None or self.brackets:
            self.ends_value = symbol == "*" and self.before == "("  # count(*)
        elif symbol == ",":
            self._end_text(symbol)
            select.part.comma(select)
        elif symbol == "*":
            star = select.part is SELECT_LIST and self.before in (".", "SELECT", "DISTINCT", ",")
            self.ends_value = star
            if not star:
                select.item = "?column?"
            elif self.before == ".":
                select.part.column(select, (self.qualifier, "*"), False)
                select.item = None
            else:
                select.star, select.item = True, None
        elif symbol != "." and select.part is SELECT_LIST:
            select.item = "?column?"  # an operator: PostgreSQL has no name for it

    def _open_bracket(self) -> None:
        if self._is_deepest:
            raise Refused
        function = self.before.lower()
        self.brackets = (*self.brackets, function if function in CALLED else "(")

    @property
    def _is_deepest(self) -> bool:
        """Whether there is no room for another bracket."""
        return len(self.brackets) + sum(len(brackets) + 1 for _, brackets in self.around) >= INNERMOST

    @property
    def _around_itself(self) -> frozenset[str]:
        """The functions in whose brackets this is, which are not called again: replace() may be."""
        return frozenset(self.brackets) - {"replace"}

    @property
    def _aggregated(self) -> bool:
        return not AGGREGATED.isdisjoint(self.brackets)

    def _close_bracket(self) -> None:
        if self.brackets:
            self.brackets, self.called = self.brackets[:-1], self.brackets[-1]
            return
        self.called = ""
        if not self.around or self.select is None:
            raise Refused
        self._end_text("")
        self.select.leave("")
        self.closed = self.select
        (select, self.brackets), self.around = self.around[-1], self.around[:-1]
        self.select = copy.copy(select)
        if self.select is None:
            return
        if self.select.part is OPERATOR:
            self.select.items = self.closed.items
        elif self.select.part is FROM and not self.brackets:
            FROM.add(self.select, "", Source(None, self.closed.returned))

    def _compare(self, kind: str, lexeme: str) -> None:
        """Keep what the next text or column is compared with, and how: `_name` has set it, other words end it."""
        if lexeme in OPERATORS:
            self.comparison += lexeme
        elif kind == "keyword" and lexeme in ("IN", "NOT", "LIKE", "ILIKE"):
            self.comparison = f"{self.comparison} {lexeme}".strip()
        elif lexeme in ("(", ",") and self.comparison.endswith("IN"):
            return
        elif kind not in ("string", "name", "type") and lexeme != ".":
            self.subject, self.comparison = None, ""

    def _text(self, lexeme: str, ended: bool) -> None:
        """A text, or the beginning of one, that is compared with a column."""
        select = self.select
        if len(lexeme) > LONGEST_TEXT:
            raise Refused
        if self.literals is None or self.subject is None or select is None or self.comparison not in HELD:
            return
        qualifier, name = self.subject
        if qualifier:
            source = select.visible.get(qualifier)
            table = source.table if source else self.names.tables.get(qualifier)
        else:
            table = next(iter(select.sources.values())).table if len(select.sources) == 1 else None
        if table is not None:
            place = self.text[select.begun : self.at].lstrip()
            taken = {text[len(place) :] for text in select.texts if text.startswith(place)}
            pattern = self.comparison.endswith("LIKE")
            if not self.literals.admits(table.name, name, lexeme, ended, pattern, taken):
                raise Refused

    # --- Names ------------------------------------------------------------------------------------------------------

    def _name(self, select: Select, lexeme: str, following: str) -> None:
        place, name = self._place(select), _unquoted(lexeme)
        after = following if place == "column" and following in (".", "(") else ""
        if place != "alias" and lexeme + after not in self._names(select, place):
            raise Refused
        listed = select.part is SELECT_LIST and not self.brackets
        if listed and (place == "alias" or self.before in ("SELECT", "DISTINCT", ",", ".")):
            select.item = name
        if place == "alias":
            if select.part is FROM and not self.brackets:
                FROM.alias(select, name)
        elif place == "source":
            FROM.add(select, name, Source(self.names.tables[name], self.names.columns[name]))
        elif after == "(":
            select.aggregate |= name in AGGREGATES
        elif after == ".":
            self.qualifier = name
        else:
            self.subject, self.comparison = (self.qualifier if place == "qualified" else "", name), ""
            select.part.column(select, self.subject, self._aggregated)

    def _begun_name(self, select: Select, begun: str) -> None:
        """Some name that begins so must be possible."""
        place = self._place(select)
        if place != "alias" and not any(name.startswith(begun) for name in self._names(select, place)):
            raise Refused

    def _place(self, select: Select) -> str:
        """What a name means here: alias, source, qualified (a column after its qualifier) or column."""
        if self.before == "AS":
            return "alias"
        if self.before == ".":
            return "qualified"
        return "source" if select.part is FROM and not self.brackets else "column"

    def _names(self, select: Select, place: str) -> set[str]:
        """What may come next, as it is written: tables; or columns, qualifiers with their dot, functions with their
        bracket (where there is room for it, and not within the same function's)."""
        written = self.names.written
        if place == "source":
            return {written[table] for table in FROM.source(select, self.names)}
        scope = select.part.scope(select, self.names, self._aggregated)
        qualifier = self.qualifier if place == "qualified" else ""
        compared = self.comparison and self.subject  # x = x
        columns = (column for column in scope.get(qualifier, ()) if (qualifier, column) != compared)
        names = {written.get(column, column) for column in columns}
        if place == "column":
            names |= {f"{written.get(table, table)}." for table in scope if table}
            if not (select.joining or self._is_deepest):
                names |= {f"{function}(" for function in select.part.functions(select) - self._around_itself}
        return names


def _plain(text: str) -> str:
    """An item or a condition without zeros at the end of a fraction: `= 3.0` is `= 3`."""
    return re.sub(r"(\b\d+(?:\.\d*[1-9])?)\.?0*$", r"\1", text.strip())


def _unquoted(name: str) -> str:
    return name[1:].removesuffix('"').replace('""', '"') if name.startswith('"') else name
