"""Comparisons by SQLite's affinity rules, LIKE and GLOB, IS, and what counts as true."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import (
    as_number,
    condition,
    is_number,
    number_or_null,
    stays_text,
    text_number,
    text_of,
)
from text2sql.conversion.dialect.tree import (
    call,
    false,
    is_not_null,
    is_string,
    number,
    rewrite,
    string,
    with_type,
    wrap,
)
from text2sql.conversion.dialect.types import BOOLEAN, DATE_TYPES, NUMERIC_AFFINITIES, TEXT, Type, type_of

COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
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
    if not a.classes or not b.classes:
        return operator(this=left.copy(), expression=right.copy())
    if a.pg == "bytea" or b.pg == "bytea":
        if a.pg != b.pg:
            raise Rejected("comparison of a BLOB with another type")
        return operator(this=left.copy(), expression=right.copy())
    if "NOCASE" in (a.collation, b.collation) and a.textual and b.textual:
        lowered = [call("lower", text_of(n), type_=replace(TEXT, nullable=type_of(n).nullable)) for n in (left, right)]
        return operator(this=lowered[0], expression=lowered[1])
    applied = affinity_of(a, b)
    if applied == "numeric" and a.textual and b.textual:
        # A column of numeric affinity that holds texts, such as dates: a literal like '2014' becomes a number.
        for one, other, order in ((left, right, operator), (right, left, _MIRRORED.get(operator, operator))):
            if is_string(other) and text_number(other.this) is not None and type_of(one).form not in _NUMBER_FORMS:
                return _constant(_MIRRORED.get(order, order), other, one)
            other_kind = type_of(other)
            if type_of(one).pg in DATE_TYPES and other_kind.pg == "text":  # a date is no number, but these may be
                if other_kind.form in ("integer", "number") and not other_kind.blanks:
                    return _constant(_MIRRORED.get(order, order), other, one)
                if operator not in (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ):
                    raise Rejected("order of dates beside texts of which some may be numbers")
    if applied == "text" or (a.textual and b.textual):
        return _texts(operator, left, right)
    if _number(a) and _number(b):
        return _numbers(operator, left, right)
    if applied == "numeric":
        return _by_numeric_affinity(operator, left, right)
    if _number(a) and b.textual:  # without affinity a number is less than any text
        return _constant(operator, left, right)
    if a.textual and _number(b):
        return _constant(_MIRRORED.get(operator, operator), right, left)
    raise Rejected("comparison of a column that holds numbers and texts")


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
    if type_of(left).pg == type_of(right).pg == "boolean":
        return operator(this=left.copy(), expression=right.copy())
    return operator(this=(as_number(left) or left).copy(), expression=(as_number(right) or right).copy())


def _texts(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """Both are texts for SQLite; PostgreSQL may hold either as a date or, for a key's sake, as an integer."""
    a, b = type_of(left), type_of(right)
    if a.pg == b.pg:
        return operator(this=left.copy(), expression=right.copy())
    for one, other, order in ((left, right, operator), (right, left, _MIRRORED.get(operator, operator))):
        stored, given = type_of(one), type_of(other)
        if stored.pg in DATE_TYPES and is_string(other):
            if given.form == stored.pg:
                return order(this=one.copy(), expression=other.copy())
            if stored.pg == "timestamp" and given.form == "date" and order in _AT_MIDNIGHT:
                return _AT_MIDNIGHT[order](this=one.copy(), expression=other.copy())
        if stored.numeric and stored.textual and operator in (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ):
            if is_string(other) and given.form == "integer":
                return order(this=one.copy(), expression=exp.Literal.number(other.this))
            if given.numeric and given.integral:
                return order(this=one.copy(), expression=other.copy())
    return operator(this=text_of(left).copy(), expression=text_of(right).copy())


#: the text '2020-01-01' is less than '2020-01-01 00:00:00', which is the same moment
_AT_MIDNIGHT = {exp.GT: exp.GTE, exp.GTE: exp.GTE, exp.LT: exp.LT, exp.LTE: exp.LT}


