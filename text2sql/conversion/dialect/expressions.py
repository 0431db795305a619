"""Arithmetic, concatenation, casts, and the functions on texts and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlglot import exp

from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import (
    INTEGER_PREFIX_PATTERN,
    arithmetic_value,
    common,
    text_of,
)
from text2sql.conversion.dialect.tree import (
    call,
    cast,
    is_string,
    literal_number,
    number,
    rewrite,
    string,
    with_type,
    wrap,
)
from text2sql.conversion.dialect.types import (
    DATE_TYPES,
    DOUBLE,
    INTEGER,
    NUMERIC,
    TEXT,
    Type,
    arithmetic_type,
    cast_type,
    in_group,
    type_of,
)

_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg)
_BITS = (exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseNot)
_SHIFTS = (exp.BitwiseLeftShift, exp.BitwiseRightShift)


def arithmetic(tree: exp.Expression) -> exp.Expression:
    """In SQLite any text is a number in arithmetic, integers divide to integers, and division by zero gives NULL.
    PostgreSQL wants numbers, divides sums of integers as decimals, and fails on a zero."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if "type" in node.meta:
            return None
        if isinstance(node, exp.Div):
            return _divide(node)
        if isinstance(node, exp.Mod):
            return _modulo(node)
        if isinstance(node, _BITS + _SHIFTS):
            for side in ("this", "expression"):
                if isinstance(node.args.get(side), exp.Expression):
                    node.set(side, wrap(_integer(_number(node.args[side]))))
            if isinstance(node, _SHIFTS):  # SQLite's integers have 64 bits
                node.set("this", cast(node.this, "bigint"))
        if isinstance(node, _ARITHMETIC):
            for side in ("this", "expression"):
                operand = node.args.get(side)
                if isinstance(operand, exp.Expression) and literal_number(operand) is None:
                    node.set(side, _number(operand))
        return None

    return rewrite(tree, change)


def _number(node: exp.Expression) -> exp.Expression:
    value = arithmetic_value(node)
    return value if value is node else value.copy()


def _nonzero(node: exp.Expression, dividend: exp.Expression | None = None) -> exp.Expression:
    """The divisor, NULL where it is 0 and `dividend` is not NULL."""
    value = literal_number(node)
    inner = node.unnest() if isinstance(node, exp.Paren) else node
    if (value is not None and value != 0) or (isinstance(inner, exp.Column) and not type_of(inner).zeros):
        return node.copy()
    if isinstance(inner, exp.Count):
        rows = isinstance(inner.this, exp.Star)
        of_no_rows = dividend is not None and any(
            rows or aggregate.this == inner.this for aggregate in dividend.find_all(exp.Sum, exp.Avg, exp.Min, exp.Max)
        )
        if of_no_rows or (rows and in_group(inner)):  # no rows: the dividend is NULL already
            return node.copy()
    return with_type(exp.Nullif(this=inner.copy(), expression=number(0)), replace(type_of(node), nullable=True))


def _divide(node: exp.Div) -> exp.Expression:
    left, right = _number(node.left), _number(node.right)
    a, b = type_of(left), type_of(right)
    type_ = replace(arithmetic_type(a, b), nullable=a.nullable or b.nullable or b.zeros)
    divisor = _nonzero(right, left)
    plain = with_type(exp.Div(this=left.copy(), expression=divisor.copy(), typed=True), type_)
    if "integer" not in a.classes or "integer" not in b.classes:
        if {a.pg, b.pg} <= {"integer", "bigint", "smallint"}:  # reals that are whole, stored as integers
            plain.set("this", cast(left, "numeric"))
        return plain
    if a.integral and b.integral:
        if a.pg == "numeric" or b.pg == "numeric":  # PostgreSQL's sum of bigint, or its extract
            return call("div", left, divisor, type_=type_)
        return plain
    if not all(_whole_means_integer(n) for n in (left, right)):
        # Sums of decimals: SQLite divides as integers where every value of a group is whole, which nobody means. It
        # is left to the proof whether that happens.
        return plain
    whole = [
        exp.EQ(this=wrap(n), expression=call("trunc", n, type_=type_of(n)))
        for n in (left, right)
        if not type_of(n).integral
    ]
    branch = exp.If(this=exp.and_(*whole, copy=False), true=call("div", left, divisor, type_=type_))
    return with_type(exp.Case(ifs=[branch], default=plain), type_)


