"""The grammar of a schema's queries: what it lets through, what not, and generation held to it."""

import dataclasses
import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.model.held import accepts
from text2sql.errors import UserError
from text2sql.model.constraint import Constraints, allowed_tokens
from text2sql.model.prompt import completion
from text2sql.schema import Column, Schema, Table


def table(name, *columns):
    made = tuple(Column(column, column, type_) for column, _, type_ in (c.rpartition(" ") for c in columns))
    return Table(name, name, made, (made[0].name,))


SHOP = Schema(
    "shop",
    (
        table("shop", "id integer", "name text", "order integer", "opened date", "open boolean"),
        table("sale", "shop_id integer", "Amount Paid numeric", "name_2 text"),
    ),
)

ACCEPTED = [
    "SELECT * FROM shop",
    "SELECT count(*) FROM shop",
    "SELECT DISTINCT name, id FROM shop WHERE id > 3 AND NOT name LIKE '%O''Hara%'",
    'SELECT "order" FROM shop ORDER BY "order" DESC NULLS LAST, id LIMIT 3 OFFSET 1',
    'SELECT t1.name, sum(t2."Amount Paid") FROM shop AS t1 JOIN sale AS t2 ON t1.id = t2.shop_id GROUP BY t1.name',
    "SELECT shop.name FROM shop JOIN sale ON shop.id = sale.shop_id WHERE sale.name_2 IS NOT NULL",
    "SELECT t1.id FROM shop AS t1 LEFT JOIN sale AS t2 ON t1.id = t2.shop_id HAVING count(DISTINCT t2.name_2) >= 2",
    "SELECT name FROM shop WHERE id NOT IN (SELECT shop_id FROM sale) OR id IN (1, -2, 3.5)",
    "SELECT name FROM shop WHERE id = (SELECT max(id) FROM shop) AND EXISTS(SELECT shop_id FROM sale)",
    "SELECT name FROM shop UNION ALL SELECT name_2 FROM sale EXCEPT (SELECT name FROM shop LIMIT 1)",
    "SELECT count(*) FROM (SELECT name FROM shop GROUP BY name) AS t1",
    "SELECT avg(n) FROM (SELECT count(*) AS n FROM sale GROUP BY shop_id) AS counts",
    "SELECT CAST(name AS INTEGER) + 1, id::text, coalesce(name, 'x') FROM shop WHERE id BETWEEN 1 AND 2 AND name <> ''",
    "SELECT EXTRACT(YEAR FROM opened) FROM shop WHERE (id < 1 OR id > 2) AND name ILIKE 'a%'",
    "SELECT CASE WHEN id > 1 THEN 'a' ELSE 'b' END AS kind FROM shop",
    "SELECT (array_agg(name ORDER BY id))[1] FROM shop",
    "SELECT name FROM shop WHERE opened >= CURRENT_DATE - INTERVAL '30 days' AND opened < CURRENT_DATE",
    "SELECT opened - INTERVAL '1 YEAR', opened + INTERVAL '2 months 3 days' FROM shop WHERE '2020-01-01' < opened",
    "SELECT name FROM shop WHERE opened + INTERVAL '1.5 hours' > CURRENT_DATE + INTERVAL '-2 weeks'",
    "SELECT date_part('year', now()), CURRENT_TIMESTAMP FROM shop WHERE opened < now() AND opened > CURRENT_TIMESTAMP",
    "SELECT max(opened) - min(opened), CURRENT_DATE - max(opened) FROM shop WHERE CURRENT_DATE - opened > 30",
    "SELECT 'schöne Grüße 北京'",
    "SELECT name FROM shop WHERE opened > '2020-01-01' AND open AND open = TRUE",
    "SELECT name FROM shop WHERE name::integer > 3 AND id::text LIKE '3%' AND opened BETWEEN '2020-01-01' AND opened",
    "SELECT round(avg(length(name)), 2), min(opened), string_agg(name, ', ') FROM shop HAVING max(id) > sum(id)",
    "SELECT opened::text, open::int, CAST(opened AS timestamp), name::text::numeric FROM shop",
    "SELECT name FROM shop WHERE name IN ('a', 'b') AND id IN (SELECT max(shop_id) FROM sale) AND name IS NOT NULL",
]
REFUSED = [
    "",
    "SELECT",
    "SELECT nam FROM shop",
    "SELECT name FROM shops",
    "SELECT sale.name FROM sale",  # name is shop's
    "SELECT name FROM shop WHERE",
    "SELECT name FROM shop;",
    "SELECT name FROM shop; DROP TABLE shop",
    "DELETE FROM shop",
    "SELECT pg_sleep(9)",
    "SELECT name FROM shop WHERE id > ",
    "SELECT count(* FROM shop",
    "SELECT name FROM shop WHERE name = 3",  # a text
    "SELECT name FROM shop WHERE id = 'x'",
    "SELECT name FROM shop WHERE id ILIKE '%3%'",
    "SELECT name FROM shop WHERE name = id",
    "SELECT name FROM shop WHERE opened = 2020",
    "SELECT name FROM shop WHERE id IN (SELECT name FROM shop)",
    "SELECT name FROM shop WHERE id IN (SELECT id, name FROM shop)",
    "SELECT sum(name) FROM shop",
    "SELECT sum(CAST(opened AS DECIMAL)) FROM shop",  # PostgreSQL casts no date to a number
    "SELECT opened::text::int FROM shop",
    "SELECT id FROM shop WHERE CAST(id AS date) > '2020-01-01'",
    "SELECT CAST(opened AS boolean) FROM shop",
    "SELECT name FROM shop WHERE opened > CURRENT_DATE - INTERVAL 'now'",
    "SELECT opened - INTERVAL '30' FROM shop",
    "SELECT opened - INTERVAL 'days' FROM shop",
    "SELECT opened - INTERVAL '1 decade' FROM shop",
    "SELECT opened - INTERVAL '1 year 2 months 3 days' FROM shop",
    "SELECT max(count(*)) FROM shop",
    "SELECT name FROM shop WHERE count(*) > 1",
    "SELECT name FROM shop WHERE length() > 1",
    "Here is the query: SELECT name FROM shop",
]


