"""The text of a converted query, as a person would write it: short, names plain, functions in lower case."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres

_NEGATED = {exp.In: "IN", exp.Between: "BETWEEN", exp.Is: "IS"}


class Writer(Postgres.Generator):
    """sqlglot's PostgreSQL generator, less the text that nobody would write."""

    def not_sql(self, expression: exp.Not) -> str:
        """`a NOT IN (...)` rather than `NOT a IN (...)`."""
        inner = expression.this.unnest() if isinstance(expression.this, exp.Paren) else expression.this
        if isinstance(inner, exp.In):
            return self.in_sql(inner).replace(self.sql(inner, "this") + " IN", self.sql(inner, "this") + " NOT IN", 1)
        if isinstance(inner, exp.Between):
            low, high = self.sql(inner, "low"), self.sql(inner, "high")
            return f"{self.sql(inner, 'this')} NOT BETWEEN {low} AND {high}"
        if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
            return f"{self.sql(inner, 'this')} IS NOT NULL"
        if isinstance(inner, exp.Like | exp.ILike):
            negated = inner.copy()
            negated.set("negate", not inner.args.get("negate"))
            return self.sql(negated)
        if isinstance(inner, exp.RegexpLike | exp.RegexpILike):
            operator = "!~" if isinstance(inner, exp.RegexpLike) else "!~*"
            return f"{self.sql(inner, 'this')} {operator} {self.sql(inner, 'expression')}"
        return super().not_sql(expression)

    def like_sql(self, expression: exp.Like) -> str:
        """LIKE, NOT LIKE."""
        return self._like(expression, "LIKE")

    def ilike_sql(self, expression: exp.ILike) -> str:
        """ILIKE, NOT ILIKE."""
        return self._like(expression, "ILIKE")

    def _like(self, expression: exp.Expression, operator: str) -> str:
        negation = "NOT " if expression.args.get("negate") else ""
        return f"{self.sql(expression, 'this')} {negation}{operator} {self.sql(expression, 'expression')}"

    def cast_sql(self, expression: exp.Cast, safe_prefix: str | None = None) -> str:
        """`x::type`."""
        return f"{self.sql(expression, 'this')}::{self.sql(expression, 'to')}"

    def datatype_sql(self, expression: exp.DataType) -> str:
        """A type's name as the rules have given it."""
        return str(expression.args.get("kind") or super().datatype_sql(expression).lower())

    def hexstring_sql(self, expression: exp.HexString, **_: object) -> str:
        """A BLOB."""
        return f"'\\x{expression.name}'::bytea"

    def filter_sql(self, expression: exp.Filter) -> str:
        """FILTER (WHERE ...)."""
        return f"{self.sql(expression, 'this')} FILTER ({self.sql(expression, 'expression').strip()})"

    def nullsafeeq_sql(self, expression: exp.NullSafeEQ) -> str:
        """IS between values."""
        return self.binary(expression, "IS NOT DISTINCT FROM")

    def nullsafeneq_sql(self, expression: exp.NullSafeNEQ) -> str:
        """IS NOT between values."""
        return self.binary(expression, "IS DISTINCT FROM")

    def div_sql(self, expression: exp.Div) -> str:
        """Division as it is: the rule has settled the types."""
        return self.binary(expression, "/")

    def mod_sql(self, expression: exp.Mod) -> str:
        """The remainder, with its operator."""
        return self.binary(expression, "%")

    def bracket_sql(self, expression: exp.Bracket) -> str:
        """An element of an array, by its number from 1."""
        return f"{self.sql(expression, 'this')}[{self.expressions(expression, flat=True)}]"

    def interval_sql(self, expression: exp.Interval) -> str:
        """INTERVAL '1 day'."""
        return f"INTERVAL {self.sql(expression, 'this')}"

    def nullif_sql(self, expression: exp.Nullif) -> str:
        """nullif in lower case like any function."""
        return self.func("nullif", expression.this, expression.expression)

    def extract_sql(self, expression: exp.Extract) -> str:
        """EXTRACT with its field in capitals."""
        return f"EXTRACT({self.sql(expression, 'this').upper()} FROM {self.sql(expression, 'expression')})"

    def max_sql(self, expression: exp.Max) -> str:
        """max of one argument."""
        return self.func("max", expression.this)

    def min_sql(self, expression: exp.Min) -> str:
        """min of one argument."""
        return self.func("min", expression.this)

    def currentdate_sql(self, expression: exp.CurrentDate) -> str:
        """CURRENT_DATE."""
        return "CURRENT_DATE"


def postgres_text(tree: exp.Expression) -> str:
    """The PostgreSQL text of `tree`, on one line."""
    return Writer(dialect="postgres", normalize_functions="lower", comments=False, identify=False).generate(tree)