def _whole_means_integer(node: exp.Expression) -> bool:
    """Whether a number is an integer for SQLite exactly if it is whole: in columns that make 5 of 5.0."""
    inner = node.unnest() if isinstance(node, exp.Paren) else node
    type_ = type_of(inner)
    return type_.integral or (isinstance(inner, exp.Column) and type_.affinity in ("numeric", "integer"))


def _modulo(node: exp.Mod) -> exp.Expression:
    left, right = (_integer(_number(side)) for side in (node.left, node.right))
    type_ = Type("bigint", frozenset({"integer"}), nullable=True)
    return with_type(exp.Mod(this=wrap(left), expression=_nonzero(wrap(right))), type_)


def _integer(node: exp.Expression) -> exp.Expression:
    """A number cut to an integer, as CAST(... AS INTEGER) and % do."""
    type_ = type_of(node)
    if type_.pg in ("integer", "bigint", "smallint"):
        return node
    value = literal_number(node)
    if value is not None:
        return number(int(value))
    inner = node if type_.integral else call("trunc", node, type_=type_)
    return cast(inner, "bigint")


def concatenation(tree: exp.Expression) -> exp.Expression:
    """|| makes texts of its operands; PostgreSQL does so only beside a text."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if isinstance(node, exp.Concat) and "type" not in node.meta:
            arguments = [_joined(a) for a in node.expressions]
            return call("concat", *arguments, type_=replace(TEXT, nullable=False))
        if not isinstance(node, exp.DPipe) or "type" in node.meta:
            return None
        left, right = node.left, node.right
        type_ = replace(TEXT, nullable=type_of(left).nullable or type_of(right).nullable)
        texts = [text_of(side) for side in (left, right)]
        # One text is enough for PostgreSQL to take the operator for that of texts.
        if any(type_of(side).pg in ("text", "unknown") for side in (left, right)):
            texts = [side if _prints_alike(side) else text for side, text in zip((left, right), texts, strict=True)]
        return with_type(exp.DPipe(this=texts[0].copy(), expression=texts[1].copy(), safe=True), type_)

    return rewrite(tree, change)


def _prints_alike(node: exp.Expression) -> bool:
    type_ = type_of(node)
    return type_.pg in (*DATE_TYPES, "integer", "bigint", "smallint") and isinstance(node, exp.Column | exp.Literal)


def _joined(node: exp.Expression) -> exp.Expression:
    text = text_of(node)
    return node if _prints_alike(node) else text


def casts(tree: exp.Expression) -> exp.Expression:
    """CAST takes the longest prefix that is a number, or 0, and cuts off decimals; PostgreSQL's fails on other texts,
    and rounds."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if not isinstance(node, exp.Cast) or "type" in node.meta:
            return None
        operand, affinity, type_ = node.this, cast_type(node.to), type_of(node.this)
        target = type_of(node)
        if affinity == "text":
            text = text_of(operand)
            return with_type(text.copy(), target) if text is operand else text
        if affinity == "blob":
            raise Rejected("CAST to BLOB")
        if affinity == "integer":
            return _cast_integer(operand, type_, target)
        numeric = _number(operand)
        if affinity == "real":
            return cast(numeric, "double precision", target)
        value = type_of(numeric)
        return with_type(numeric.copy(), replace(value, affinity="numeric"))

    return rewrite(tree, change)


