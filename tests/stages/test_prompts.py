"""The stage prompts: what a prompt shows of a schema that is too large for it, and what is left out."""

import re
from dataclasses import replace

import pytest

from stages import prompts
from stages.prompts import PROMPTS, REPORT, Options, prompts_of_split
from text2sql.errors import UserError
from text2sql.files import read_json, read_jsonl, write_jsonl
from text2sql.model.base import load_tokenizer
from text2sql.model.prompt import PromptOptions, render
from text2sql.schema import Column, Schema, Table, write_index
from text2sql.workspace import INDEX, SPLITS

FORM = PromptOptions("ddl", 0)
LONGEST = 400
WIDE = Table("archive", "archive", tuple(Column(f"remark_{n}", f"remark_{n}", "text") for n in range(100)))


def schema(tables, *more):
    """Tables of two columns, `customers` among them."""
    names = [f"log_{n}" for n in range(tables - 1)] + ["customers"]
    columns = (Column("id", "id", "integer"), Column("city", "city", "text"))
    return Schema("shop", (*(Table(name, name, columns) for name in names), *more))


@pytest.fixture
def rows_of(tiny_release, tmp_path, monkeypatch):
    """The prompts of examples (question and SQL) on a schema, as the stage writes them, and their figures."""
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(tiny_release.parent / "base")

    def rows_of(split, schema, *examples, max_left_out=0.0, tables=None):
        rows = [{"id": str(n), "db_id": "shop", "question": q, "sql": sql} for n, (q, sql) in enumerate(examples)]
        write_jsonl(SPLITS / f"{split}.jsonl", rows)
        return prompts_of_split(
            split, {"shop": schema}, tokenizer, Options(replace(FORM, tables=tables), "chatml", LONGEST, max_left_out)
        )

    return rows_of


BERLIN = ("Which customers live in Berlin?", "SELECT id FROM customers WHERE city = 'Berlin'")
OTHER = ("Which customers live in Berlin?", "SELECT id FROM Log_7 WHERE city = 'Berlin'")

#: PostgreSQL's, which sqlglot cannot read
UNREAD = ("Which customers live in Berlin?", "SELECT id FROM Log_7 WHERE city = 'Berlin' ORDER BY id USING <")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_schema_that_fits_is_shown_whole(rows_of, split):
    (row,), figures = rows_of(split, schema(3), BERLIN)
    assert row["prompt"] == render(schema(3), BERLIN[0], FORM, "chatml")
    assert (figures["parts_of_schemas"], figures["too_long"]) == (0, 0)


@pytest.mark.parametrize(
    ("split", "example", "shown", "hidden"),
    [
        ("train", BERLIN, ["customers"], []),
        ("test", BERLIN, ["customers"], []),
        ("train", UNREAD, ["customers", "log_7"], ["log_8"]),
        # Only training may know the gold query's tables, however it writes their names.
        ("train", OTHER, ["customers", "log_7"], []),
        ("val", OTHER, ["customers"], ["log_7"]),
        ("test", OTHER, ["customers"], ["log_7"]),
    ],
)
def test_of_a_large_schema_the_tables_of_the_question_are_shown(rows_of, split, example, shown, hidden):
    (row,), figures = rows_of(split, schema(60), example)
    assert all(f"create table {name} (" in row["prompt"] for name in shown)
    assert not any(f"create table {name} (" in row["prompt"] for name in hidden)
    assert row["completion"] == example[1]
    assert (figures["parts_of_schemas"], figures["too_long"]) == (1, 0)
    assert figures["tokens"] <= LONGEST + (split == "test") * 50


@pytest.mark.parametrize(
    ("split", "example", "shown"), [("train", OTHER, {"log_7", "customers"}), ("test", OTHER, {"customers"})]
)
def test_at_most_so_many_tables(rows_of, split, example, shown):
    (row,), figures = rows_of(split, schema(9), example, tables=2 if split == "train" else 1)
    assert set(re.findall(r"create table (\w+) \(", row["prompt"])) == shown
    assert figures["parts_of_schemas"] == 1


def test_a_table_that_alone_is_too_long(rows_of):
    """Not shown where it is not needed; where it is, the example is left out, as far as that is allowed."""
    both = schema(3, WIDE)
    (row,), figures = rows_of("train", both, BERLIN)
    assert "create table archive" not in row["prompt"]
    assert figures["parts_of_schemas"] == 1
    needs_it = ("Which remarks are there?", "SELECT remark_1 FROM archive")
    with pytest.raises(UserError, match="1 of 2 examples of the train split have over 400 tokens"):
        rows_of("train", both, BERLIN, needs_it)
    rows, figures = rows_of("train", both, BERLIN, needs_it, max_left_out=0.5)
    assert [row["id"] for row in rows] == ["0"]
    assert figures["too_long"] == 1
    rows, figures = rows_of("test", both, needs_it)
    assert len(rows) == 1, "test examples all stay"


def test_the_stage_says_how_many(rows_of, tiny_release, monkeypatch):
    for split in ("train", "val", "test"):
        rows_of(split, schema(60), BERLIN, OTHER)
    write_index(INDEX, {"shop": schema(60)})
    monkeypatch.setattr(prompts, "BASE", tiny_release.parent / "base")
    params = {"model": {"template": "chatml"}, "train": {"max_length": LONGEST, "max_left_out": 0.0}}
    params["prompt"] = {"style": "ddl", "samples": 0, "qualifiers": "tables"}
    monkeypatch.setattr(prompts, "read_params", lambda: params)
    assert "6 show only a part of their schema" in prompts.main()
    assert read_json(REPORT)["val"]["parts_of_schemas"] == 2
    assert len(list(read_jsonl(PROMPTS / "test.jsonl"))) == 2