@pytest.fixture(scope="module")
def constraints(tiny_tokenizer):
    return Constraints(tiny_tokenizer)


@pytest.mark.parametrize(("sql", "is_query"), [(sql, True) for sql in ACCEPTED] + [(sql, False) for sql in REFUSED])
def test_grammar(constraints, tiny_tokenizer, sql, is_query):
    tokens = tiny_tokenizer(sql, add_special_tokens=False)["input_ids"]
    grammar = constraints.of(SHOP)
    grammar.release()
    assert accepts(grammar, tokens) is is_query


BY_TABLE = [
    ("SELECT name FROM shop", True),
    ("SELECT name FROM sale", False),  # name is shop's
    ("SELECT shop_id FROM sale WHERE name = 'x'", False),
    ("SELECT shop.name FROM shop JOIN sale ON shop.id = sale.shop_id ORDER BY sale.name_2 DESC LIMIT 1", True),
    ("SELECT name FROM shop JOIN sale ON shop.id = sale.shop_id", False),
    ("SELECT sale.name FROM shop JOIN sale ON shop.id = sale.shop_id", False),
    ("SELECT count(*), name FROM shop GROUP BY name HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 1", True),
    ("SELECT count(*), name FROM shop GROUP BY shop_id", False),
    ("SELECT name FROM shop WHERE id NOT IN (SELECT shop_id FROM sale)", True),
    ("SELECT name FROM shop WHERE id NOT IN (SELECT id FROM sale)", False),
    ("SELECT name FROM shop UNION SELECT name_2 FROM sale ORDER BY name", True),
    ('SELECT t1.name FROM shop AS t1 JOIN shop AS t2 ON t1.id = t2."order"', True),
    ("SELECT count(*) FROM (SELECT name FROM shop GROUP BY name) AS t1", True),
    ("SELECT * FROM sale", True),
    ("SELECT 'schöne Grüße 北京'", True),
    ("SELECT name FROM shop WHERE", False),
]