def _cast_integer(operand: exp.Expression, type_: Type, target: Type) -> exp.Expression:
    if isinstance(operand, exp.Null):
        return cast(operand, "integer", target)
    if is_string(operand):
        source = re.match(INTEGER_PREFIX_PATTERN, operand.this)
        return number(int(source[1]) if source else 0)
    if type_.pg in ("integer", "bigint", "smallint"):
        return with_type(operand.copy(), replace(type_, affinity="integer"))
    if type_.pg in ("text", "unknown") and type_.form == "text" and not type_.mixed:
        prefix = call("substring", operand, string(INTEGER_PREFIX_PATTERN), type_=TEXT)
        source = with_type(exp.Coalesce(this=prefix, expressions=[string("0")]), replace(TEXT, nullable=False))
        value = cast(source, "bigint", target)
        if type_.nullable:
            given = exp.Not(this=exp.Is(this=wrap(operand), expression=exp.Null()))
            value = with_type(exp.Case(ifs=[exp.If(this=given, true=value)]), target)
        return value
    source = _number(operand)
    value = type_of(source)
    if value.pg in ("integer", "bigint"):
        return with_type(source.copy(), replace(value, affinity="integer"))
    if value.integral:
        return cast(source, "integer", replace(target, pg="integer"))
    return cast(call("trunc", source, type_=value), "integer", replace(target, pg="integer"))


def branches(tree: exp.Expression) -> exp.Expression:
    """The branches of CASE, iif, coalesce, ifnull and nullif may be of different types in SQLite; in PostgreSQL one
    type holds them all."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if "type" in node.meta:
            return None
        if isinstance(node, exp.Case):
            slots = [(branch, "true") for branch in node.args["ifs"]]
            slots += [(node, "default")] if node.args.get("default") is not None else []
        elif isinstance(node, exp.If) and not isinstance(node.parent, exp.Case):
            return _iif(node)
        elif isinstance(node, exp.Coalesce):
            unified = common([node.this, *node.expressions])
            return exp.Coalesce(this=unified[0].copy(), expressions=[m.copy() for m in unified[1:]])
        elif isinstance(node, exp.Nullif):
            return _nullif(node)
        else:
            return None
        unified = common([owner.args[key] for owner, key in slots])
        for (owner, key), value in zip(slots, unified, strict=True):
            owner.set(key, value if value is owner.args[key] else value.copy())
        return None

    return rewrite(tree, change)


def _iif(node: exp.If) -> exp.Expression:
    default = node.args.get("false")
    unified = common([node.args["true"], *([default] if default is not None else [])])
    branch = exp.If(this=node.this.copy(), true=unified[0].copy())
    return exp.Case(ifs=[branch], default=unified[1].copy() if default is not None else None)


def _nullif(node: exp.Nullif) -> exp.Expression:
    from text2sql.conversion.dialect.comparisons import comparison

    # A function compares without affinity: nullif('5', 5) is '5'.
    plain = [with_type(n.copy(), replace(type_of(n), affinity="")) for n in (node.this, node.expression)]
    compared = comparison(exp.EQ, *plain)
    if isinstance(compared, exp.Boolean):
        return node.this.copy()
    if not isinstance(compared, exp.EQ) or compared.this != node.this:
        raise Rejected("nullif of values of different types")
    return with_type(exp.Nullif(this=compared.this, expression=compared.expression), type_of(node))


# --- functions -------------------------------------------------------------------------------------------------------


def functions(tree: exp.Expression) -> exp.Expression:
    """Functions that PostgreSQL has under another name, with other arguments, or not at all. One that is in none of
    the tables is rejected."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if "type" in node.meta:
            return None
        key = node.name.lower() if isinstance(node, exp.Anonymous) else type(node)
        return _FUNCTIONS[key](node) if key in _FUNCTIONS else None

    return rewrite(tree, change)


def _nullable(*nodes: exp.Expression | None) -> bool:
    return any(type_of(n).nullable for n in nodes if n is not None)


def _of_texts(name: str, type_: Type) -> Callable[[exp.Expression], exp.Expression]:
    """A function of texts alone, which PostgreSQL calls `name`."""

    def function(node: exp.Expression) -> exp.Expression:
        operands = list(node.iter_expressions())
        return call(name, *map(text_of, operands), type_=replace(type_, nullable=_nullable(*operands)))

    return function


