"""One value of SQLite as PostgreSQL has it in a column of a given type."""

from __future__ import annotations

import math
from collections.abc import Callable

from text2sql.conversion.databases.infer import plain_moment
from text2sql.conversion.databases.sqlite import Value


def sqlite_text(value: float) -> str:
    """A real number as SQLite writes it: 15 digits, and always a point.

    >>> sqlite_text(5.0), sqlite_text(1e20), sqlite_text(0.1)
    ('5.0', '1.0e+20', '0.1')
    """
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    mantissa, _, exponent = f"{value:.15g}".partition("e")
    return (mantissa if "." in mantissa else f"{mantissa}.0") + (f"e{exponent}" if exponent else "")


def as_text(value: Value) -> str:
    """A value of a `text` column; what PostgreSQL cannot hold (NUL, bytes that are no UTF-8) is replaced."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, float):
        value = sqlite_text(value)
    return str(value).replace("\0", "\ufffd")


def as_bytes(value: Value) -> bytes:
    """A value of a `bytea` column."""
    return value if isinstance(value, bytes) else str(value).encode()


def _number(value: Value) -> str:
    """A number as PostgreSQL reads it; 5.0 is written 5."""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = repr(value) if isinstance(value, float) else str(value)
    return text.removesuffix(".0")


def encoder(type_: str) -> Callable[[Value], str]:
    """The function that writes a value (not NULL) as COPY reads it into a column of PostgreSQL's `type_`."""
    if type_ == "boolean":
        return lambda value: "t" if value else "f"
    if type_ in ("text", "date"):
        return as_text
    if type_ in ("timestamp", "time"):
        return lambda value: plain_moment(as_text(value))
    if type_ == "bytea":
        return lambda value: "\\x" + as_bytes(value).hex()
    return _number
