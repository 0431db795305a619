"""Decoding held to SQL: at each step only tokens that continue a query on this database's tables and columns.

A small model's commonest mistakes are names that the schema does not have, values compared with another kind, and text
that is no SQL. A grammar made of a subset of PostgreSQL's SELECT and of the schema's own names rules these out;
llguidance computes, for each row and step, which tokens the grammar allows. The grammar writes queries the one way in
which the conversion to PostgreSQL writes them, and so the answers in training.

No grammar knows that a column's table is missing from FROM. `references` reads what has been written and refuses the
words after which no name could be right. Neither can know that a query answers the question: for that, see
execution-guided decoding.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional

from text2sql.errors import UserError
from text2sql.model.literals import Literals
from text2sql.model.references import Reading, References
from text2sql.schema import KINDS, Schema, kind_of, quote

# The lexer takes the longest match and does not go back: no word may be the beginning of another one that a step later
# turns out not to follow (so " IS NOT NULL" is one word, not " IS " and three others).
COMMON = r"""
start: query
query: select order? limit? | operand (set_operator operand)+ output_order? limit?
operand: select | "(" query ")"
set_operator: " UNION " | " UNION ALL " | " INTERSECT " | " EXCEPT "
select: "SELECT " "DISTINCT "? item (", " item)* rest
rest: from? where? group? having?
item: star | value_a (" AS " NAME)?
from: " FROM " source (join)*
source: (TABLE | "(" query ")") (" AS " ALIAS)?
join: join_kind source " ON " condition_p | " CROSS JOIN " source | ", " source
join_kind: " JOIN " | " LEFT JOIN " | " RIGHT JOIN " | " FULL JOIN " | " INNER JOIN " | " LEFT OUTER JOIN "
where: " WHERE " condition_p
group: " GROUP BY " value_p (", " value_p)*
having: " HAVING " condition_a
order: " ORDER BY " sort (", " sort)*
sort: (value_a | comparison_a) direction
output_order: " ORDER BY " output (", " output)*
output: (COLUMN | value_a | comparison_a) direction
direction: (" DESC" | " ASC")? (" NULLS FIRST" | " NULLS LAST")?
limit: " LIMIT " INTEGER (" OFFSET " INTEGER)?
order_operator: " = " | " <> " | " < " | " > " | " <= " | " >= " | " IS DISTINCT FROM " | " IS NOT DISTINCT FROM "
like_operator: " LIKE " | " ILIKE " | " NOT LIKE " | " NOT ILIKE "
arithmetic: " + " | " - " | " * " | " / " | " % "
in: " IN (" | " NOT IN ("
between: " BETWEEN " | " NOT BETWEEN "
is: " IS NULL" | " IS NOT NULL" | " IS TRUE" | " IS NOT TRUE" | " IS FALSE" | " IS NOT FALSE"
numeral: "-"? INTEGER | "-"? DECIMAL
literal_number: INTEGER | DECIMAL
literal_text: STRING
literal_moment: STRING
literal_other: "NULL"
truth: "TRUE" | "FALSE" | STRING

INTEGER: /[0-9]{1,12}/
DECIMAL: /[0-9]{0,12}\.[0-9]{1,12}/
STRING: /'([^'\n]|'')*'/
NAME: /[a-z_][a-z0-9_]*/
ALIAS: /t[0-9]{1,2}/
"""
# Expressions, twice: @ is p (plain) or a (with aggregates, which hold plain ones only).
EXPRESSIONS = r"""
value_@: number_@ | text_@ | moment_@ | other_@
condition_@: predicate_@ ((" AND " | " OR ") predicate_@)*
predicate_@: "NOT " predicate_@ | "TRUE" | "FALSE" | "(" condition_@ ")" | comparison_@ | "EXISTS(" query ")" | other_@
comparison_@: number_@ order_operator number_@
    | text_@ (order_operator | like_operator) text_@
    | moment_@ order_operator moment_@
    | other_@ order_operator (other_@ | truth)
    | number_@ in (query_number | numeral (", " numeral)*) ")"
    | text_@ in (query_text | STRING (", " STRING)*) ")"
    | moment_@ in (query_moment | STRING (", " STRING)*) ")"
    | other_@ in (query_other | STRING (", " STRING)*) ")"
    | number_@ between number_@ " AND " number_@
    | text_@ between text_@ " AND " text_@
    | moment_@ between moment_@ " AND " moment_@
    | value_@ is
