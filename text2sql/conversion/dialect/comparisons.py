"""Comparisons by SQLite's affinity rules, LIKE and GLOB, IS, and what counts as true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import (
    as_number,
    condition,
    is_number,
    lowered,
    number_or_null,
    stays_text,
    text_number,
    text_of,
)
from text2sql.conversion.dialect.tree import boolean, cast, is_not_null, is_null, number, rule, string, with_type, wrap
from text2sql.conversion.dialect.types import DATE_TYPES, INTEGER, NUMERIC_AFFINITIES, TEXT, Type, type_of

COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
EQUALITIES = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
Sides = tuple[exp.Expression, exp.Expression, type[exp.Binary]]
_NUMBER_FORMS = ("integer", "number", "integer or text")
_MIRRORED = {exp.LT: exp.GT, exp.GT: exp.LT, exp.LTE: exp.GTE, exp.GTE: exp.LTE}


def affinity_of(left: Type, right: Type) -> str:
    """What is applied to both sides of a comparison (sqlite3CompareAffinity): numeric, text, or nothing."""
    if left.affinity and right.affinity:
        return "numeric" if {left.affinity, right.affinity} & set(NUMERIC_AFFINITIES) else ""
    single = left.affinity or right.affinity
    return "numeric" if single in NUMERIC_AFFINITIES else "text" if single == "text" else ""


def comparison(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """`left operator right` with SQLite's meaning."""
    a, b = type_of(left), type_of(right)
    if not a.classes or not b.classes or a.pg == b.pg == "bytea":
        return _compared(operator, left, right)
    if "NOCASE" in (a.collation, b.collation) and a.textual and b.textual:
        return operator(
            this=lowered(left, replace(TEXT, nullable=a.nullable)),
            expression=lowered(right, replace(TEXT, nullable=b.nullable)),
        )
    applied = affinity_of(a, b)
    if applied == "numeric" and a.textual and b.textual:
        # A column of numeric affinity that holds texts, such as dates: a literal like '2014' becomes a number.
        for one, other, order in _both_ways(operator, left, right):
            stored, given = type_of(one), type_of(other)
            if other.is_string and text_number(other.this) is not None and stored.form not in _NUMBER_FORMS:
                return _constant(_MIRRORED.get(order, order), other, one)
            if stored.pg in DATE_TYPES and given.pg == "text":  # a date is no number, but these may be
                if given.form in ("integer", "number") and not given.blanks:
                    return _constant(_MIRRORED.get(order, order), other, one)
                if operator not in EQUALITIES:
                    raise Rejected("order of dates beside texts of which some may be numbers")
    if applied == "text" or (a.textual and b.textual):
        return _texts(operator, left, right)
    if _number(a) and _number(b):
        return _numbers(operator, left, right)
    if applied == "numeric":
        return _by_numeric_affinity(operator, left, right)
    for one, other, order in _both_ways(operator, left, right):
        if _number(type_of(one)) and type_of(other).textual:  # without affinity a number is less than any text
            return _constant(order, one, other)
    raise Rejected("comparison of a column that holds numbers and texts")


