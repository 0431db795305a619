"""Each pack's tables in an order of its own: the same text but for the order, shared by the questions of the pack."""

import dataclasses
import functools
from collections import Counter

import pytest

from text2sql.model.packing import Plan, TrainingExample, pack, plan
from text2sql.model.prompt import FRAMES, QUESTION, PromptOptions, encode_prompt, render
from text2sql.model.table_orders import reorder, shuffle_tables
from text2sql.schema import Column, Schema, Table

COLUMNS = (Column("id", "ID", "integer", comment="(x\n);"), Column("at);", "At", "text"))
OPTIONS = PromptOptions("ddl", 0, comments=True)


def shop(tables):
    kinds = ("table", "view")
    return Schema("shop", tuple(Table(f"t{i}", f"T{i}", COLUMNS, kind=kinds[i % 2]) for i in range(tables)))


@pytest.mark.parametrize("template", FRAMES)
@pytest.mark.parametrize("order", [[0], [1, 0], [2, 0, 1], [0, 1, 2, 3]])
def test_reordered_as_rendered(template, order):
    schema = shop(len(order))
    question = "Which Question: is there?\nPostgreSQL schema: none\n);\ncreate table x"
    again = dataclasses.replace(schema, tables=tuple(schema.tables[i] for i in order))
    prompt = render(schema, question, OPTIONS, template)
    assert reorder(prompt, lambda tables: [tables[i] for i in order]) == render(again, question, OPTIONS, template)


def examples(tokenizer, tables, count):
    for i in range(count):
        text = render(shop(tables), f"How many of {i}?", OPTIONS, "chatml")
        yield TrainingExample(f"shop{tables}", tuple(encode_prompt(tokenizer, text)), (i, 2), text)


def test_each_pack_has_an_order_of_its_own(tiny_tokenizer):
    given = [e for tables, count in [(1, 5), (5, 40)] for e in examples(tiny_tokenizer, tables, count)]
    encode = functools.partial(encode_prompt, tiny_tokenizer)
    planned = plan(given, size=4, tokens=4096, batch=8, epochs=2.0, seed=7)
    shuffled = shuffle_tables(planned, encode, 7)
    assert shuffled == shuffle_tables(planned, encode, 7) != shuffle_tables(planned, encode, 8)
    assert shuffled.per_step == planned.per_step
    shown = Counter()
    for before, after in zip(planned.groups, shuffled.groups, strict=True):
        assert [e.answer for e in after] == [e.answer for e in before]
        assert pack(after).tokens == pack(before).tokens  # the questions share their schema as before
        for one, other in zip(before, after, strict=True):
            assert other.prompt == tuple(encode(other.text))
            assert sorted(other.text.split("\n")) == sorted(one.text.split("\n"))
        schemas = {e.text.partition(QUESTION)[0] for e in after}
        assert len(schemas) == 1
        shown.update((after[0].db_id, text) for text in schemas)
    assert sum(db_id == "shop1" for db_id, _ in shown) == 1
    assert sum(db_id == "shop5" for db_id, _ in shown) > 10  # of 120 orders, in twenty packs


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_a_schema_share_what_they_have_in_common(tiny_tokenizer, seed):
    """Each question is shown the last tables and some of the others; a pack takes no more tokens than before."""
    encode = functools.partial(encode_prompt, tiny_tokenizer)
    whole, group = shop(6), []
    for i, seen in enumerate([(0, 4, 5), (1, 2, 4, 5), (0, 3, 4, 5), (4, 5)]):
        part = dataclasses.replace(whole, tables=tuple(whole.tables[n] for n in seen))
        text = render(part, f"How many of {i}?", OPTIONS, "chatml")
        group.append(TrainingExample("shop", tuple(encode(text)), (i, 2), text))
    (shuffled,) = shuffle_tables(Plan([tuple(group)], 1), encode, seed).groups
    assert pack(shuffled).tokens < pack(group).tokens
    for one, other in zip(group, shuffled, strict=True):
        assert sorted(other.text.split("\n")) == sorted(one.text.split("\n"))