@pytest.mark.parametrize(("sql", "is_query"), BY_TABLE)
def test_grammar_and_references(constraints, tiny_tokenizer, sql, is_query):
    tokens = tiny_tokenizer(sql, add_special_tokens=False)["input_ids"]
    assert accepts(constraints.of(SHOP), tokens) is is_query


def test_schemas_that_differ_in_keys_only_have_constraints_of_their_own(constraints, tiny_tokenizer):
    keyless = Schema("shop", tuple(dataclasses.replace(t, primary_key=()) for t in SHOP.tables))
    tokens = tiny_tokenizer("SELECT name FROM shop GROUP BY id", add_special_tokens=False)["input_ids"]
    assert accepts(constraints.of(SHOP), tokens)
    assert not accepts(constraints.of(keyless), tokens)


def test_a_schema_of_many_tables_still_has_a_grammar(constraints, tiny_tokenizer):
    many = Schema("many", tuple(table(f"t_{i}", "id integer", f"c_{i} text") for i in range(200)))
    tokens = tiny_tokenizer("SELECT c_7 FROM t_7", add_special_tokens=False)["input_ids"]
    assert accepts(constraints.of(many), tokens)


def allowed_next(constraint, vocabulary):
    return allowed_tokens([constraint], vocabulary, torch.device("cpu"))[0]


def test_only_so_many_grammars_are_kept(monkeypatch):
    """A server answers questions on ever other parts of schemas."""
    monkeypatch.setattr("text2sql.model.constraint.SCHEMAS", 2)
    made, constraints = [], Constraints()
    monkeypatch.setattr("text2sql.model.constraint.References", lambda schema: made.append(schema.db_id))
    for name in "abacab":
        constraints.of(dataclasses.replace(SHOP, db_id=name))
    assert made == ["a", "b", "c", "b"]


def test_the_tokens_of_single_bytes_are_looked_for_at_dead_ends_only(tiny_tokenizer):
    constraints = Constraints(tiny_tokenizer)
    held = constraints.of(SHOP)
    assert held.again().accepts("SELECT name FROM shop")
    assert "bytes" not in vars(constraints)
    assert {constraints.tokenizer.decode_bytes([token]) for token in held.bytes} >= {b"a", b"\xc3", b"\xa9"}


def test_a_step_at_a_time(constraints, tiny_tokenizer):
    constraint = constraints.of(SHOP)
    for token in tiny_tokenizer("SELECT name FROM shop", add_special_tokens=False)["input_ids"]:
        allowed = allowed_next(constraint, 600)
        assert allowed[token]
        assert not allowed[512:].any()  # what pads the vocabulary
        constraint.accept(token)
    assert allowed_next(constraint, 600)[tiny_tokenizer.eos_token_id]
    assert not allowed_next(constraint.again(), 600)[tiny_tokenizer.eos_token_id]
    with pytest.raises(ValueError, match="was not allowed"):
        constraint.accept(tiny_tokenizer("?", add_special_tokens=False)["input_ids"][0])


def test_a_schema_without_tables_is_refused(constraints):
    with pytest.raises(UserError, match="the schema empty has no table"):
        constraints.of(Schema("empty", ()))


#: of names, not of values
ERRORS = ("syntax", "unknown_column", "unknown_table", "unknown_function", "grouping")


