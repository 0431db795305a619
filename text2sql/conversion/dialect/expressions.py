"""Arithmetic, concatenation, casts, and the functions on texts and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlglot import exp

from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.coercion import INTEGER_PREFIX_PATTERN, arithmetic_value, common, lowered, text_of
from text2sql.conversion.dialect.comparisons import COMPARISONS, comparison
from text2sql.conversion.dialect.tree import (
    call,
    case,
    cast,
    coalesce,
    is_null,
    literal_number,
    number,
    rule,
    string,
    unwrapped,
    where_known,
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
    any_nullable,
    arithmetic_type,
    cast_type,
    in_group,
    type_of,
)

_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg)
Read = Callable[[exp.Expression], exp.Expression]
Function = Callable[[Any], exp.Expression]
_BITS = (exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseNot, exp.BitwiseLeftShift, exp.BitwiseRightShift)


@rule(*_ARITHMETIC, *_BITS)
def arithmetic(node: exp.Expression) -> exp.Expression | None:
    """In SQLite any text is a number in arithmetic, integers divide to integers, and division by zero gives NULL.
    PostgreSQL wants numbers, divides sums of integers as decimals, and fails on a zero."""
    if isinstance(node, exp.Div):
        return _divide(node)
    if isinstance(node, exp.Mod):
        return _modulo(node)
    for side in ("this", "expression"):
        operand = node.args.get(side)
        if isinstance(operand, exp.Expression) and isinstance(node, _BITS):
            node.set(side, wrap(_integer(_number(operand))))
        elif isinstance(operand, exp.Expression) and literal_number(operand) is None:
            node.set(side, _number(operand))
    if isinstance(node, exp.BitwiseLeftShift | exp.BitwiseRightShift):  # SQLite's integers have 64 bits
        node.set("this", cast(node.this, "bigint"))
    return None


def _number(node: exp.Expression) -> exp.Expression:
    value = arithmetic_value(node)
    return value if value is node else value.copy()


def _nonzero(node: exp.Expression, dividend: exp.Expression | None = None) -> exp.Expression:
    """The divisor, NULL where it is 0 and `dividend` is not NULL."""
    inner = unwrapped(node)
    if literal_number(node) or (isinstance(inner, exp.Column) and not type_of(inner).zeros):
        return node.copy()
    if isinstance(inner, exp.Nullif) and literal_number(inner.expression) == 0:
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
    return case(exp.and_(*whole, copy=False), call("div", left, divisor, type_=type_), type_, plain)


def _whole_means_integer(node: exp.Expression) -> bool:
    """Whether a number is an integer for SQLite exactly if it is whole: in columns that make 5 of 5.0."""
    inner = unwrapped(node)
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


@rule(exp.Concat, exp.DPipe)
def concatenation(node: exp.Concat | exp.DPipe) -> exp.Expression:
    """|| makes texts of its operands; PostgreSQL does so only beside a text."""
    operands = node.expressions if isinstance(node, exp.Concat) else [node.left, node.right]
    texts = [text_of(operand) for operand in operands]
    # One text is enough for PostgreSQL to take the operator for that of texts.
    if isinstance(node, exp.Concat) or any(type_of(operand).pg in ("text", "unknown") for operand in operands):
        texts = [o if _prints_alike(o) else text for o, text in zip(operands, texts, strict=True)]
    if isinstance(node, exp.Concat):
        return call("concat", *texts, type_=replace(TEXT, nullable=False))
    left, right = (text.copy() for text in texts)
    return with_type(exp.DPipe(this=left, expression=right, safe=True), replace(TEXT, nullable=any_nullable(operands)))


def _prints_alike(node: exp.Expression) -> bool:
    type_ = type_of(node)
    return type_.pg in (*DATE_TYPES, "integer", "bigint", "smallint") and isinstance(node, exp.Column | exp.Literal)


@rule(exp.Cast)
def casts(node: exp.Cast) -> exp.Expression:
    """CAST takes the longest prefix that is a number, or 0, and cuts off decimals; PostgreSQL's fails on other texts,
    and rounds."""
    operand, affinity, target = node.this, cast_type(node.to), type_of(node)
    if affinity == "text":
        text = text_of(operand)
        return with_type(text.copy(), target) if text is operand else text
    if affinity == "blob":
        raise Rejected("CAST to BLOB")
    if affinity == "integer":
        return _cast_integer(operand, type_of(operand), target)
    numeric = _number(operand)
    if affinity == "real":
        return cast(numeric, "double precision", target)
    return with_type(numeric.copy(), replace(type_of(numeric), affinity="numeric"))


def _cast_integer(operand: exp.Expression, type_: Type, target: Type) -> exp.Expression:
    if isinstance(operand, exp.Null):
        return cast(operand, "integer", target)
    if operand.is_string:
        source = re.match(INTEGER_PREFIX_PATTERN, operand.this)
        return number(int(source[1]) if source else 0)
    if type_.pg in ("text", "unknown") and type_.form == "text" and not type_.mixed:
        prefix = call("substring", operand, string(INTEGER_PREFIX_PATTERN), type_=TEXT)
        known = coalesce(prefix, string("0"), replace(TEXT, nullable=False))
        return where_known([operand], cast(known, "bigint", target), target)
    source = _number(operand)
    value = type_of(source)
    if value.pg in ("integer", "bigint"):
        return with_type(source.copy(), replace(value, affinity="integer"))
    if value.integral:
        return cast(source, "integer", replace(target, pg="integer"))
    return cast(call("trunc", source, type_=value), "integer", replace(target, pg="integer"))


@rule(exp.Case, exp.If, exp.Coalesce, exp.Nullif)
def branches(node: exp.Expression) -> exp.Expression | None:
    """The branches of CASE, iif, coalesce, ifnull and nullif may be of different types in SQLite; in PostgreSQL one
    type holds them all."""
    if isinstance(node, exp.Nullif):
        return _nullif(node)
    if isinstance(node, exp.Case):
        slots = [(branch, "true") for branch in node.args["ifs"]]
        slots += [(node, "default")] if node.args.get("default") is not None else []
        unified = common([owner.args[key] for owner, key in slots])
        for (owner, key), value in zip(slots, unified, strict=True):
            owner.set(key, value if value is owner.args[key] else value.copy())
        return None
    if isinstance(node, exp.Coalesce):
        first, *others = (value.copy() for value in common([node.this, *node.expressions]))
        return exp.Coalesce(this=first, expressions=others)
    if isinstance(node.parent, exp.Case):
        return None
    values = [value for value in (node.args["true"], node.args.get("false")) if value is not None]
    first, *others = (value.copy() for value in common(values))
    return exp.Case(ifs=[exp.If(this=node.this.copy(), true=first)], default=others[0] if others else None)


def _nullif(node: exp.Nullif) -> exp.Expression:
    # A function compares without affinity: nullif('5', 5) is '5'.
    plain = [with_type(n.copy(), replace(type_of(n), affinity="")) for n in (node.this, node.expression)]
    compared = comparison(exp.EQ, *plain)
    if isinstance(compared, exp.Boolean):
        return node.this.copy()
    if not isinstance(compared, exp.EQ) or compared.this != node.this:
        raise Rejected("nullif of values of different types")
    return with_type(exp.Nullif(this=compared.this, expression=compared.expression), type_of(node))


# --- functions -------------------------------------------------------------------------------------------------------


@rule(exp.Func)
def functions(node: exp.Func) -> exp.Expression | None:
    """Functions that PostgreSQL has under another name, with other arguments, or not at all. One that is in none of
    the tables is rejected."""
    key = node.name.lower() if isinstance(node, exp.Anonymous) else type(node)
    return _FUNCTIONS[key](node) if key in _FUNCTIONS else None


def _called(name: str, read: Read, type_: Type, nullable: bool = False) -> Function:
    """A function that PostgreSQL calls `name`, with operands that `read` makes texts or numbers."""

    def function(node: exp.Expression) -> exp.Expression:
        operands = list(node.iter_expressions())
        return call(name, *map(read, operands), type_=replace(type_, nullable=nullable or any_nullable(operands)))

    return function


def _trim(node: exp.Trim) -> exp.Expression:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or ""), "trim")
    characters = node.args.get("expression")
    arguments = [text_of(a) for a in (node.this, characters) if a is not None]
    return call(name, *arguments, type_=replace(TEXT, nullable=any_nullable((node.this, characters))))


def _substr(node: exp.Substring) -> exp.Expression:
    operand = text_of(node.this)
    type_ = replace(TEXT, nullable=any_nullable(node.iter_expressions()))
    start, length = node.args["start"], node.args.get("length")
    begin, size = literal_number(start), literal_number(length) if length is not None else None
    if size is not None and size < 0:
        raise Rejected("substr with a negative length")
    if length is not None and size is None:
        length = length if _never_negative(length) else call("greatest", length, number(0), type_=type_of(length))
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
    node = unwrapped(node)
    if isinstance(node, exp.Add):
        return _never_negative(node.left) and _never_negative(node.right)
    name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
    return isinstance(node, exp.Length | exp.StrPosition | exp.Count) or name in ("length", "strpos")


def _round(node: exp.Round) -> exp.Expression:
    operand, decimals = _number(node.this), node.args.get("decimals")
    type_ = type_of(operand)
    target = Type("numeric", frozenset({"real"}), nullable=type_.nullable)
    if type_.pg == "double precision":
        operand = cast(operand, "numeric")
    if decimals is not None and (literal_number(decimals) or 0) < 0:
        decimals = number(0)
    places = [] if decimals is None or literal_number(decimals) == 0 else [decimals]
    return call("round", operand, *places, type_=target)


def _abs(node: exp.Abs) -> exp.Expression:
    operand = _number(node.this)
    return call("abs", operand, type_=replace(type_of(operand), affinity=""))


def _extreme(name: str) -> Function:
    """max(a, b) and min(a, b): NULL if any is NULL, while greatest and least pass over NULLs."""

    def function(node: exp.Expression) -> exp.Expression:
        arguments = common([node.this, *node.expressions])
        kinds = [type_of(a) for a in arguments]
        if len({k.textual for k in kinds if k.classes}) > 1:
            raise Rejected(f"{name} of numbers and texts")
        target = replace(type_of(node), nullable=any_nullable(arguments), affinity="")
        return where_known(arguments, call(name, *arguments, type_=target), target)

    return function


def _typeof(node: exp.Expression) -> exp.Expression:
    operand = node.expressions[0]
    type_, text = type_of(operand), replace(TEXT, nullable=False)
    if len(type_.classes) > 1:
        raise Rejected("typeof of values of several types")
    name = string(next(iter(type_.classes), "null"))
    if not type_.classes or not type_.nullable:
        return with_type(name, text)
    return case(is_null(operand), string("null"), text, name)


def _format(node: exp.Expression) -> exp.Expression:
    template, *arguments = node.expressions
    if not template.is_string:
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
    if (precision and type_ != "f") or (zero and type_ == "s"):
        raise Rejected(f"printf with {match[0]}")
    text = replace(TEXT, nullable=type_of(argument).nullable)
    if type_ == "s":
        shown = text_of(argument)
        if width and type_of(argument).nullable:
            shown = coalesce(shown, string(""), TEXT)
    elif type_ in "di":
        shown = _or_zero(_integer(_number(argument)))
        shown = shown if among_others and not width else cast(shown, "text")
    else:
        value = cast(_or_zero(_number(argument)), "numeric")
        shown = cast(call("round", value, number(int(precision or 6)), type_=NUMERIC), "text")
    if not width:
        return shown
    # lpad cuts what is longer; printf does not
    size = call("greatest", number(int(width)), call("length", shown, type_=INTEGER), type_=INTEGER)
    pad = "rpad" if left else "lpad"
    return call(pad, shown, size, *([string("0")] if zero and not left else []), type_=text)


def _or_zero(node: exp.Expression) -> exp.Expression:
    """printf writes 0 for NULL."""
    type_ = type_of(node)
    return coalesce(node, number(0), replace(type_, nullable=False)) if type_.nullable else node


def _whole(name: str) -> Function:
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
    text = replace(TEXT, nullable=False)
    characters = [call("chr", _number(code), type_=text) for code in node.expressions]
    return characters[0] if len(characters) == 1 else call("concat", *characters, type_=text)


def _hex(node: exp.Hex) -> exp.Expression:
    type_ = type_of(node.this)
    inner = node.this if type_.pg == "bytea" else call("convert_to", text_of(node.this), string("UTF8"), type_=TEXT)
    encoded = call("encode", inner, string("hex"), type_=TEXT)
    return call("upper", encoded, type_=replace(TEXT, nullable=type_.nullable))


def _sign(node: exp.Sign) -> exp.Expression:
    operand = _number(node.this)
    return cast(call("sign", operand, type_=type_of(operand)), "integer")


def _random(node: exp.Rand) -> exp.Expression:
    raise Rejected("random(): its range differs, and no result could be compared")


#: by sqlglot's class, or by the name where it has none
_FUNCTIONS: dict[type | str, Function] = {
    exp.Length: _called("length", text_of, INTEGER),
    exp.Upper: _called("upper", text_of, TEXT),
    exp.Lower: _called("lower", text_of, TEXT),
    exp.Trim: _trim,
    exp.Substring: _substr,
    exp.StrPosition: _called("strpos", text_of, INTEGER),
    exp.Replace: _called("replace", text_of, TEXT),
    exp.Round: _round,
    exp.Abs: _abs,
    exp.Greatest: _extreme("greatest"),
    exp.Least: _extreme("least"),
    exp.Sqrt: _called("sqrt", _number, DOUBLE, nullable=True),
    exp.Pow: _called("power", _number, DOUBLE, nullable=True),
    exp.Exp: _called("exp", _number, DOUBLE, nullable=True),
    exp.Ln: _called("ln", _number, DOUBLE, nullable=True),
    exp.Log: _log,
    exp.Pi: _called("pi", _number, DOUBLE, nullable=True),
    exp.Ceil: _whole("ceil"),
    exp.Floor: _whole("floor"),
    exp.Sign: _sign,
    exp.Chr: _chr,
    exp.Hex: _hex,
    exp.Unicode: _called("ascii", text_of, INTEGER, nullable=True),
    exp.Rand: _random,
    "printf": _format,
    "format": _format,
    "typeof": _typeof,
    "likely": lambda node: node.expressions[0].copy(),
    "unlikely": lambda node: node.expressions[0].copy(),
}


def _groups(node: exp.Column) -> bool:
    """Whether rows are put together by a column: GROUP BY, PARTITION BY, count(DISTINCT ...)."""
    counted = isinstance(node.parent, exp.Distinct) and isinstance(node.parent.parent, exp.Count)
    return counted or isinstance(node.parent, exp.Group) or node.arg_key == "partition_by"


@rule(exp.Column, exp.Collate)
def collations(node: exp.Column | exp.Collate) -> exp.Expression | None:
    """COLLATE NOCASE folds ASCII letters, in a comparison, a sort key, and where rows are grouped; BINARY is what
    PostgreSQL does anyway."""
    if isinstance(node, exp.Column):
        folded = _groups(node) and type_of(node).collation == "NOCASE"
        return lowered(node.meta.get("alias", node), replace(type_of(node), collation="")) if folded else None
    name, type_ = node.expression.name.upper(), type_of(node.this)
    if name not in ("BINARY", "NOCASE"):
        raise Rejected(f"collation {name}")
    compared = isinstance(node.parent, COMPARISONS)
    compared = compared or (isinstance(node.parent, exp.In | exp.Between) and node.arg_key == "this")
    if name == "BINARY" or compared:
        return with_type(node.this.copy(), replace(type_, collation="" if name == "BINARY" else name))
    return lowered(node.this, type_)
