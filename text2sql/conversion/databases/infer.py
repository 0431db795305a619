"""The PostgreSQL type of a column, from what SQLite was told (the declared type) and what it holds (the values).

SQLite keeps whatever it is given, so a declaration alone lies. A declaration is followed where all values fit it;
otherwise the column gets the type that holds them all. Dates, timestamps and times are recognised by their values
where each is written exactly as PostgreSQL would write it, so that no value changes its text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time

from text2sql.conversion.databases.names import lower
from text2sql.conversion.databases.sqlite import Value

#: from narrow to wide: where keys tie columns together, the widest type of them is taken
NUMERIC_TYPES = ("smallint", "integer", "bigint", "numeric", "double precision")
SAMPLE_CHARACTERS = 60

INTEGER_TEXT = re.compile(r"(0|-?[1-9][0-9]{0,17})\Z")
NUMBER_TEXT = re.compile(r"[ \t\n\v\f\r]*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*\Z")
TIMESTAMP_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z?\Z")
TIME_TEXT = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\Z")
#: how a text of each form is written, and what refuses one that is not valid
_FORMS: dict[str, tuple[re.Pattern[str], Callable[[str], object]]] = {
    "integer": (INTEGER_TEXT, str),
    "number": (NUMBER_TEXT, str),
    "date": (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"), date.fromisoformat),
    "timestamp": (TIMESTAMP_TEXT, datetime.fromisoformat),
    "time": (TIME_TEXT, time.fromisoformat),
}
#: Python's types of SQLite's storage classes
STORAGE = {"integer": int, "real": float, "text": str, "blob": bytes}
#: the number that SQLite reads at the start of a text in arithmetic; shorter patterns find the same in most data
NUMBER_PREFIX = r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
SHORT_PREFIXES = (r"^\d+", r"^[\d.]+")
#: the form of timestamps of which some have fractions of a second: SQLite's functions leave those out
FRACTIONAL = "fractional timestamp"


def affinity(declared: str) -> str:
    """SQLite's column affinity (https://www.sqlite.org/datatype3.html, 3.1).

    >>> [affinity(t) for t in ("BIGINT", "varchar(20)", "", "float", "decimal(5,2)", "datetime")]
    ['integer', 'text', 'blob', 'real', 'numeric', 'numeric']
    """
    name = declared.upper()
    if "INT" in name:
        return "integer"
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if not name.strip() or "BLOB" in name:
        return "blob"
    if any(part in name for part in ("REAL", "FLOA", "DOUB")):
        return "real"
    return "numeric"


def text_form(value: str) -> str:
    """What a text is written like: `integer` and `number`, `date`, `timestamp`, `time` (valid ones), or `text`."""
    for form, (pattern, read) in _FORMS.items():
        if pattern.match(value):
            try:
                read(value)
            except ValueError:
                break
            return form
    return "text"


def plain_moment(text: str) -> str:
    """A timestamp or time as PostgreSQL writes it; another text as it is.

    >>> plain_moment("2024-01-05T08:22:35.120Z"), plain_moment("08:22:35.000"), plain_moment("2024-01-05")
    ('2024-01-05 08:22:35.12', '08:22:35', '2024-01-05')
    """
    if not TIMESTAMP_TEXT.match(text) and not TIME_TEXT.match(text):
        return text
    plain = text.replace("T", " ").removesuffix("Z")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


@dataclass
class Facts:
    """What the values of a column are. `stored` counts them by storage class, `forms` the forms of its texts; `blank`
    are the empty texts, `blanks_as_null` those that have been counted among the NULLs."""

    stored: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    nulls: int = 0
    blank: int = 0
    blanks_as_null: int = 0
    zeros: int = 0
    lowest: int = 0
    highest: int = 0
    non_finite: int = 0
    fractions: int = 0
    with_nul: int = 0
    with_fraction: int = 0
    samples: dict[str, None] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=lambda: [*SHORT_PREFIXES, NUMBER_PREFIX])

    def add(self, values: Sequence[Value], samples: int) -> None:
        """Count `values`; keep the first `samples` distinct ones as text."""
        by_class = {name: [v for v in values if isinstance(v, type_)] for name, type_ in STORAGE.items()}
        integers, reals = by_class["integer"], by_class["real"]
        self.stored.update({name: len(of_class) for name, of_class in by_class.items()})
        self.rows += len(values)
        self.nulls += values.count(None)
        self.zeros += integers.count(0) + reals.count(0)
        self.lowest, self.highest = min([self.lowest, *integers]), max([self.highest, *integers])
        self.non_finite += sum(not math.isfinite(value) for value in reals)
        self.fractions += sum(not value.is_integer() or abs(value) >= 2**53 for value in reals)
        for text, times in Counter(by_class["text"]).items():
            form = text_form(text)
            self.forms[form] += times
            self.blank += times * (not text)
            self.with_nul += times * ("\0" in text)
            self.with_fraction += form == "timestamp" and "." in plain_moment(text)
            self._narrow_prefixes(text)
        for value in values:
            if len(self.samples) >= samples:
                break
            if value is not None and not isinstance(value, bytes):
                self.samples.setdefault(sample(value))

    def _narrow_prefixes(self, value: str) -> None:
        """Leave out the patterns that would find something else than SQLite does at the start of `value`."""
        if len(self.prefixes) == 1:
            return
        match = re.match(NUMBER_PREFIX, value, re.ASCII)
        wanted = match[1] if match else None
        matches = {pattern: re.match(pattern, value, re.ASCII) for pattern in self.prefixes}
        self.prefixes = [p for p, m in matches.items() if p == NUMBER_PREFIX or (m[0] if m else None) == wanted]

    def without_blanks(self) -> Facts:
        """The same values with NULL for every empty text."""
        return replace(
            self,
            stored=self.stored - Counter(text=self.blank),
            forms=self.forms - Counter(text=self.blank),
            nulls=self.nulls + self.blank,
            blank=0,
            blanks_as_null=self.blank,
            samples={text: None for text in self.samples if text},
        )

    @property
    def storage(self) -> tuple[str, ...]:
        """The storage classes that occur, of integer, real, text and blob."""
        return tuple(name for name in STORAGE if self.stored[name])

    @property
    def prefix(self) -> str:
        """The shortest pattern that finds the number at the start of each value, all of them as texts; empty if none is
        a text."""
        plain = self.lowest >= 0 and not self.stored["real"] and not self.stored["blob"]
        return "" if not self.stored["text"] else self.prefixes[0] if plain else NUMBER_PREFIX

    @property
    def form(self) -> str:
        """The one form that all texts share, `blank` if they are all empty, `integer or text` (each number among them
        is written as PostgreSQL would), or `text`."""
        if self.blank and self.blank == self.stored["text"]:
            return "blank"
        forms = set(self.forms)
        if forms == {"timestamp"} and self.with_fraction:
            return FRACTIONAL
        if len(forms) == 1:
            return next(iter(forms))
        if forms == {"integer", "number"}:
            return "number"
        return "integer or text" if forms and "number" not in forms else "text"


def sample(value: Value) -> str:
    """A value as a short text for prompts."""
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("\0", "").split())[:SAMPLE_CHARACTERS]


def column_type(declared: str, facts: Facts) -> str:
    """The PostgreSQL type that holds all values, and is the declared one's counterpart where that one does.

    >>> column_type("INT", Facts(Counter(integer=2), highest=2**40))
    'bigint'
    >>> column_type("REAL", Facts(Counter(real=1, text=1), Counter(text=1)))
    'text'
    """
    storage = facts.storage
    if not storage:
        return declared_type(declared)
    if storage == ("blob",):
        return "bytea"
    if storage == ("text",):
        form = facts.form.removeprefix("fractional ")
        return form if form in ("date", "timestamp", "time") and not facts.with_nul else "text"
    if "text" in storage or "blob" in storage:
        return "text"
    name, scale = lower(declared), re.search(r",\s*([1-9][0-9]*)", declared)
    if storage == ("integer",):
        if name.startswith("bool") and facts.lowest >= 0 and facts.highest <= 1:
            return "boolean"
        if affinity(declared) == "numeric" and (
            scale or ("(" not in declared and declared_type(declared) == "numeric")
        ):
            return "numeric"
        return "integer" if facts.lowest >= -(2**31) and facts.highest < 2**31 else "bigint"
    decimal = affinity(declared) == "numeric" and "real" in storage and not facts.non_finite
    return "numeric" if decimal else "double precision"


def declared_type(declared: str) -> str:
    """The counterpart of a declared type, for a column without a value."""
    name = lower(declared).partition("(")[0].strip()
    if name.startswith("bool"):
        return "boolean"
    if name.startswith(("datetime", "timestamp")):
        return "timestamp"
    if name in ("date", "time"):
        return name
    if name in ("bigint", "int8", "unsigned big int"):
        return "bigint"
    by_affinity = {"real": "double precision", "blob": "bytea" if name else "text"}
    return by_affinity.get(affinity(declared), affinity(declared))


def common_type(columns: Sequence[tuple[str, Facts]]) -> str:
    """The narrowest type that holds what all of these columns hold, each given by its own type and its values."""
    facts = [fact for _, fact in columns]
    types = {type_ for type_, fact in columns if fact.storage} or {type_ for type_, _ in columns}
    if len(types) == 1:
        return next(iter(types))
    if types <= {*NUMERIC_TYPES, "boolean"}:
        return max(types - {"boolean"}, key=NUMERIC_TYPES.index)
    # Texts that are integers, written as PostgreSQL writes them, and whole reals may join integers without changing.
    if all(set(f.forms) <= {"integer"} and not f.stored["blob"] and not f.fractions for f in facts):
        small = all(f.lowest >= -(2**31) and f.highest < 2**31 and not f.stored["text"] for f in facts)
        return "integer" if small else "bigint"
    return "text"