def _trim(node: exp.Trim) -> exp.Expression:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or ""), "trim")
    characters = node.args.get("expression")
    arguments = [text_of(a) for a in (node.this, characters) if a is not None]
    return call(name, *arguments, type_=replace(TEXT, nullable=_nullable(node.this, characters)))


def _substr(node: exp.Substring) -> exp.Expression:
    operand = text_of(node.this)
    type_ = replace(TEXT, nullable=_nullable(*node.iter_expressions()))
    start, length = node.args["start"], node.args.get("length")
    begin, size = literal_number(start), literal_number(length) if length is not None else None
    if size is not None and size < 0:
        raise Rejected("substr with a negative length")
    if length is not None and size is None:
        length = length if _never_negative(length) else _at_least_zero(length)
    if begin is None and not _never_negative(start):
        raise Rejected("substr from a place that may be negative")
    if begin is not None and begin < 0:
        if length is None:
            return call("right", operand, number(-int(begin)), type_=type_)
        counted = call("length", operand, type_=INTEGER)
        start = exp.Sub(this=counted, expression=number(-int(begin) - 1)) if begin < -1 else counted
    return call("substr", operand, start, *([length] if length is not None else []), type_=type_)


def _never_negative(node: exp.Expression) -> bool:
    """Whether an integer expression is certainly 0 or more."""
    value = literal_number(node)
    if value is not None:
        return value >= 0
    node = node.unnest() if isinstance(node, exp.Paren) else node
    if isinstance(node, exp.Add):
        return _never_negative(node.left) and _never_negative(node.right)
    name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
    return isinstance(node, exp.Length | exp.StrPosition | exp.Count) or name in ("length", "strpos")


def _at_least_zero(node: exp.Expression) -> exp.Expression:
    return call("greatest", node, number(0), type_=type_of(node))


def _round(node: exp.Round) -> exp.Expression:
    operand, decimals = _number(node.this), node.args.get("decimals")
    type_ = type_of(operand)
    target = Type("numeric", frozenset({"real"}), nullable=type_.nullable)
    if type_.pg == "double precision":
        operand = cast(operand, "numeric")
    elif decimals is not None and type_.pg != "numeric" and type_.integral:
        return with_type(operand.copy(), replace(target, pg=type_.pg))
    if decimals is not None and (literal_number(decimals) or 0) < 0:
        decimals = number(0)
    places = [] if decimals is None or literal_number(decimals) == 0 else [decimals]
    return call("round", operand, *places, type_=target)


def _abs(node: exp.Abs) -> exp.Expression:
    operand = _number(node.this)
    return call("abs", operand, type_=replace(type_of(operand), affinity=""))


def _extreme(name: str) -> Callable[[exp.Expression], exp.Expression]:
    """max(a, b) and min(a, b): NULL if any is NULL, while greatest and least pass over NULLs."""

    def function(node: exp.Expression) -> exp.Expression:
        arguments = common([node.this, *node.expressions])
        kinds = [type_of(a) for a in arguments]
        if len({k.textual for k in kinds if k.classes}) > 1:
            raise Rejected(f"{name} of numbers and texts")
        target = replace(type_of(node), nullable=_nullable(*arguments), affinity="")
        extreme = call(name, *arguments, type_=target)
        unknown = [exp.Not(this=exp.Is(this=wrap(a), expression=exp.Null())) for a in arguments if type_of(a).nullable]
        if not unknown:
            return extreme
        return with_type(exp.Case(ifs=[exp.If(this=exp.and_(*unknown, copy=False), true=extreme)]), target)

    return function


def _typeof(node: exp.Expression) -> exp.Expression:
    operand = node.this if isinstance(node, exp.Typeof) else node.expressions[0]
    type_ = type_of(operand)
    if not type_.classes:
        return with_type(string("null"), replace(TEXT, nullable=False))
    if len(type_.classes) != 1:
        raise Rejected("typeof of values of several types")
    name = string(next(iter(type_.classes)))
    if not type_.nullable:
        return with_type(name, replace(TEXT, nullable=False))
    missing = exp.If(this=exp.Is(this=wrap(operand), expression=exp.Null()), true=string("null"))
    return with_type(exp.Case(ifs=[missing], default=name), replace(TEXT, nullable=False))


