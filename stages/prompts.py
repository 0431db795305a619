"""Question and schema to prompt and completion, as training and prediction read them.

Of a schema that is too large for train.max_length tokens or has more than prompt.tables tables, the prompt shows the
tables that the question seems to be about; in training those of the gold query in any case. An example that is still
too long is left out of training and validation and counted, never cut: a cut answer teaches wrong SQL. Test examples
all stay: the model gives the answers.

Reads data/splits/, the schema index and the tokenizer in models/base. Writes data/prompts/{train,val,test}.jsonl
(`id`, `db_id`, `prompt`, `completion`) and metrics/prompts.json (counts and token
lengths; `parts_of_schemas`: prompts that show chosen tables).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import partial
from statistics import mean, quantiles
from typing import TYPE_CHECKING, Any

from text2sql.config import read_params, section, value_at
from text2sql.errors import UserError
from text2sql.files import read_jsonl, write_json, write_jsonl
from text2sql.model.base import load_tokenizer
from text2sql.model.fitted_prompt import PromptWriter
from text2sql.model.prompt import FRAMES, PromptOptions, completion, encode_completion
from text2sql.progress import track
from text2sql.schema import Schema, read_index
from text2sql.sql import table_names, tree_of
from text2sql.stage import run
from text2sql.workspace import BASE, INDEX, METRICS, PROMPTS, SPLITS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPORT = METRICS / "prompts.json"


@dataclass(frozen=True)
class Options:
    """`max_left_out`: the share of a split that may be longer than `max_length` tokens."""

    prompt: PromptOptions
    template: str
    max_length: int
    max_left_out: float


def read_options(params: dict[str, Any]) -> Options:
    template = value_at(params, "model.template")
    if template not in FRAMES:
        raise UserError(f"model.template is {template!r}", f"allowed: {', '.join(FRAMES)}")
    limits = (value_at(params, f"train.{name}") for name in ("max_length", "max_left_out"))
    return Options(section(PromptOptions, "prompt", params), template, *limits)


def prompts_of_split(
    split: str, schemas: dict[str, Schema], tokenizer: PreTrainedTokenizerBase, options: Options
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of one split and their figures.

    Raises:
        UserError: more examples than allowed are too long.
    """
    rows, lengths, too_long, parts = [], [], 0, 0
    writer = PromptWriter(tokenizer, options.prompt, options.template)
    examples = list(read_jsonl(SPLITS / f"{split}.jsonl"))
    for example in track(examples, f"prompts: {split}"):
        schema = schemas[example["db_id"]]
        answer = completion(example["sql"], schema)
        answer_length = len(encode_completion(tokenizer, answer))
        longest = options.max_length - (0 if split == "test" else answer_length)
        needed = partial(tables_of, example["sql"], schema) if split == "train" else tuple
        prompt = writer.write(example["question"], schema, longest, needed)
        length = len(prompt.ids) + answer_length
        too_long += length > options.max_length
        if length <= options.max_length or split == "test":
            parts += len(prompt.shown.tables) < len(schema.tables)
            lengths.append(length)
            rows.append({"id": example["id"], "db_id": example["db_id"], "prompt": prompt.text, "completion": answer})
    if split != "test" and too_long > options.max_left_out * len(examples):
        raise UserError(
            f"{too_long} of {len(examples)} examples of the {split} split have over {options.max_length} tokens",
            "raise train.max_length, take fewer prompt.samples, or allow it: train.max_left_out",
        )
    return rows, {"examples": len(rows), "parts_of_schemas": parts, "too_long": too_long, **_distribution(lengths)}


def tables_of(sql: str, schema: Schema) -> set[str]:
    """The tables of `schema` that a query reads; of one that sqlglot cannot read, those whose names it has."""
    tables = {table.name for table in schema.tables}
    tree = tree_of(sql)
    return tables & (table_names(tree) if tree is not None else set(re.findall(r"\w+", sql.lower())))


def _distribution(lengths: list[int]) -> dict[str, float]:
    if len(lengths) < 2:
        return {"tokens": sum(lengths)}
    cuts = quantiles(lengths, n=100, method="inclusive")
    return {
        "tokens": sum(lengths),
        "mean": round(mean(lengths), 1),
        "p50": cuts[49],
        "p99": cuts[98],
        "max": max(lengths),
    }


def main() -> str:
    options = read_options(read_params())
    schemas, tokenizer = read_index(INDEX), load_tokenizer(BASE)
    shutil.rmtree(PROMPTS, ignore_errors=True)
    figures = {}
    for split in ("train", "val", "test"):
        rows, figures[split] = prompts_of_split(split, schemas, tokenizer, options)
        write_jsonl(PROMPTS / f"{split}.jsonl", rows)
    write_json(REPORT, figures)
    counts = ", ".join(f"{figures[split]['examples']:,} {split}" for split in figures)
    parts = sum(counted["parts_of_schemas"] for counted in figures.values())
    left_out = sum(counted["too_long"] for split, counted in figures.items() if split != "test")
    return (
        f"{counts} prompts in {PROMPTS}/"
        + (f"; {parts:,} show only a part of their schema" if parts else "")
        + (f"; {left_out} examples left out as too long" if left_out else "")
    )


if __name__ == "__main__":
    run(main)
