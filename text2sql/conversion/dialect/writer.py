"""The text of a converted query, as a person would write it: short, names plain, functions in lower case."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres


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

    def cast_sql(self, expression: exp.Cast, safe_prefix: str | None = None) -> str:
        """`x::type`."""
        return f"{self.sql(expression, 'this')}::{self.sql(expression, 'to')}"

    def hexstring_sql(self, expression: exp.HexString, **_: object) -> str:
        """A BLOB; `x'00'` alone is a string of bits for PostgreSQL."""
        return f"'\\x{expression.name}'::bytea"

    def filter_sql(self, expression: exp.Filter) -> str:
        """FILTER (WHERE ...)."""
        return f"{self.sql(expression, 'this')} FILTER ({self.sql(expression, 'expression').strip()})"


def postgres_text(tree: exp.Expression) -> str:
    """The PostgreSQL text of `tree`, on one line."""
    return Writer(dialect="postgres", normalize_functions="lower", comments=False, identify=False).generate(tree)