def _format(node: exp.Expression) -> exp.Expression:
    arguments = list(node.expressions)
    template = node.this if isinstance(node, exp.Format) else arguments.pop(0)
    if not is_string(template):
        raise Rejected("printf with a format that is computed")
    parts: list[exp.Expression] = []
    rest = template.this
    for match in re.finditer(r"%(%|(-?)(0?)(\d*)(?:\.(\d+))?([dsfi]))", template.this):
        before, _, rest = rest.partition(match[0])
        if before:
            parts.append(string(before))
        if match[1] == "%":
            parts.append(string("%"))
            continue
        if not arguments:
            raise Rejected("printf with too few arguments")
        parts.append(_formatted(arguments.pop(0), match, among_others=match[0] != template.this))
    if "%" in rest:
        raise Rejected("printf with a conversion other than d, s, f")
    if rest:
        parts.append(string(rest))
    if arguments or not parts:
        raise Rejected("printf with too many arguments")
    if len(parts) == 1:
        return parts[0]
    return call("concat", *parts, type_=replace(TEXT, nullable=False))


def _formatted(argument: exp.Expression, match: re.Match[str], among_others: bool) -> exp.Expression:
    """One conversion of printf; `among_others`, concat makes a text of it."""
    left, zero, width, precision, type_ = match[2], match[3], match[4], match[5], match[6]
    text = replace(TEXT, nullable=type_of(argument).nullable)
    if type_ == "s":
        if precision:
            raise Rejected("printf with a precision of a text")
        shown = text_of(argument)
        if width and type_of(argument).nullable:
            shown = with_type(exp.Coalesce(this=shown.copy(), expressions=[string("")]), TEXT)
    elif type_ in "di":
        if precision:
            raise Rejected("printf with a precision of an integer")
        shown = _or_zero(_integer(_number(argument)))
        shown = shown if among_others and not width else cast(shown, "text")
    else:
        value = cast(_or_zero(_number(argument)), "numeric")
        shown = cast(call("round", value, number(int(precision or 6)), type_=NUMERIC), "text")
    if not width:
        return shown
    if zero and type_ == "s":
        raise Rejected("printf with zeros before a text")
    # lpad cuts what is longer; printf does not
    size = call("greatest", number(int(width)), call("length", shown, type_=INTEGER), type_=INTEGER)
    pad = "rpad" if left else "lpad"
    return call(pad, shown, size, *([string("0")] if zero and not left else []), type_=text)


def _or_zero(node: exp.Expression) -> exp.Expression:
    """printf writes 0 for NULL."""
    type_ = type_of(node)
    if not type_.nullable:
        return node
    return with_type(exp.Coalesce(this=node.copy(), expressions=[number(0)]), replace(type_, nullable=False))


def _double(name: str) -> Callable[[exp.Expression], exp.Expression]:
    def function(node: exp.Expression) -> exp.Expression:
        arguments = [_number(a) for a in node.iter_expressions()]
        return call(name, *arguments, type_=replace(DOUBLE, nullable=True))

    return function


def _whole(name: str) -> Callable[[exp.Expression], exp.Expression]:
    def function(node: exp.Expression) -> exp.Expression:
        operand = _number(node.this)
        type_ = type_of(operand)
        return operand.copy() if type_.integral else call(name, operand, type_=type_)

    return function


def _log(node: exp.Log) -> exp.Expression:
    arguments = [node.this, *([node.expression] if node.args.get("expression") is not None else [])]
    if len(arguments) == 1 or literal_number(node.this) == 10:
        return call("log", _number(arguments[-1]), type_=replace(DOUBLE, nullable=True))
    return call("log", *(cast(_number(a), "numeric") for a in arguments), type_=replace(NUMERIC, nullable=True))


def _chr(node: exp.Chr) -> exp.Expression:
    if len(node.expressions) == 1:
        return call("chr", _number(node.expressions[0]), type_=replace(TEXT, nullable=False))
    parts = [call("chr", _number(e), type_=TEXT) for e in node.expressions]
    return call("concat", *parts, type_=replace(TEXT, nullable=False))