def _by_numeric_affinity(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """Texts that look like numbers become numbers; the others stay texts, and are greater than any number."""
    numbers = as_number(left), as_number(right)
    if numbers[0] is not None and numbers[1] is not None:
        return operator(this=numbers[0].copy(), expression=numbers[1].copy())
    if type_of(left).mixed or type_of(right).mixed:
        return _mixed(operator, left, right)
    one, other = (left, right) if numbers[0] is not None else (right, left)
    order = operator if one is left else _MIRRORED.get(operator, operator)
    if is_string(other) or type_of(other).pg in DATE_TYPES:  # a text that is no number
        return _constant(order, one, other)
    stored = type_of(other)
    if operator in (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ):
        if stored.form in ("integer or text", "blank") and type_of(one).integral:
            return operator(this=text_of(left).copy(), expression=text_of(right).copy())
        if stored.textual and operator is exp.EQ:
            return exp.EQ(this=one.copy(), expression=number_or_null(other))
    raise Rejected("comparison of numbers with a column of texts that are not all numbers")


def _constant(operator: type[exp.Binary], numeric: exp.Expression, text: exp.Expression) -> exp.Expression:
    """A number beside a text that cannot become one: never equal, and always less."""
    if operator in (exp.EQ, exp.GT, exp.GTE, exp.NullSafeEQ):
        return false()
    if operator is exp.NullSafeNEQ:
        return with_type(exp.Boolean(this=True), replace(BOOLEAN, nullable=False))
    known = [node for node in (numeric, text) if type_of(node).nullable]
    conditions = [is_not_null(node) for node in known]
    return exp.and_(*conditions, copy=False) if conditions else is_not_null(numeric)


def _mixed(operator: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    """A column that holds numbers and texts, beside a number or a text literal."""
    if not type_of(left).mixed:
        return _mixed(_MIRRORED.get(operator, operator), right, left)
    value = as_number(right)
    if type_of(right).mixed:
        if operator in (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ):
            return operator(this=left.copy(), expression=right.copy())
        raise Rejected("order of two columns that hold numbers and texts")
    if value is None:
        if is_string(right) and operator in (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ):
            return operator(this=left.copy(), expression=right.copy())
        raise Rejected("order of a column that holds numbers and texts beside a text")
    equality = operator in (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
    if equality and "real" not in type_of(left).classes and type_of(value).integral:
        return operator(this=left.copy(), expression=text_of(value).copy())
    compared = operator(this=number_or_null(left), expression=value.copy())
    if operator in (exp.GT, exp.GTE, exp.NEQ):
        greater = stays_text(left)
        if type_of(value).nullable:
            greater = exp.and_(greater, is_not_null(value), copy=False)
        return exp.Paren(this=exp.or_(greater, compared, copy=False))
    if operator in (exp.LT, exp.LTE, exp.EQ):
        return exp.and_(is_number(left), compared, copy=False)
    raise Rejected("IS beside a column that holds numbers and texts")


def blanks(tree: exp.Expression) -> exp.Expression:
    """An empty text in a column of numbers, dates or booleans is NULL in PostgreSQL: `x = ''` asks for NULL."""

    def is_blank(column: exp.Expression, literal: exp.Expression) -> bool:
        known = isinstance(column, exp.Column) and type_of(column).blanks_are_null
        return known and is_string(literal) and not literal.this

    def change(node: exp.Expression) -> exp.Expression | None:
        if isinstance(node, exp.In) and any(is_blank(node.this, item) for item in node.expressions):
            others = [item for item in node.expressions if not is_blank(node.this, item)]
            missing = exp.Is(this=node.this.copy(), expression=exp.Null())
            node.set("expressions", others)
            return exp.Paren(this=exp.or_(node.copy(), missing)) if others else missing
        if isinstance(node, (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Is)):
            sides = (node.left, node.right)
            column = next((a for a, b in (sides, sides[::-1]) if is_blank(a, b)), None)
            if column is not None:
                missing = exp.Is(this=column.copy(), expression=exp.Null())
                return exp.Not(this=missing) if isinstance(node, exp.NEQ | exp.NullSafeNEQ) else missing
        return None

    return rewrite(tree, change)


def affinities(tree: exp.Expression) -> exp.Expression:
    """Before SQLite compares, a column's affinity decides whether a text and a number are made alike: `year = '2014'`
    compares numbers, `zip = 5` texts. PostgreSQL compares like with like only, so the side that SQLite would convert
    is converted in the query."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if "type" in node.meta:
            return None
        if isinstance(node, COMPARISONS):
            return _pair(node)
        if isinstance(node, exp.Between):
            return _between(node)
        if isinstance(node, exp.In):
            return _in(node)
        if isinstance(node, exp.Case) and node.this is not None:
            return _case(node)
        return None

    return rewrite(tree, change)


def _pair(node: exp.Binary) -> exp.Expression:
    left, right = node.left, node.right
    if isinstance(left, exp.Tuple) or isinstance(right, exp.Tuple):
        if not (isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple)):
            raise Rejected("comparison of a row value with something else")
        pairs = zip(left.expressions, right.expressions, strict=True)
        if any(comparison(exp.EQ, a, b) != exp.EQ(this=a, expression=b) for a, b in pairs):
            raise Rejected("comparison of row values of different types")
        return node
    return comparison(type(node), left, right)


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
    kept: list[exp.Expression] = []
    operands: list[exp.Expression] = []
    for item in node.expressions:
        # The items of a list have no affinity of their own.
        plain = item if not type_of(item).affinity else with_type(item.copy(), replace(type_of(item), affinity=""))
        compared = comparison(exp.EQ, node.this, plain)
        if isinstance(compared, exp.Boolean):
            continue
        if not isinstance(compared, exp.EQ):
            raise Rejected("IN over a column that holds numbers and texts, or booleans")
        operands.append(compared.this)
        kept.append(compared.expression)
    if not kept:
        return false()
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


def like(tree: exp.Expression) -> exp.Expression:
    """SQLite's LIKE ignores the case of ASCII letters and knows no escape character unless given one; PostgreSQL's
    minds case and takes a backslash for one. ILIKE where the pattern has letters, LIKE where it has none."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if type(node) is not exp.Like:
            return None
        operand = text_of(node.this)
        pattern = text_of(node.expression)
        escaped = isinstance(node.parent, exp.Escape)
        if is_string(pattern) and "\\" in pattern.this and not escaped:
            pattern = string(pattern.this.replace("\\", "\\\\"))
        caseless = is_string(pattern) and not any(c.isascii() and c.isalpha() for c in pattern.this)
        type_ = exp.Like if caseless else exp.ILike
        return type_(this=_beside(operand), expression=_beside(pattern), negate=node.args.get("negate"))

    return rewrite(tree, change)


def _beside(node: exp.Expression) -> exp.Expression:
    return node.copy() if isinstance(node, exp.DPipe) else wrap(node)


def glob(tree: exp.Expression) -> exp.Expression:
    """GLOB minds case, and its wildcards are * ? and [...]: LIKE where it has no brackets, else a regular
    expression."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if not isinstance(node, exp.Glob):
            return None
        if not is_string(node.expression):
            raise Rejected("GLOB with a pattern that is computed")
        pattern, operand = node.expression.this, _beside(text_of(node.this))
        if "[" not in pattern:
            escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            return exp.Like(this=operand, expression=string(escaped.replace("*", "%").replace("?", "_")))
        return exp.RegexpLike(this=operand, expression=string(glob_to_regex(pattern)))

    return rewrite(tree, change)


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


def conditions(tree: exp.Expression) -> exp.Expression:
    """SQLite has no boolean type: a number is a condition (0 is false), and a condition is the number 1 or 0."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if isinstance(node, exp.And | exp.Or):
            node.set("this", _operand(node.this))
            node.set("expression", _operand(node.expression))
        elif isinstance(node, exp.Not) and type_of(node.this).numeric:
            return exp.EQ(this=wrap(node.this), expression=number(0))
        elif isinstance(node, exp.Where | exp.Having | exp.Not):
            node.set("this", _operand(node.this))
        elif isinstance(node, exp.If):
            parent = node.parent
            if not (isinstance(parent, exp.Case) and parent.this is not None):
                node.set("this", _operand(node.this))
        elif isinstance(node, exp.Join) and node.args.get("on") is not None:
            node.set("on", _operand(node.args["on"]))
        return None

    return rewrite(tree, change)


def _operand(node: exp.Expression) -> exp.Expression:
    tested = condition(node)
    if tested is node:
        return node
    return tested.copy()
