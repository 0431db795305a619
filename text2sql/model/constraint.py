"""Decoding held to SQL: at each step only tokens that continue a query on this database's tables and columns.

A small model's commonest mistakes are names that the schema does not have and text that is no SQL. A grammar made of a
subset of PostgreSQL's SELECT and of the schema's own names rules both out; llguidance computes, for each row and step,
which tokens the grammar allows. The grammar writes queries the one way in which the conversion to PostgreSQL writes
them, and so the answers in training. It cannot know that an alias stands for one table and not another, or that types
fit: for that, see execution-guided decoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional

from text2sql.errors import UserError
from text2sql.model.prompt import Qualifiers
from text2sql.schema import Schema, quote

# The lexer takes the longest match and does not go back: no word may be the beginning of another one that a step later
# turns out not to follow (so " IS NOT NULL" is one word, not " IS " and three others).
COMMON = r"""
start: query
set_operator: " UNION " | " UNION ALL " | " INTERSECT " | " EXCEPT "
from: " FROM " source (join)*
source: (TABLE | "(" query ")") (" AS " ALIAS)?
join: join_kind source " ON " condition | " CROSS JOIN " source | ", " source
join_kind: " JOIN " | " LEFT JOIN " | " RIGHT JOIN " | " FULL JOIN " | " INNER JOIN " | " LEFT OUTER JOIN "
output_order: " ORDER BY " output (", " output)*
output: (COLUMN | expression | comparison) direction
direction: (" DESC" | " ASC")? (" NULLS FIRST" | " NULLS LAST")?
limit: " LIMIT " INTEGER (" OFFSET " INTEGER)?
operator: " = " | " <> " | " < " | " > " | " <= " | " >= " | " LIKE " | " ILIKE "
    | " NOT LIKE " | " NOT ILIKE " | " IS DISTINCT FROM " | " IS NOT DISTINCT FROM "
literal: "-"? INTEGER | "-"? DECIMAL | STRING | "TRUE" | "FALSE" | "NULL"

INTEGER: /[0-9]{1,12}/
DECIMAL: /[0-9]{0,12}\.[0-9]{1,12}/
STRING: /'([^'\n]|'')*'/
NAME: /[a-z_][a-z0-9_]*/
ALIAS: /t[0-9]{1,2}/
"""
# One SELECT. Each kind of FROM has rules of its own, with its number in place of @: they differ in their columns.
SELECT = r"""
select@: "SELECT " "DISTINCT "? item@ (", " item@)* FROM@ where@? group@? having@?
item@: star@ | expression@ (" AS " NAME)?
where@: " WHERE " condition@
group@: " GROUP BY " expression@ (", " expression@)*
having@: " HAVING " condition@
order@: " ORDER BY " sort@ (", " sort@)*
sort@: (expression@ | comparison@) direction
condition@: predicate@ ((" AND " | " OR ") predicate@)*
predicate@: "NOT " predicate@ | "(" condition@ ")" | comparison@ | "EXISTS(" query ")" | expression@
comparison@: expression@ operator expression@
    | expression@ (" IN (" | " NOT IN (") (query | literal (", " literal)*) ")"
    | expression@ (" BETWEEN " | " NOT BETWEEN ") expression@ " AND " expression@
    | expression@ (" IS NULL" | " IS NOT NULL" | " IS TRUE" | " IS NOT TRUE" | " IS FALSE" | " IS NOT FALSE")
expression@: term@ ((" + " | " - " | " * " | " / " | " % " | " || ") term@)*
term@: "-"? primary@ ("::" TYPE)* ("[" INTEGER "]")?
primary@: column@ | literal | call@ | case@ | "(" expression@ ")" | "(" query ")"
    | "CAST(" expression@ " AS " TYPE ")" | "EXTRACT(" PART " FROM " expression@ ")"