def _hex(node: exp.Hex) -> exp.Expression:
    type_ = type_of(node.this)
    inner = node.this if type_.pg == "bytea" else call("convert_to", text_of(node.this), string("UTF8"), type_=TEXT)
    encoded = call("encode", inner, string("hex"), type_=TEXT)
    return call("upper", encoded, type_=replace(TEXT, nullable=type_.nullable))


def _inner(node: exp.Anonymous) -> exp.Expression:
    return node.expressions[0].copy()


def _sign(node: exp.Sign) -> exp.Expression:
    operand = _number(node.this)
    return cast(call("sign", operand, type_=type_of(operand)), "integer")


def _unicode(node: exp.Unicode) -> exp.Expression:
    return call("ascii", text_of(node.this), type_=replace(INTEGER, nullable=True))


def _random(node: exp.Rand) -> exp.Expression:
    if isinstance(node.parent, exp.Ordered):
        return call("random", type_=replace(DOUBLE, nullable=False))
    raise Rejected("random(): its range differs, and no result could be compared")


#: by sqlglot's class, or by the name where it has none
_FUNCTIONS: dict[type | str, Callable[[Any], exp.Expression]] = {
    exp.Length: _of_texts("length", INTEGER),
    exp.Upper: _of_texts("upper", TEXT),
    exp.Lower: _of_texts("lower", TEXT),
    exp.Trim: _trim,
    exp.Substring: _substr,
    exp.StrPosition: _of_texts("strpos", INTEGER),
    exp.Replace: _of_texts("replace", TEXT),
    exp.Round: _round,
    exp.Abs: _abs,
    exp.Greatest: _extreme("greatest"),
    exp.Least: _extreme("least"),
    exp.Typeof: _typeof,
    exp.Format: _format,
    exp.Sqrt: _double("sqrt"),
    exp.Pow: _double("power"),
    exp.Exp: _double("exp"),
    exp.Ln: _double("ln"),
    exp.Log: _log,
    exp.Pi: _double("pi"),
    exp.Ceil: _whole("ceil"),
    exp.Floor: _whole("floor"),
    exp.Sign: _sign,
    exp.Chr: _chr,
    exp.Hex: _hex,
    exp.Unicode: _unicode,
    exp.Rand: _random,
    "printf": _format,
    "typeof": _typeof,
    "likely": _inner,
    "unlikely": _inner,
}


def _groups(node: exp.Column) -> bool:
    """Whether rows are put together by a column: GROUP BY, PARTITION BY, count(DISTINCT ...)."""
    counted = isinstance(node.parent, exp.Distinct) and isinstance(node.parent.parent, exp.Count)
    return counted or isinstance(node.parent, exp.Group) or node.arg_key == "partition_by"


def collations(tree: exp.Expression) -> exp.Expression:
    """COLLATE NOCASE folds ASCII letters, in a comparison, a sort key, and where rows are grouped; BINARY is what
    PostgreSQL does anyway."""

    def change(node: exp.Expression) -> exp.Expression | None:
        if isinstance(node, exp.Column) and _groups(node) and type_of(node).collation == "NOCASE":
            operand = node.meta.get("alias", node)
            return call("lower", text_of(operand), type_=replace(type_of(node), collation=""))
        if not isinstance(node, exp.Collate):
            return None
        name = node.expression.name.upper()
        if name == "BINARY":
            return with_type(node.this.copy(), replace(type_of(node.this), collation=""))
        if name != "NOCASE":
            raise Rejected(f"collation {name}")
        compared = isinstance(node.parent, exp.EQ | exp.NEQ | exp.LT | exp.GT | exp.LTE | exp.GTE)
        if compared or (isinstance(node.parent, exp.In | exp.Between) and node.arg_key == "this"):
            return with_type(node.this.copy(), replace(type_of(node.this), collation="NOCASE"))
        return call("lower", text_of(node.this), type_=type_of(node.this))

    return rewrite(tree, change)
