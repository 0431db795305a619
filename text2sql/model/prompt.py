"""The one prompt: schema and question to text, and text to tokens, for training, prediction and the demo alike.

The schema comes before the question, so that all questions on a database begin with the same tokens: training packs
them behind one copy of the schema, prediction keeps that copy in its cache.

A question is data: `<|im_end|>` typed into it, or stored in a sample value, must not end the user's turn. Frames (the
text around schema and question) are therefore found at the two ends of a prompt and are the only places where special
tokens count; everything between them is encoded as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from text2sql.errors import UserError
from text2sql.files import read_jsonl
from text2sql.model.qualifiers import by_table
from text2sql.model.value_linking import mentioned_values
from text2sql.schema import Column, Schema, Table, quote
from text2sql.workspace import PROMPTS, SPLITS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: a sample value longer than this many characters is cut: it is there to show the form, not the content
SAMPLE_LENGTH = 40
#: characters shown of a comment, and values of an enum or a CHECK, at most
COMMENT_LENGTH = 80
CHOICES_SHOWN = 12
#: distinct values of a text column among which the question's are looked for
VALUES_KEPT = 1000


@dataclass(frozen=True)
class Frame:
    """What stands before and after schema and question; `special`: it contains special tokens of the tokenizer."""

    head: str
    tail: str
    special: bool


FRAMES = {
    "chatml": Frame("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", special=True),
    "mistral": Frame("[INST] ", " [/INST]", special=False),
}


#: the text before the tables of a prompt, and after them
SCHEMA = "PostgreSQL schema:\n"
QUESTION = "\n\nQuestion: "


@dataclass(frozen=True)
class PromptOptions:
    """conf/prompt. `style` and `qualifiers` have one form; adapters record it, and one with another is refused."""

    style: Literal["ddl"]
    samples: Annotated[int, Ge(0), Le(20)]
    #: what stands before the columns of a join in an answer: their tables' names
    qualifiers: Literal["tables"] = "tables"
    # As in adapters from before there was a choice.
    values: Annotated[int, Ge(0), Le(20)] = 0
    comments: bool = False
    #: tables shown at most, those that the question seems to be about; None: all that fit
    tables: Annotated[int, Ge(1)] | None = None


def render(schema: Schema, question: str, options: PromptOptions, template: str) -> str:
    """The prompt for `question` on `schema`, without BOS. `template` is one of `FRAMES`.

    It depends on nothing but its arguments, and everything before the question depends on the schema alone. The
    question is followed by the values of the schema that it names, if `options.values` asks for them.
    """
    tables = "\n".join(ddl(table, options) for table in schema.tables)
    frame = FRAMES[template]
    asked = " ".join(question.split())
    if mentioned := mentioned_values(asked, schema, options.values):
        asked += "\nValues: " + ", ".join(
            f"{quote(table)}.{quote(column)} = {_samples([value], 1)}" for table, column, value in mentioned
        )
    return f"{frame.head}{SCHEMA}{tables}{QUESTION}{asked}{frame.tail}"


def completion(sql: str, schema: Schema) -> str:
    """The answer to a prompt: the SQL without its semicolon, as `by_table` writes it; `encode_completion` adds EOS."""
    return by_table(sql.strip().removesuffix(";").rstrip(), schema)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a rendered prompt, with exactly one BOS at its start where the model has one."""
    frame = next((f for f in FRAMES.values() if prompt.startswith(f.head) and prompt.endswith(f.tail)), None)
    if frame is None or not frame.special:
        ids = _encode(tokenizer, prompt, special=False)
    else:
        content = prompt[len(frame.head) : len(prompt) - len(frame.tail)]
        ids = [
            *_encode(tokenizer, frame.head, special=True),
            *_encode(tokenizer, content, special=False),
            *_encode(tokenizer, frame.tail, special=True),
        ]
    bos = tokenizer.bos_token_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Token ids of an answer; ends with EOS, which the model is trained to say.

    A prompt and its completion are encoded apart and concatenated, so that no token crosses the border and prediction
    starts from exactly the tokens that training ended the prompt with.
    """
    return [*_encode(tokenizer, completion, special=False), tokenizer.eos_token_id]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all `prompts` have in common; every prompt keeps at least its last token to itself."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)
    length = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(length, min(map(len, prompts)) - 1)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    """`text` to ids; `special`: the names of special tokens in it mean those tokens, otherwise they are text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]