number_@: number_term_@ (arithmetic number_term_@)*
number_term_@: "-"? number_primary_@ (("::" TYPE_NUMBER)? "::" TYPE_NUMBER)? | from_number_@ "::" TYPE_NUMBER
text_@: text_term_@ (" || " text_term_@)*
text_term_@: text_primary_@ | from_text_@ "::" TYPE_TEXT
moment_@: moment_primary_@ | from_moment_@ "::" TYPE_MOMENT
other_@: other_primary_@ | from_other_@ "::" TYPE_OTHER
from_number_@: text_primary_@ ("::" (TYPE_TEXT | TYPE_NUMBER))? | number_primary_@ "::" TYPE_TEXT
    | other_primary_@ ("::" TYPE_OTHER)?
from_text_@: (number_primary_@ | text_primary_@ | moment_primary_@ | other_primary_@) ("::" TYPE)?
from_moment_@: text_primary_@ ("::" (TYPE_TEXT | TYPE_MOMENT))? | moment_primary_@ ("::" (TYPE_TEXT | TYPE_MOMENT))?
    | number_primary_@ "::" TYPE_TEXT
from_other_@: (number_primary_@ | text_primary_@ | other_primary_@) ("::" (TYPE_NUMBER | TYPE_TEXT | TYPE_OTHER))?
castable_number_@: number_@ | text_@ | other_@
castable_text_@: value_@
castable_moment_@: text_@ | moment_@
castable_other_@: number_@ | text_@ | other_@
calls_number_@: ("abs(" | "ceil(" | "floor(" | "sqrt(") number_@ ")" | "round(" number_@ (", " number_@)? ")"
    | ("mod(" | "power(") number_@ ", " number_@ ")" | "length(" text_@ ")" | "date_part(" FIELD ", " moment_@ ")"
    | "EXTRACT(" PART " FROM " moment_@ ")" | "(" moment_@ " - " moment_@ ")"
calls_text_@: ("lower(" | "upper(" | "trim(") text_@ ")" | ("left(" | "right(") text_@ ", " number_@ ")"
    | "substring(" text_@ ", " (STRING | number_@ (", " number_@)?) ")" | "concat(" value_@ (", " value_@)* ")"
    | "replace(" text_@ ", " text_@ ", " text_@ ")" | "to_char(" value_@ ", " STRING ")"
calls_moment_@: "to_date(" text_@ ", " STRING ")" | "date_trunc(" FIELD ", " moment_@ ")"
calls_other_@: "EXISTS(" query ")"
"""
# A value of one kind; @ is p or a, # the kind: number, text, moment, other; $ the same in capitals.
KIND = r"""
#_primary_@: column_# | literal_# | calls_#_@ | "(" #_@ ")" | "(" query_# ")"
    | ("coalesce(" | "nullif(" | "greatest(" | "least(") #_@ (", " #_@)+ ")"
    | "CAST(" castable_#_@ " AS " TYPE_$ ")" | "CASE" (" WHEN " condition_@ " THEN " #_@)+ (" ELSE " #_@)? " END"
"""
AGGREGATES = r"""
filter: " FILTER(WHERE " condition_p ")"
number_primary_a: ("count(" ("*" | "DISTINCT "? value_p) ")" | ("sum(" | "avg(") "DISTINCT "? number_p ")") filter?
text_primary_a: "string_agg(" "DISTINCT "? text_p ", " STRING order? ")" filter?
other_primary_a: ("bool_and(" | "bool_or(") condition_p ")" filter?
    | "array_agg(" "DISTINCT "? value_p order? ")" filter?