def _compared(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    return operator(this=left.copy(), expression=right.copy())


def _both_ways(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> Sequence[Sides]:
    """The comparison as it stands and mirrored, each as (one side, the other side, operator)."""
    return (left, right, operator), (right, left, _MIRRORED.get(operator, operator))


def _number(type_: Type) -> bool:
    return type_.classes <= {"integer", "real"} and (type_.numeric or type_.pg == "boolean")


def _numbers(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """Both are numbers; a comparison of a boolean with 1 or 0 is the boolean, or its opposite."""
    for a, b in ((left, right), (right, left)):
        if type_of(a).pg == "boolean" and operator in (exp.EQ, exp.NEQ) and not isinstance(a, exp.Boolean):
            value = as_number(b)
            if isinstance(value, exp.Literal) and value.this in ("0", "1"):
                same = (value.this == "1") == (operator is exp.EQ)
                return a.copy() if same else with_type(exp.Not(this=wrap(a)), type_of(a))
    return _compared(operator, as_number(left) or left, as_number(right) or right)


def _texts(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """Both are texts for SQLite; PostgreSQL may hold either as a date or, for a key's sake, as an integer."""
    if type_of(left).pg == type_of(right).pg:
        return _compared(operator, left, right)
    for one, other, order in _both_ways(operator, left, right):
        stored, given = type_of(one), type_of(other)
        if stored.pg in DATE_TYPES and other.is_string:
            if given.form == stored.pg:
                return _compared(order, one, other)
            if stored.pg == "timestamp" and given.form == "date" and order in _AT_MIDNIGHT:
                return _compared(_AT_MIDNIGHT[order], one, other)
        if stored.numeric and stored.textual and operator in EQUALITIES:
            if other.is_string and given.form == "integer":
                return _compared(order, one, exp.Literal.number(other.this))
            if given.numeric and given.integral:
                return _compared(order, one, other)
    return _compared(operator, text_of(left), text_of(right))


#: the text '2020-01-01' is less than '2020-01-01 00:00:00', which is the same moment
_AT_MIDNIGHT = {exp.GT: exp.GTE, exp.GTE: exp.GTE, exp.LT: exp.LT, exp.LTE: exp.LT}


def _by_numeric_affinity(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """Texts that look like numbers become numbers; the others stay texts, and are greater than any number."""
    numbers = as_number(left), as_number(right)
    if numbers[0] is not None and numbers[1] is not None:
        return _compared(operator, *numbers)
    if type_of(left).mixed or type_of(right).mixed:
        return _mixed(operator, left, right)
    one, other, order = _both_ways(operator, left, right)[numbers[0] is None]
    stored = type_of(other)
    if other.is_string or stored.pg in DATE_TYPES:  # a text that is no number
        return _constant(order, one, other)
    if operator in EQUALITIES and stored.form in ("integer or text", "blank") and type_of(one).integral:
        return _compared(operator, text_of(left), text_of(right))
    if operator is exp.EQ and stored.textual:
        return exp.EQ(this=one.copy(), expression=number_or_null(other))
    raise Rejected("comparison of numbers with a column of texts that are not all numbers")


def _constant(operator: type[exp.Binary], numeric: exp.Expression, text: exp.Expression) -> exp.Expression:
    """A number beside a text that cannot become one: never equal, and always less."""
    if operator in (exp.EQ, exp.GT, exp.GTE, exp.NullSafeEQ):
        return boolean(False)
    if operator is exp.NullSafeNEQ:
        return boolean(True)
    conditions = [is_not_null(node) for node in (numeric, text) if type_of(node).nullable]
    return exp.and_(*conditions, copy=False) if conditions else boolean(True)


def _mixed(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """A column that holds numbers and texts, beside a number or a text literal."""
    if not type_of(left).mixed:
        return _mixed(_MIRRORED.get(operator, operator), right, left)
    value, both = as_number(right), type_of(right).mixed
    if both or value is None:
        if operator in EQUALITIES and (both or right.is_string):
            return _compared(operator, left, right)
        one_text = "a column that holds numbers and texts beside a text"
        raise Rejected(f"order of {'two columns that hold numbers and texts' if both else one_text}")
    if operator in EQUALITIES and "real" not in type_of(left).classes and type_of(value).integral:
        return _compared(operator, left, text_of(value))
    compared = operator(this=number_or_null(left), expression=value.copy())
    if operator in (exp.GT, exp.GTE, exp.NEQ):
        greater = stays_text(left)
        if type_of(value).nullable:
            greater = exp.and_(greater, is_not_null(value), copy=False)
        return exp.Paren(this=exp.or_(greater, compared, copy=False))
    if operator in (exp.LT, exp.LTE, exp.EQ):
        return exp.and_(is_number(left), compared, copy=False)
    raise Rejected("IS beside a column that holds numbers and texts")


def _is_blank(column: exp.Expression, literal: exp.Expression) -> bool:
    """Whether an empty text is meant that is NULL in PostgreSQL's column."""
    known = isinstance(column, exp.Column) and type_of(column).blanks_are_null
    return known and literal.is_string and not literal.this


@rule(exp.In, *EQUALITIES, exp.Is)
def blanks(node: exp.Expression) -> exp.Expression | None:
    """An empty text in a column of numbers, dates or booleans is NULL in PostgreSQL: `x = ''` asks for NULL."""
    if isinstance(node, exp.In):
        others = [item for item in node.expressions if not _is_blank(node.this, item)]
        if len(others) == len(node.expressions):
            return None
        node.set("expressions", others)
        missing = is_null(node.this)
        return exp.Paren(this=exp.or_(node.copy(), missing)) if others else missing
    sides = (node.this, node.expression)
    column = next((a for a, b in (sides, sides[::-1]) if _is_blank(a, b)), None)
    if column is None:
        return None
    return exp.Not(this=is_null(column)) if isinstance(node, exp.NEQ | exp.NullSafeNEQ) else is_null(column)


@rule(*COMPARISONS, exp.Between, exp.In, exp.Case)
def affinities(node: exp.Expression) -> exp.Expression | None:
    """Before SQLite compares, a column's affinity decides whether a text and a number are made alike: `year = '2014'`
    compares numbers, `zip = 5` texts. PostgreSQL compares like with like only, so the side that SQLite would convert
    is converted in the query."""
    if isinstance(node, exp.Between):
        return _between(node)
    if isinstance(node, exp.In):
        return _in(node)
    if isinstance(node, exp.Case):
        return _case(node) if node.this is not None else None
    return comparison(type(node), node.left, node.right)


def _between(node: exp.Between) -> exp.Expression:
    low = comparison(exp.GTE, node.this, node.args["low"])
    high = comparison(exp.LTE, node.this, node.args["high"])
    if type(low) is exp.GTE and type(high) is exp.LTE and low.this == high.this:
        return exp.Between(this=low.this, low=low.expression, high=high.expression)
    both = exp.and_(low, high, copy=False)
    return both if isinstance(node.parent, exp.Where | exp.Having | exp.And) else exp.Paren(this=both)


def _in(node: exp.In) -> exp.Expression:
    query = node.args.get("query")
    if query is not None:
        return _in_query(node, query)
    if type_of(node.this).pg == "boolean":
        type_ = replace(INTEGER, affinity=type_of(node.this).affinity, nullable=type_of(node.this).nullable)
        node.set("this", cast(node.this, "integer", type_))
    kept: list[exp.Expression] = []
    operands: list[exp.Expression] = []
    for item in node.expressions:
        # The items of a list have no affinity of their own.
        plain = item if not type_of(item).affinity else with_type(item.copy(), replace(type_of(item), affinity=""))
        compared = comparison(exp.EQ, node.this, plain)
        if isinstance(compared, exp.EQ):
            operands.append(compared.this)
            kept.append(compared.expression)
        elif not isinstance(compared, exp.Boolean):
            raise Rejected("IN over a column that holds numbers and texts, or booleans")
    if not kept:
        return boolean(False)
    if any(operand != operands[0] for operand in operands):
        if not type_of(node.this).textual:
            raise Rejected("IN over values of different types")
        operands, kept = [text_of(node.this).copy()], [text_of(item).copy() for item in node.expressions]
    return exp.In(this=operands[0], expressions=kept)


def _in_query(node: exp.In, query: exp.Expression) -> exp.Expression:
    columns = query.meta.get("columns") or query.this.meta.get("columns") or []
    if isinstance(node.this, exp.Tuple) or len(columns) != 1:
        return node
    a, b = type_of(node.this), replace(columns[0][1], collation="")  # the left side's collation decides
    folded = a.collation == "NOCASE" and a.textual and b.textual
    if not folded and (a.pg == b.pg or (_number(a) and _number(b) and "boolean" not in (a.pg, b.pg))):
        return node
    stand_in = with_type(exp.column("stand_in"), b)
    compared = comparison(exp.EQ, node.this, stand_in)
    if isinstance(compared, exp.Boolean):
        return compared
    inner = query.unnest() if isinstance(query, exp.Subquery) else query
    if not isinstance(compared, exp.EQ) or not isinstance(inner, exp.Select):
        raise Rejected("IN over a query with values of another type")
    if compared.this == stand_in:  # `comparison` has put the number first
        compared = exp.EQ(this=compared.expression, expression=compared.this)
    if compared.expression != stand_in:
        projection = inner.expressions[0]
        if isinstance(projection, exp.Star):
            raise Rejected("IN over * with values of another type")
        typed_projection = comparison(exp.EQ, node.this, with_type(projection.unalias().copy(), b))
        projection.replace(typed_projection.expression.copy())
    return exp.In(this=compared.this, query=query.copy())


def _case(node: exp.Case) -> exp.Expression | None:
    compared = [comparison(exp.EQ, node.this, branch.this) for branch in node.args["ifs"]]
    if all(isinstance(c, exp.EQ) and c.this == node.this for c in compared):
        for branch, c in zip(node.args["ifs"], compared, strict=True):
            branch.set("this", c.expression)
        return None
    branches = [exp.If(this=c, true=b.args["true"].copy()) for b, c in zip(node.args["ifs"], compared, strict=True)]
    return exp.Case(ifs=branches, default=node.args.get("default"))


@rule(exp.Like, typed=True)
def like(node: exp.Like) -> exp.Expression:
    """SQLite's LIKE ignores the case of ASCII letters and knows no escape character unless given one; PostgreSQL's
    minds case and takes a backslash for one. ILIKE where the pattern has letters, LIKE where it has none."""
    operand, pattern = text_of(node.this), text_of(node.expression)
    if pattern.is_string and not isinstance(node.parent, exp.Escape):
        pattern = string(pattern.this.replace("\\", "\\\\"))
    caseless = pattern.is_string and not any(c.isascii() and c.isalpha() for c in pattern.this)
    type_ = exp.Like if caseless else exp.ILike
    return type_(this=_beside(operand), expression=_beside(pattern), negate=node.args.get("negate"))


def _beside(node: exp.Expression) -> exp.Expression:
    return node.copy() if isinstance(node, exp.DPipe) else wrap(node)


@rule(exp.Glob, typed=True)
def glob(node: exp.Glob) -> exp.Expression:
    """GLOB minds case, and its wildcards are * ? and [...]: LIKE where it has no brackets, else a regular
    expression."""
    if not node.expression.is_string:
        raise Rejected("GLOB with a pattern that is computed")
    pattern, operand = node.expression.this, _beside(text_of(node.this))
    if "[" in pattern:
        return exp.RegexpLike(this=operand, expression=string(glob_to_regex(pattern)))
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return exp.Like(this=operand, expression=string(escaped.replace("*", "%").replace("?", "_")))


def glob_to_regex(pattern: str) -> str:
    """The regular expression of a GLOB pattern.

    >>> glob_to_regex("[A-Z]?*.x")
    '^[A-Z]..*\\\\.x$'
    """
    out, position = "^", 0
    while position < len(pattern):
        char = pattern[position]
        end = pattern.find("]", position + 2) if char == "[" else -1
        if end > 0:
            out += pattern[position : end + 1].replace("\\", "\\\\")
            position = end
        else:
            out += {"*": ".*", "?": "."}.get(char, char if char.isalnum() or char in " _-" else f"\\{char}")
        position += 1
    return out + "$"


@rule(exp.And, exp.Or, exp.Not, exp.Where, exp.Having, exp.If, exp.Join, typed=True)
def conditions(node: exp.Expression) -> exp.Expression | None:
    """SQLite has no boolean type: a number is a condition (0 is false), and a condition is the number 1 or 0."""
    if isinstance(node, exp.Not) and type_of(node.this).numeric:
        return exp.EQ(this=wrap(node.this), expression=number(0))
    of_value = isinstance(node, exp.If) and isinstance(node.parent, exp.Case) and node.parent.this is not None
    for key in () if of_value else ("on",) if isinstance(node, exp.Join) else ("this", "expression"):
        operand = node.args.get(key)
        tested = condition(operand) if operand is not None else None
        if tested is not operand:
            node.set(key, tested.copy())
    return None
