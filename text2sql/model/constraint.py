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
import contextlib
import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

import torch
from torch.nn import functional

from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.model.literals import Literals
from text2sql.model.references import COUNTED, Reading, References
from text2sql.schema import KINDS, Schema, kind_of, quote

#: templates of rules, types and parts of dates
_GRAMMAR = read_beside(__file__)
#: schemas whose grammars are kept
SCHEMAS = 64


def grammar(schema: Schema) -> str:
    """The queries on `schema`, in llguidance's dialect of Lark.

    What is compared is of one kind (`KINDS`); aggregates stand neither in WHERE nor in each other.
    """
    tables = [table for table in schema.tables if table.columns]
    rules: dict[str, list[str]] = {}  # alternatives of a rule may come from several templates
    types, parts = _GRAMMAR["types"], _GRAMMAR["parts"]
    absent = []  # kinds that no column has

    def add(template: str) -> None:
        for rule in re.split(r"\n+(?! )", template.strip()):
            name, body = rule.split(":", 1)
            rules.setdefault(name, []).append(body.strip())

    add(_GRAMMAR["common"])
    for level in "pa":
        add(_GRAMMAR["expressions"].replace("@", level))
        for kind in KINDS:
            add(_GRAMMAR["kind"].replace("@", level).replace("#", kind).replace("$", kind.upper()))
    add(_GRAMMAR["aggregates"])
    for kind in KINDS:
        rules_of_kind = _GRAMMAR["aggregates_of_kind"].replace("#", kind)
        if kind == "other":  # PostgreSQL has no min(boolean)
            rules_of_kind = rules_of_kind.replace('"min(" | "max(" | ', "")
        add(rules_of_kind)
        add(f"TYPE_{kind.upper()}: {_either(spelled for name in types[kind] for spelled in (name, name.upper()))}")
    add(f"TYPE: {_either(spelled for kind in KINDS for name in types[kind] for spelled in (name, name.upper()))}")
    add(f"PART: {_either(parts)}")
    fields = (f"'{part.lower()}'" for part in parts)
    add(f"FIELD: {_either(fields)}")
    add(f"TABLE: {_either(quote(table.name) for table in tables)}")
    add(f"COLUMN: {_either(quote(column.name) for table in tables for column in table.columns)}")
    add('star: "*" | ALIAS ".*" | TABLE ".*"')
    for kind in KINDS:
        columns = [[quote(c.name) for c in table.columns if kind_of(c.type) == kind] for table in tables]
        terminal, alone = f"COLUMN_{kind.upper()}", [name for names in columns for name in names]
        alone += [COUNTED] if kind == "number" else []
        if not alone:
            absent.append(kind)
            continue
        add(f"{terminal}: {_either(alone)}")
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

    def __init__(self, tokenizer: Any = None) -> None:
        """`tokenizer`: a model's; None: a token is a byte, to ask about texts without a model."""
        import llguidance
        import llguidance.hf

        self._new = llguidance.LLMatcher
        self.tokenizer = llguidance.hf.from_tokenizer(tokenizer) if tokenizer else llguidance.LLTokenizer("byte")
        # A server is asked about other tables again and again.
        self._made = functools.lru_cache(maxsize=SCHEMAS)(self._make)

    def of(self, schema: Schema, question: str | None = None, kept: int = 0) -> Constraint:
        """A new constraint to the queries on `schema`.

        Args:
            question: what is asked, where texts are to be held to the columns' values and to its words (`literals`).
            kept: values that `schema` has of each column at most; 0: values are not held.

        Raises:
            UserError: the schema has no table, or makes no grammar.
        """
        matcher, references, letters = self._made(schema)
        literals = None if question is None or not kept else Literals(schema, question, kept)
        return Constraint(self, matcher.deep_copy(), Reading(references, literals), letters.union(question or ""))

    @functools.cached_property
    def bytes(self) -> list[int]:
        """The tokens of a single byte. Looking through the vocabulary takes a while, and only dead ends need them."""
        return [token for token in range(self.tokenizer.vocab_size) if len(self.tokenizer.decode_bytes([token])) == 1]

    def _make(self, schema: Schema) -> tuple[Any, References, frozenset[str]]:
        """A schema's matcher, its references, and the characters beyond ASCII of its names and values."""
        remedy = "set predict.constrained=false"
        if not any(table.columns for table in schema.tables):
            raise UserError(f"the schema {schema.db_id} has no table with a column", remedy)
        matcher = self._new(self.tokenizer, grammar(schema))
        if matcher.is_error():
            raise UserError(f"no grammar for the schema {schema.db_id}: {matcher.get_error()}", remedy)
        columns = [column for table in schema.tables for column in table.columns]
        texts = [*(table.name for table in schema.tables), *(text for c in columns for text in (c.name, *c.samples))]
        letters = frozenset(letter for text in texts if not text.isascii() for letter in text if not letter.isascii())
        return matcher, References(schema), letters