def ddl(table: Table, options: PromptOptions) -> str:
    """CREATE TABLE, one line a column, keys as PostgreSQL writes them, what is known of a column behind `--`.

    A view, which has no keys, differs by its first words: `create view rich (`, as many tokens as `create table`.
    """
    single = table.primary_key[0] if len(table.primary_key) == 1 else None
    lines = []
    for column in table.columns:
        text = f"{quote(column.name)} {column.type}" + (" primary key" if column.name == single else "")
        lines.append((text, _remark(column, options)))
    if len(table.primary_key) > 1:
        lines.append((f"primary key ({_names(table.primary_key)})", ""))
    for key in table.foreign_keys:
        target = f"{quote(key.referred_table)} ({_names(key.referred_columns)})"
        lines.append((f"foreign key ({_names(key.columns)}) references {target}", ""))
    commas = [","] * (len(lines) - 1) + [""]
    body = "\n".join(
        f"  {text}{comma}" + (f" -- {remark}" if remark else "")
        for (text, remark), comma in zip(lines, commas, strict=True)
    )
    about = _one_line(table.comment, COMMENT_LENGTH) if options.comments else ""
    relation = "view" if options.comments and table.kind == "view" else "table"
    return f"create {relation} {quote(table.name)} (" + (f" -- {about}" if about else "") + f"\n{body}\n);"


def _remark(column: Column, options: PromptOptions) -> str:
    """The author's comment, the values that are allowed (or else sample values): each only if it is asked for."""
    comment = _one_line(column.comment, COMMENT_LENGTH) if options.comments else ""
    if options.comments and column.choices:
        more = ", ..." if len(column.choices) > CHOICES_SHOWN else ""
        values = f"one of {_samples(column.choices, CHOICES_SHOWN)}{more}"
    else:
        values = _samples(column.samples, options.samples)
    return "; ".join(filter(None, (comment, values)))


def _one_line(text: str, length: int) -> str:
    """`text` with single spaces, cut to `length` characters: a comment's line break must not end the comment."""
    return " ".join(text.split())[:length].rstrip()


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(quote, names))


def _samples(values: Sequence[str], count: int) -> str:
    """Up to `count` values on one line, each in quotes and cut to `SAMPLE_LENGTH` characters."""
    shown = (" ".join(value.split())[:SAMPLE_LENGTH].replace("'", "''") for value in values[:count])
    return ", ".join(f"'{value}'" for value in shown)


def read_questions(split: str = "test") -> list[dict[str, Any]]:
    """The questions of a split with their prompts, in the split's order, without validation questions too long for one.

    Raises:
        UserError: split and prompts are not of the same questions.
    """
    prompts, examples = PROMPTS / f"{split}.jsonl", SPLITS / f"{split}.jsonl"
    texts = {row["id"]: row["prompt"] for row in read_jsonl(prompts)}
    rows = list(read_jsonl(examples))
    ids = {row["id"] for row in rows}
    if texts.keys() - ids or (split == "test" and ids - texts.keys()):
        raise UserError(f"{prompts} and {examples} are not of the same questions", "run `dvc repro prompts`")
    return [{**row, "prompt": texts[row["id"]]} for row in rows if row["id"] in texts]


def evenly_taken(rows: list[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """`count` of `rows`, evenly over them; all where there are no more, or with None."""
    if count is None or count >= len(rows):
        return rows
    return [rows[at * len(rows) // count] for at in range(count)]