call@: FUNCTION "(" (arguments@ | "*")? ")" ("[" INTEGER "]")? (" FILTER(WHERE " condition@ ")")?
arguments@: "DISTINCT "? expression@ (", " expression@)* order@?
case@: "CASE" (" WHEN " condition@ " THEN " expression@)+ (" ELSE " expression@)? " END"
"""
#: kinds of FROM beyond which all columns are allowed in every SELECT: the grammar grows with their number
SCOPES = 40
FUNCTIONS = (
    *("count", "sum", "avg", "min", "max", "any_value", "array_agg", "string_agg", "bool_and", "bool_or"),
    *("coalesce", "nullif", "abs", "round", "ceil", "floor", "mod", "power", "sqrt", "greatest", "least"),
    *("length", "lower", "upper", "trim", "substring", "replace", "concat", "left", "right", "position"),
    *("to_char", "to_date", "date_trunc", "date_part"),
)
TYPES = (
    *("integer", "bigint", "smallint", "int", "numeric", "decimal", "real", "float", "double precision"),
    *("text", "varchar", "boolean", "date", "time", "timestamp"),
)
PARTS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "DOW", "DOY", "WEEK", "QUARTER", "EPOCH")


def grammar(schema: Schema, qualifiers: Qualifiers = "aliases") -> str:
    """The queries on `schema`, in llguidance's dialect of Lark.

    With "aliases", a column is written alone, after an alias, or after its own table's name, in any SELECT. With
    "tables" (see `postgres.dialect.qualifiers`), where FROM has one table it is one of that table's, and elsewhere it
    stands after its table's name or an alias.
    """
    tables = [table for table in schema.tables if table.columns]
    lines = [
        COMMON,
        f"TABLE: {_either(quote(table.name) for table in tables)}",
        f"COLUMN: {_either(quote(column.name) for table in tables for column in table.columns)}",
        f"FUNCTION: {_either(spelled for name in FUNCTIONS for spelled in (name, name.upper()))}",
        f"TYPE: {_either(spelled for name in TYPES for spelled in (name, name.upper()))}",
        f"PART: {_either(PARTS)}",
    ]
    for i, table in enumerate(tables):
        lines.append(f"TABLE_{i}: {_either([quote(table.name)])}")
        lines.append(f"COLUMN_{i}: {_either(quote(column.name) for column in table.columns)}")
    # What stands in SELECT as a column, as all columns, and as FROM, by the kind of FROM; "" is any kind.
    of_table = " | ".join(f'TABLE_{i} "." COLUMN_{i}' for i in range(len(tables)))
    columns = {"": f'COLUMN | ALIAS "." COLUMN | {of_table}'}
    stars = {"": '"*" | ALIAS ".*"'}
    sources = {"": "from?"}
    if qualifiers == "tables" and len(tables) <= SCOPES:
        columns[""] = f'ALIAS "." COLUMN | {of_table}'
        stars[""] += ' | TABLE ".*"'
        for i in range(len(tables)):
            columns[str(i)] = f'COLUMN_{i} | TABLE_{i} "." COLUMN_{i}'
            stars[str(i)] = '"*"'
            sources[str(i)] = f'" FROM " TABLE_{i}'
    for kind, column in columns.items():
        select = SELECT.replace("FROM@", sources[kind]).replace("@", kind)
        lines += [select, f"column{kind}: {column}", f"star{kind}: {stars[kind]}"]
    alone = " | ".join(f"select{kind} order{kind}? limit?" for kind in columns)
    lines.append(f'operand: {" | ".join(f"select{kind}" for kind in columns)} | "(" query ")"')
    lines.append(f"query: {alone} | operand (set_operator operand)+ output_order? limit?")
    return "\n".join(lines) + "\n"


def _either(names: Iterable[str]) -> str:
    return " | ".join(json.dumps(name, ensure_ascii=False) for name in dict.fromkeys(names))


class Constraints:
    """Makes the constraint of a database's rows; one for each tokenizer, as taking that apart takes a second."""

    def __init__(self, tokenizer: Any) -> None:
        import llguidance
        import llguidance.hf

        self._new = llguidance.LLMatcher
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer)
        self._matchers: dict[str, Any] = {}

    def of(self, schema: Schema, qualifiers: Qualifiers = "aliases") -> Constraint:
        """A new constraint to the queries on `schema`.

        Raises:
            UserError: the schema has no table, or makes no grammar.
        """
        remedy = "set predict.constrained=false"
        if not any(table.columns for table in schema.tables):
            raise UserError(f"the schema {schema.db_id} has no table with a column", remedy)
        lark = grammar(schema, qualifiers)
        if lark not in self._matchers:
            matcher = self._new(self._tokenizer, lark)
            if matcher.is_error():
                raise UserError(f"no grammar for the schema {schema.db_id}: {matcher.get_error()}", remedy)
            self._matchers[lark] = matcher
        return Constraint(self._matchers[lark].deep_copy())


class Constraint:
    """Which tokens may come next in one row."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """For each token of the vocabulary whether it may come next, as booleans on the CPU."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        mask = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten().bool()[:vocabulary]
        # A model's vocabulary may be padded beyond the tokenizer's.
        return functional.pad(mask, (0, vocabulary - len(mask)), value=False)

    def accept(self, token: int) -> None:
        """Go on to the step after `token`."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} was not allowed: {self._matcher.get_error()}")

    def again(self) -> Constraint:
        """The same at its start."""
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return Constraint(matcher)

    def accepts(self, tokens: Iterable[int]) -> bool:
        """Whether the tokens are a whole query; this constraint stays where it is."""
        tokens, matcher = list(tokens), self._matcher.deep_copy()
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