class Constraint:
    """Which tokens may come next in one row."""

    def __init__(self, constraints: Constraints, matcher: Any, start: Reading, letters: Set[str]) -> None:
        """`letters`: those that names, values and question have, but for ASCII."""
        self.matcher, self._constraints, self._start, self._letters = matcher, constraints, start, letters
        self._tokenizer = constraints.tokenizer
        #: before the first token and after each: what the text has been read as, and those of its bytes that are no
        #: whole character yet
        self._read: list[tuple[Any, bytes]] = [(start, b"")]
        #: tokens before the dead end after which names are not checked
        self._released_at: int | None = None
        #: the same after a token that has been asked about (None: no name can follow it), so that it is not read again
        #: once it is accepted
        self._asked: dict[int, tuple[Reading | None, bytes]] = {}

    @property
    def words(self) -> int:
        """The 32-bit words of a mask over the tokenizer's vocabulary."""
        return (int(self._tokenizer.vocab_size) + 31) // 32

    @property
    def bytes(self) -> list[int]:
        """The tokens of a single byte."""
        return self._constraints.bytes

    @property
    def released(self) -> bool:
        """Whether the names are no longer checked: after a token that none could follow."""
        return self._released_at is not None

    def refers(self, token: int) -> bool:
        """Whether all names can be what they must be once `token`, which the grammar allows, has been written."""
        if self.released:
            return True
        before, rest = self._read[-1]
        if token == self._tokenizer.eos_token:
            return before.complete()
        if token not in self._asked:
            text, rest = _characters(rest + self._tokenizer.decode_bytes([token]))
            reading = before.after(text)
            if reading is not None and rest and not any(map(reading.after, _ended(rest, self._letters))):
                reading = None  # the byte would begin a character that nothing can go on with
            self._asked[token] = reading, rest
        return self._asked[token][0] is not None

    def release(self) -> None:
        """Check names no more: the row has come to a dead end."""
        self._released_at = len(self._read) - 1

    def back_to(self, count: int) -> None:
        """Go back to the step after the first `count` tokens; after a dead end, the names are checked again."""
        self.matcher.rollback(len(self._read) - 1 - count)
        del self._read[count + 1 :]
        if self._released_at is not None and self._released_at >= count:
            self._released_at = None
        self._asked = {}

    def accept(self, token: int) -> None:
        """Go on to the step after `token`."""
        if not self.matcher.consume_token(token):
            raise ValueError(f"token {token} was not allowed: {self.matcher.get_error()}")
        if not self.refers(token):
            raise ValueError(f"token {token} was not allowed: no name can follow it")
        self._read.append(self._asked.get(token, self._read[-1]))
        self._asked = {}

    def accepts(self, text: str) -> bool:
        """Whether `text` is a whole query; uses the constraint up."""
        tokens = self._tokenizer.tokenize_str(text)
        if self.matcher.validate_tokens(tokens) < len(tokens):  # which `accept` would say on the terminal, too
            return False
        for token in tokens:
            if not self.refers(token):
                return False
            self.accept(token)
        return self.matcher.is_accepting() and self.refers(self._tokenizer.eos_token)

    def again(self) -> Constraint:
        """The same at its start."""
        matcher = self.matcher.deep_copy()
        matcher.reset()
        return Constraint(self._constraints, matcher, self._start, self._letters)


def _characters(data: bytes) -> tuple[str, bytes]:
    """The whole characters of UTF-8, and the bytes of one that is not whole yet."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    return decoder.decode(data), decoder.getstate()[0]


def _ended(begun: bytes, letters: Iterable[str]) -> Iterator[str]:
    """The characters that may come of the first bytes of one: those of `letters`, and any, where any text will do."""
    yield from (letter for letter in letters if letter.encode().startswith(begun))
    for following, count in itertools.product((b"\x80", b"\x90", b"\xa0"), (1, 2, 3)):
        with contextlib.suppress(UnicodeDecodeError):
            yield (begun + count * following).decode()


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
