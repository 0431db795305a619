"""Prompts of at most so many tokens and tables: of a larger schema, the tables that the question is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from text2sql.model.prompt import PromptOptions, ddl, encode_prompt, render
from text2sql.model.relevant_tables import choose_tables
from text2sql.schema import Schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt, its token ids, and the part of the schema that it shows."""

    text: str
    ids: list[int]
    shown: Schema


class PromptWriter:
    """Writes the prompts of one model in one form. `template`: a name in `prompt.FRAMES`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: PromptOptions, template: str) -> None:
        self.tokenizer, self.options, self.template = tokenizer, options, template
        self.sizes = lru_cache(maxsize=16)(self._sizes)

    def write(
        self, question: str, schema: Schema, longest: int, needed: Callable[[], Iterable[str]] = tuple
    ) -> FittedPrompt:
        """The prompt of at most `longest` tokens: with the whole schema if it fits, and has no more tables than
        `PromptOptions.tables`; otherwise with chosen tables.

        It is longer where not even the most probable table fits, or not all that are `needed`.

        Args:
            needed: called where tables are chosen; the names of those that are shown in any case.
        """
        most = self.options.tables or len(schema.tables)
        if len(schema.tables) <= most:
            whole = self._prompt(question, schema)
            if len(schema.tables) < 2 or len(whole.ids) <= longest:
                return whole
        empty = self._prompt(question, replace(schema, tables=()))
        budget = longest - len(empty.ids)
        part = choose_tables(question, schema, self.sizes(schema), budget, most=most, needed=needed())
        return self._prompt(question, part)

    def _prompt(self, question: str, schema: Schema) -> FittedPrompt:
        text = render(schema, question, self.options, self.template)
        return FittedPrompt(text, encode_prompt(self.tokenizer, text), schema)

    def _sizes(self, schema: Schema) -> dict[str, int]:
        """The tokens of each table in a prompt, with its line break."""
        texts = [ddl(table, self.options) + "\n" for table in schema.tables]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return {table.name: len(tokens) for table, tokens in zip(schema.tables, ids, strict=True)}