"""
AGGREGATES_OF_KIND = r"""
#_primary_a: ("min(" | "max(" | "any_value(") "DISTINCT "? #_p ")" filter?
    | ("(array_agg(" "DISTINCT "? #_p order? ")" filter? ")[" | "array_agg(" "DISTINCT "? #_p order? ")[") INTEGER "]"
query_#: pick_# order? limit? | pick_# (set_operator pick_#)+ | "(" query_# ")"
pick_#: "SELECT " "DISTINCT "? #_a (" AS " NAME)? rest
"""
TYPES = {
    "number": ("integer", "bigint", "smallint", "int", "numeric", "decimal", "real", "float", "double precision"),
    "text": ("text", "varchar"),
    "moment": ("date", "timestamp", "time"),
    "other": ("boolean",),
}
PARTS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "DOW", "DOY", "WEEK", "QUARTER", "EPOCH")


def grammar(schema: Schema) -> str:
    """The queries on `schema`, in llguidance's dialect of Lark.

    What is compared is of one kind (`KINDS`); aggregates stand neither in WHERE nor in each other.
    """
    tables = [table for table in schema.tables if table.columns]
    rules: dict[str, list[str]] = {}  # alternatives of a rule may come from several templates
    absent = []  # kinds that no column has

    def add(template: str) -> None:
        for rule in re.split(r"\n+(?! )", template.strip()):
            name, body = rule.split(":", 1)
            rules.setdefault(name, []).append(body.strip())

    add(COMMON)
    for level in "pa":
        add(EXPRESSIONS.replace("@", level))
        for kind in KINDS:
            add(KIND.replace("@", level).replace("#", kind).replace("$", kind.upper()))
    add(AGGREGATES)
    for kind in KINDS:
        rules_of_kind = AGGREGATES_OF_KIND.replace("#", kind)
        if kind == "other":  # PostgreSQL has no min(boolean)
            rules_of_kind = rules_of_kind.replace('"min(" | "max(" | ', "")
        add(rules_of_kind)
        add(f"TYPE_{kind.upper()}: {_either(spelled for name in TYPES[kind] for spelled in (name, name.upper()))}")
    add(f"TYPE: {_either(spelled for kind in KINDS for name in TYPES[kind] for spelled in (name, name.upper()))}")
    add(f"PART: {_either(PARTS)}")
    fields = (f"'{part.lower()}'" for part in PARTS)
    add(f"FIELD: {_either(fields)}")
    add(f"TABLE: {_either(quote(table.name) for table in tables)}")
    add(f"COLUMN: {_either(quote(column.name) for table in tables for column in table.columns)}")
    add('star: "*" | ALIAS ".*" | TABLE ".*"')
    for kind in KINDS:
        columns = [[quote(c.name) for c in table.columns if kind_of(c.type) == kind] for table in tables]
        terminal = f"COLUMN_{kind.upper()}"
        if not any(columns):
            absent.append(kind)
            continue
        add(f"{terminal}: {_either(name for names in columns for name in names)}")
        add(f'column_{kind}: {terminal} | ALIAS "." {terminal}')
        for i, names in enumerate(columns):
            if names:
                add(f"{terminal}_{i}: {_either(names)}")
                add(f'column_{kind}: TABLE_{i} "." {terminal}_{i}')
    for i, table in enumerate(tables):
        add(f"TABLE_{i}: {_either([quote(table.name)])}")
    lines = "\n".join(f"{name}: {' | '.join(bodies)}" for name, bodies in rules.items()) + "\n"
    return re.sub(rf"\bcolumn_({'|'.join(absent)}) \| ", "", lines) if absent else lines


def _either(names: Iterable[str]) -> str:
    return " | ".join(json.dumps(name, ensure_ascii=False) for name in dict.fromkeys(names))


class Constraints:
    """The constraints of databases' schemas; one for each tokenizer, as taking that apart takes a second."""

    def __init__(self, tokenizer: Any) -> None:
        import llguidance
        import llguidance.hf

        self._new = llguidance.LLMatcher
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer)
        self._matchers: dict[Schema, tuple[Any, References]] = {}

    def of(self, schema: Schema, question: str | None = None, kept: int = 0) -> Constraint:
        """A new constraint to the queries on `schema`.

        Args:
            question: what is asked, where texts are to be held to the columns' values and to its words (`literals`).
            kept: values that `schema` has of each column at most; 0: values are not held.

        Raises:
            UserError: the schema has no table, or makes no grammar.
        """
        remedy = "set predict.constrained=false"
        if not any(table.columns for table in schema.tables):
            raise UserError(f"the schema {schema.db_id} has no table with a column", remedy)
        if schema not in self._matchers:
            matcher = self._new(self._tokenizer, grammar(schema))
            if matcher.is_error():
                raise UserError(f"no grammar for the schema {schema.db_id}: {matcher.get_error()}", remedy)
            self._matchers[schema] = matcher, References(schema)
        matcher, references = self._matchers[schema]
        literals = None if question is None or not kept else Literals(schema, question, kept)
        return Constraint(matcher.deep_copy(), self._tokenizer, Reading(references, literals))


