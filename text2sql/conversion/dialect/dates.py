"""SQLite's date and time functions. There dates are texts; here the columns are dates where the values are."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp

from text2sql.conversion.databases.infer import FRACTIONAL
from text2sql.conversion.dialect.allowed import Rejected
from text2sql.conversion.dialect.tree import call, cast, number, rule, string, with_type, wrap
from text2sql.conversion.dialect.types import DATE, DATE_TYPES, NUMERIC, TEXT, TIME, TIMESTAMP, Type, cast_type, type_of

#: strftime's conversions as to_char's
_PATTERNS = {"Y": "YYYY", "m": "MM", "d": "DD", "H": "HH24", "M": "MI", "S": "SS", "j": "DDD", "f": "SS.MS", "%": "%"}
#: CAST(strftime(...) AS INTEGER) as a field of EXTRACT
_FIELDS = {"%Y": "YEAR", "%m": "MONTH", "%d": "DAY", "%H": "HOUR", "%M": "MINUTE", "%j": "DOY", "%w": "DOW"}
_SHIFT = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(second|minute|hour|day|month|year)s?\Z", re.IGNORECASE)
_COLUMNS = {"date": DATE, "timestamp": TIMESTAMP, "time": TIME}
_PLAIN = ("date", "time", "datetime", "julianday", "unixepoch")


@rule(exp.Sub, exp.Cast, exp.CurrentDate, exp.CurrentTimestamp, exp.Anonymous)
def dates(node: exp.Expression) -> exp.Expression | None:
    """date, time, datetime, strftime, julianday and unixepoch read texts, with modifiers like '+1 day'; PostgreSQL has
    types, intervals, to_char and EXTRACT."""
    if isinstance(node, exp.Sub):
        return _days_between(node)
    if isinstance(node, exp.Cast):
        return _field(node)
    if isinstance(node, exp.CurrentDate | exp.CurrentTimestamp):
        return _now("date" if isinstance(node, exp.CurrentDate) else "timestamp")
    if _is_call(node, "strftime"):  # together with a cast, if that is a field
        return None if isinstance(node.parent, exp.Cast) and _field(node.parent) is not None else _strftime(node)
    if isinstance(node.parent, exp.Sub) and _both_julian(node.parent):
        return None  # taken together with the subtraction
    name = node.name.lower()
    return _plain(name, node.expressions) if name in _PLAIN else None


def _is_call(node: exp.Expression, name: str) -> bool:
    return isinstance(node, exp.Anonymous) and node.name.lower() == name


def _pattern(node: exp.Expression) -> str:
    """The format of a call of strftime."""
    if not node.expressions or not node.expressions[0].is_string:
        raise Rejected("strftime with a format that is computed")
    return node.expressions[0].this


def _now(pg: str) -> exp.Expression:
    if pg == "date":
        return with_type(exp.CurrentDate(), replace(DATE, nullable=False))
    stamp = with_type(exp.column("localtimestamp"), replace(TIMESTAMP, nullable=False))
    return call("date_trunc", string("second"), stamp, type_=replace(TIMESTAMP, nullable=False))


def _moment(arguments: list[exp.Expression], wanted: str) -> exp.Expression:
    """The time value with its modifiers, as a date, timestamp or time; `wanted` decides where either would do.

    Raises:
        Rejected: the value is not known to be a date in every row, or a modifier is not known.
    """
    value, modifiers = (arguments[0], arguments[1:]) if arguments else (string("now"), [])
    texts = [m.this.strip().lower() if m.is_string else "" for m in modifiers]
    type_ = type_of(value)
    if "unixepoch" in texts[:1] and type_.numeric:
        seconds = call("to_timestamp", value, type_=TIMESTAMP)
        form = "timestamp" if type_.integral else FRACTIONAL
        stamp = replace(TIMESTAMP, nullable=type_.nullable, form=form)
        moment = with_type(exp.AtTimeZone(this=seconds, zone=string("UTC")), stamp)
        texts, modifiers = texts[1:], modifiers[1:]
    elif value.is_string and value.this.strip().lower() == "now":
        moment = _now("date" if wanted == "date" else "timestamp")
    elif type_.pg in DATE_TYPES:
        moment = value
    elif type_.form in DATE_TYPES and type_.textual and not type_.blanks:
        moment = cast(value, type_.form, replace(_COLUMNS[type_.form], nullable=type_.nullable))
    else:
        raise Rejected("date function on a value that is not known to be a date written YYYY-MM-DD")
    for text, modifier in zip(texts, modifiers, strict=True):
        moment = _modified(moment, text, modifier)
    return moment


def _modified(moment: exp.Expression, text: str, modifier: exp.Expression) -> exp.Expression:
    type_ = type_of(moment)
    stamp = replace(TIMESTAMP, nullable=type_.nullable, form=type_.form if type_.pg == "timestamp" else "timestamp")
    if type_.pg == "time":
        raise Rejected("modifier of a time")
    if text.startswith("start of ") and text[9:] in ("day", "month", "year"):
        return call("date_trunc", string(text[9:]), moment, type_=stamp)
    shift = _SHIFT.match(text)
    if shift is None:
        raise Rejected(f"modifier {modifier.name if modifier.is_string else 'that is computed'} of a date function")
    amount, unit = shift[1], shift[2].lower()
    operator = exp.Sub if amount.startswith("-") else exp.Add
    size = amount.lstrip("+-")
    if type_.pg == "date" and unit == "day" and size.isdigit():
        return with_type(operator(this=wrap(moment), expression=number(int(size))), type_)
    plural = "" if size == "1" else "s"
    interval = with_type(exp.Interval(this=string(f"{size} {unit}{plural}")), TEXT)
    inner = moment.copy() if isinstance(moment, exp.Add | exp.Sub) else wrap(moment)
    return with_type(operator(this=inner, expression=interval), stamp)


def _plain(name: str, arguments: list[exp.Expression]) -> exp.Expression:
    """date, time, datetime, julianday and unixepoch."""
    moment = _moment(arguments, "date" if name == "date" else "timestamp")
    type_ = type_of(moment)
    nullable = type_.nullable
    if name == "julianday":
        day = with_type(exp.Extract(this=exp.var("JULIAN"), expression=moment.copy()), NUMERIC)
        return with_type(exp.Sub(this=day, expression=exp.Literal.number("0.5")), replace(NUMERIC, nullable=nullable))
    if name == "unixepoch":
        return _epoch(moment)
    wanted = {"date": DATE, "time": TIME, "datetime": TIMESTAMP}[name]
    if type_.form == FRACTIONAL and name != "date":
        moment = call("date_trunc", string("second"), moment, type_=replace(TIMESTAMP, nullable=nullable))
    if type_.pg == wanted.pg:
        return moment.copy()
    if type_.pg == "time":
        raise Rejected(f"{name}() of a time of day")
    return cast(moment, wanted.pg, replace(wanted, nullable=nullable))


def _strftime(node: exp.Expression) -> exp.Expression:
    pattern, moment = _pattern(node), _moment(node.expressions[1:], "timestamp")
    type_ = type_of(moment)
    text = replace(TEXT, nullable=type_.nullable, form="number", blanks=False)
    if pattern == "%s":
        return cast(cast(_epoch(moment), "bigint"), "text", replace(text, form="integer"))
    if pattern == "%w":
        return cast(with_type(exp.Extract(this=exp.var("DOW"), expression=moment.copy()), NUMERIC), "text", text)
    if type_.pg == "time" and re.search("%[YmdjwsJW]", pattern):
        raise Rejected("strftime of the date of a time of day")
    out = ""
    for part in re.findall(r"%.|[^%]+|%", pattern):
        if not part.startswith("%"):
            out += f'"{part}"' if re.search(r"[A-Za-z]", part) else part
        elif part[1:] in _PATTERNS:
            out += _PATTERNS[part[1:]]
        else:
            raise Rejected(f"strftime with {part}")
    if type_.pg == "time":  # to_char takes no time of day
        moment = cast(moment, "interval", TIMESTAMP)
    single = pattern in ("%Y", "%m", "%d", "%H", "%M", "%S", "%j")
    return call("to_char", moment, string(out), type_=replace(text, form="integer" if single else "text"))


def _field(node: exp.Cast) -> exp.Expression | None:
    """CAST(strftime('%Y', x) AS INTEGER) as EXTRACT(YEAR FROM x)."""
    if not _is_call(node.this, "strftime") or cast_type(node.to) != "integer":
        return None
    field = _FIELDS.get(_pattern(node.this))
    if field is None:
        return None
    moment = _moment(node.this.expressions[1:], "timestamp")
    if type_of(moment).pg == "time" and field not in ("HOUR", "MINUTE"):
        return None
    type_ = Type("numeric", frozenset({"integer"}), affinity="integer", nullable=type_of(moment).nullable)
    return with_type(exp.Extract(this=exp.var(field), expression=moment.copy()), type_)


def _epoch(moment: exp.Expression) -> exp.Expression:
    """The whole seconds since 1970."""
    type_ = Type("numeric", frozenset({"integer"}), nullable=type_of(moment).nullable)
    epoch = with_type(exp.Extract(this=exp.var("EPOCH"), expression=moment.copy()), type_)
    return call("floor", epoch, type_=type_) if type_of(moment).form == FRACTIONAL else epoch


def _both_julian(node: exp.Sub) -> bool:
    return _is_call(node.left, "julianday") and _is_call(node.right, "julianday")


def _days_between(node: exp.Sub) -> exp.Expression | None:
    """julianday(a) - julianday(b): whole days between dates, or a fraction of days between timestamps."""
    if not _both_julian(node):
        return None
    left, right = (_moment(side.expressions, "timestamp") for side in (node.left, node.right))
    kinds = {type_of(left).pg, type_of(right).pg}
    nullable = type_of(left).nullable or type_of(right).nullable
    days = exp.Sub(this=wrap(left), expression=wrap(right))
    if kinds == {"date"}:
        difference: exp.Expression = with_type(days, Type("integer", frozenset({"real"}), nullable=nullable))
    elif "time" in kinds:
        raise Rejected("julianday of a time of day")
    else:
        seconds = with_type(exp.Extract(this=exp.var("EPOCH"), expression=with_type(days, TIMESTAMP)), NUMERIC)
        divided = exp.Div(this=seconds, expression=number(86400), typed=True)
        difference = with_type(divided, replace(NUMERIC, nullable=nullable))
    return exp.Paren(this=difference) if isinstance(node.parent, exp.Binary) else difference