def walk(constraint, tokenizer, draw):
    """A random query: any token that is allowed, the end as soon as a coin says so."""
    tokens = []
    for _ in range(200):
        allowed = allowed_next(constraint, len(tokenizer)).nonzero().flatten().tolist()
        end = tokenizer.eos_token_id
        if end in allowed and constraint.refers(end) and draw.random() < 0.5:
            return tokenizer.decode(tokens)
        few = [t for t in draw.sample(allowed, min(64, len(allowed))) if t != end]
        if draw.random() < 0.8:  # on with the query rather than with this expression
            few.sort(key=lambda t: not tokenizer.decode([t]).startswith((" F", " W", " G", " O", " J", " =")))
        token = next((t for t in few if constraint.refers(t)), None)
        if token is None:
            return None
        constraint.accept(token)
        tokens.append(token)
    return None


def test_what_is_let_through_runs_on_postgresql(constraints, tiny_tokenizer, tmp_path):
    """Random walks, not a model: whatever the grammar allows and the references admit has names that exist."""
    from text2sql.ask.place import open_place

    with closing(sqlite3.connect(tmp_path / "music.sqlite")) as connection:
        connection.executescript(
            """create table singer (id integer primary key, name text, age integer, born date);
            create table band (no integer primary key, title text, founded integer);
            create table member (singer_id integer references singer (id), band_no integer references band (no),
                since date, primary key (singer_id, band_no));
            insert into singer values (1, 'Ann', 30, '1990-01-01'), (2, 'Bob', 40, '1980-02-03');
            insert into band values (1, 'ABC', 1999);
            insert into member values (1, 1, '2000-01-01');"""
        )
    draw, failed, ran = random.Random(1), [], 0
    with open_place(str(tmp_path / "music.sqlite")) as place:
        for _ in range(150):
            sql = walk(constraints.of(place.schema), tiny_tokenizer, draw)
            if sql is not None:
                ran += 1
                result = place.execute(sql)
                constant = "ORDER BY" in result.message or "GROUP BY" in result.message  # BY FALSE, BY 22
                if not constant and "FROM (" not in sql and result.error in ERRORS:
                    failed.append((result.error, result.message, sql))
    assert ran > 10
    assert not failed, "\n".join(map(str, failed))


def steered(constraint, width):
    """A logits processor for transformers' `generate` of one prompt of `width` tokens."""
    from text2sql.model.sampling import choose_tokens

    def process(ids, logits):
        if ids.shape[1] > width:
            constraint.accept(int(ids[0, -1]))
        (choice,) = choose_tokens(logits, [constraint], [None])
        chosen = torch.full_like(logits, float("-inf"))
        chosen[0, choice.token] = 0.0
        return chosen

    return process


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_write_sql(constraints, tiny_base, tiny_tokenizer, dtype):
    import sqlglot

    from text2sql.model.base import QuantizationOptions
    from text2sql.model.generation import GenerationOptions, generate
    from text2sql.model.inference import load_for_inference

    model = load_for_inference(tiny_base, QuantizationOptions(None, None, False, "float32"), None, dtype, "cpu")
    prompts = [tiny_tokenizer(f"shop {i}", add_special_tokens=False)["input_ids"] for i in range(8)]
    options = GenerationOptions(batch_size=3, max_new_tokens=40)
    seeds = [None, None] + [str(i) for i in range(6)]
    held = generate(model, tiny_tokenizer, prompts, options, seeds, [constraints.of(SHOP) for _ in prompts])
    for made in held:
        assert made.text.lstrip("(").startswith("SELECT ")
        if made.finished:
            sqlglot.parse_one(made.text, read="postgres")
    if dtype == "float32":
        for prompt, made in zip(prompts[:2], held, strict=False):
            (alone,) = generate(model, tiny_tokenizer, [prompt], options, None, [constraints.of(SHOP)])
            assert alone.token_ids == made.token_ids
            by_transformers = model.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=40, pad_token_id=0,
                logits_processor=[steered(constraints.of(SHOP), len(prompt))],
            )[0, len(prompt) :]  # fmt: skip
            assert by_transformers[: len(made.token_ids)].tolist() == list(made.token_ids)