class Constraint:
    """Which tokens may come next in one row."""

    def __init__(self, matcher: Any, tokenizer: Any, start: Reading) -> None:
        self.matcher, self._tokenizer, self._start = matcher, tokenizer, start
        #: what the row's text has been read as; None: only the grammar holds it
        self._reading: Reading | None = start
        #: bytes of the text that are no whole character yet
        self._rest = b""
        #: the reading after a token that has been asked about, so that it is not read again once it is accepted
        self._asked: dict[int, tuple[Reading | None, bytes]] = {}

    @property
    def words(self) -> int:
        """The 32-bit words of a mask over the tokenizer's vocabulary."""
        return (int(self._tokenizer.vocab_size) + 31) // 32

    @property
    def released(self) -> bool:
        """Whether the names are no longer checked: after a token that none could follow."""
        return self._reading is None

    def refers(self, token: int) -> bool:
        """Whether all names can be what they must be once `token`, which the grammar allows, has been written."""
        if self._reading is None:
            return True
        if token == self._tokenizer.eos_token:
            return self._reading.complete()
        if token not in self._asked:
            text, rest = _characters(self._rest + self._tokenizer.decode_bytes([token]))
            self._asked[token] = self._reading.after(text), rest
        return self._asked[token][0] is not None

    def release(self) -> None:
        """Check names no more: the row has come to a dead end."""
        self._reading = None

    def accept(self, token: int) -> None:
        """Go on to the step after `token`."""
        if not self.matcher.consume_token(token):
            raise ValueError(f"token {token} was not allowed: {self.matcher.get_error()}")
        if self._reading is not None and token != self._tokenizer.eos_token:
            if not self.refers(token):
                raise ValueError(f"token {token} was not allowed: no name can follow it")
            self._reading, self._rest = self._asked[token]
        self._asked = {}

    def again(self) -> Constraint:
        """The same at its start."""
        matcher = self.matcher.deep_copy()
        matcher.reset()
        return Constraint(matcher, self._tokenizer, self._start)


def _characters(data: bytes) -> tuple[str, bytes]:
    """The whole characters of UTF-8, and the bytes of one that is not whole yet."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    return decoder.decode(data), decoder.getstate()[0]


@functools.cache
def _threads() -> Any:
    """The threads, as many as most of the processors, that compute the masks of a batch side by side."""
    import llguidance

    return llguidance.LLExecutor()


def allowed_tokens(constraints: Sequence[Constraint | None], vocabulary: int, device: torch.device) -> torch.Tensor:
    """Which tokens each row's grammar has next: booleans (rows, vocabulary) on `device`, copied there once."""
    words = next(constraint.words for constraint in constraints if constraint is not None)
    bits = torch.full((len(constraints), words), -1, dtype=torch.int32, pin_memory=device.type == "cuda")
    masked = [(constraint.matcher, row) for row, constraint in enumerate(constraints) if constraint is not None]
    _threads().unsafe_compute_mask_ptr(masked, bits.data_ptr(), words * bits.element_size(), len(bits))
    bits = bits.to(device, non_blocking=True)
    mask = (bits[:, :, None] >> torch.arange(32, device=device, dtype=torch.int32) & 1).bool().flatten(1)
    mask = mask[:, :vocabulary]
    # A model's vocabulary may be padded beyond the tokenizer's.
    mask = functional.pad(mask, (0, vocabulary - mask.shape[1]), value=False)
    if free := [slot for slot, constraint in enumerate(constraints) if constraint is None]:
        mask[free] = True
    return mask