@pytest.mark.parametrize("unlikely", [-6.4, -6.2, -6.0])
def test_a_row_that_went_back_goes_on_from_there(constraints, tiny_base, tiny_tokenizer, monkeypatch, unlikely):
    """Keys, values and readings are those of the beginning: its probability is that of one pass over the answer."""
    from text2sql.model import generation, sampling
    from text2sql.model.base import QuantizationOptions
    from text2sql.model.inference import load_for_inference

    model = load_for_inference(tiny_base, QuantizationOptions(None, None, False, "float32"), None, "float32", "cpu")
    prompts = [tiny_tokenizer(f"shop {i}", add_special_tokens=False)["input_ids"] for i in range(6)]
    options = generation.GenerationOptions(batch_size=4, max_new_tokens=24)
    for module in (generation, sampling):
        monkeypatch.setattr(module, "UNLIKELY", unlikely)
    rows, back = [], generation.Decoder._goes_back
    monkeypatch.setattr(
        generation.Decoder, "_goes_back", lambda self, row, choice: rows.append(row) or back(self, row, choice)
    )
    made = generation.generate(model, tiny_tokenizer, prompts, options, None, [constraints.of(SHOP) for _ in prompts])
    assert any(row.returns for row in rows)
    for prompt, answer in zip(prompts, made, strict=True):
        tokens = [*answer.token_ids, *([tiny_tokenizer.eos_token_id] if answer.finished else [])]
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(tokens)), tokens].sum()
        assert answer.score == pytest.approx(float(expected), abs=1e-3)
        assert not answer.checked or accepts(constraints.of(SHOP), tokens) == answer.finished


@given(st.data())
def test_going_back_leaves_no_trace(constraints, tiny_tokenizer, data):
    """After some tokens, others and a dead end: what may follow is as if they had not been."""
    first, second = (
        tiny_tokenizer(data.draw(st.sampled_from(ACCEPTED)), add_special_tokens=False)["input_ids"] for _ in "12"
    )
    assume(all(accepts(constraints.of(SHOP), tokens) for tokens in (first, second)))
    count = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, (first, second)))
    )
    held, fresh = constraints.of(SHOP), constraints.of(SHOP)
    for token in first:
        held.accept(token)
    if data.draw(st.booleans()):
        held.release()
    held.back_to(count)
    assert not held.released
    for token in second[:count]:
        fresh.accept(token)
    assert torch.equal(allowed_next(held, len(tiny_tokenizer)), allowed_next(fresh, len(tiny_tokenizer)))
    for token in second[count:]:
        assert held.refers(token)
        held.accept(token)
    assert held.refers(tiny_tokenizer.eos_token_id)
    assert held.matcher.is_accepting()


@pytest.mark.spider
def test_gold_queries_that_it_excludes(constraints, tiny_tokenizer):
    """The grammar none; the references those that join along no key. Wants data/postgres of a Spider run."""
    from text2sql.schema import read_index

    folder = Path(os.environ.get("SPIDER_POSTGRES", "nowhere"))
    if not (folder / "examples.jsonl").exists():
        pytest.skip("SPIDER_POSTGRES does not name data/postgres of a run with data=spider")
    schemas = read_index(folder / "schema_index.json")
    rows = [json.loads(line) for line in (folder / "examples.jsonl").open()]
    golds = {(row["db_id"], row["postgres"]) for row in rows if row["postgres"] and row["db_id"] in schemas}
    refused = []
    for db_id, gold in golds:
        sql = completion(gold, schemas[db_id])
        tokens = tiny_tokenizer(sql, add_special_tokens=False)["input_ids"]
        grammar, held = constraints.of(schemas[db_id]), constraints.of(schemas[db_id])
        grammar.release()
        assert accepts(grammar, tokens), sql
        if not accepts(held, tokens):
            refused.append((db_id, sql))
    print(f"{len(refused)} of {len(golds)} refused", *refused, sep="\n")
    assert len(refused) <= 0.015 * len(golds), refused[:3]
