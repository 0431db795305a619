"""The shapes on graphs of the described domains: all occur, all are as hard as they say, and English is spoken."""

import dataclasses
import random
import re
import sqlite3
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import date

import psycopg
import pytest

from text2sql.data.mini.domain import load_folder
from text2sql.data.mini.english import plural, singular, tidy_sentence
from text2sql.data.mini.graph import Attribute, from_domain, from_schema
from text2sql.data.mini.pick import Picker, Unsuitable
from text2sql.data.mini.questions import generate_questions, worth_asking
from text2sql.data.mini.rows import make_rows
from text2sql.data.mini.shapes import RATIOS, SHAPES
from text2sql.data.mini.sql_parts import SelectParts
from text2sql.postgres.server import server
from text2sql.schema import Column, ForeignKey, Schema, Table
from text2sql.scoring.hardness import hardness

DOMAINS = load_folder("domains")


def memory(domain, rows):
    connection = sqlite3.connect(":memory:")
    for table in domain.tables:
        names = ", ".join(f'"{c.name}" {c.type}' for c in table.columns)
        connection.execute(f'CREATE TABLE "{table.name}" ({names})')
        marks = ", ".join("?" * len(table.columns))
        connection.executemany(f'INSERT INTO "{table.name}" VALUES ({marks})', rows[table.name])
    return lambda sql: connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def asked():
    """Half of the questions are on ratios."""
    out = []
    for domain in DOMAINS:
        rows = make_rows(domain, 42)
        graph = from_domain(domain, rows)
        out += generate_questions(graph, memory(domain, rows), random.Random(domain.db_id), 90, ratios=0.5)
    return out


def test_there_are_30_domains_of_3_to_6_tables():
    assert len(DOMAINS) >= 30
    assert all(3 <= len(d.tables) <= 6 for d in DOMAINS)


def test_every_shape_occurs_and_is_as_hard_as_it_says(asked):
    by_shape = defaultdict(list)
    for question in asked:
        by_shape[question.shape].append(question.sql)
    assert set(by_shape) == {*SHAPES, *RATIOS}
    assert len(SHAPES) >= 40
    for name, queries in by_shape.items():
        levels = Counter(hardness(sql, "sqlite") for sql in queries)
        assert levels.most_common(1)[0][0] == (SHAPES | RATIOS)[name].hardness, (name, levels, queries[0])


@pytest.mark.parametrize("ratios", [0.0, 0.1, 0.5, 0.9])
def test_the_share_of_questions_on_ratios(ratios):
    shapes = []
    for domain in DOMAINS[:6]:
        rows = make_rows(domain, 42)
        graph, run = from_domain(domain, rows), memory(domain, rows)
        shapes += [q.shape for q in generate_questions(graph, run, random.Random(domain.db_id), 60, ratios)]
    assert not set(SHAPES) & set(RATIOS)
    # a shape that suits no table of a domain leaves its turn to the others
    assert sum(shape in RATIOS for shape in shapes) / len(shapes) == pytest.approx(ratios, abs=0.15)
    assert ratios or not set(shapes) & set(RATIOS)


def test_no_row_is_on_both_sides_of_a_ratio(asked):
    """Of two bounds on one column the lower one is not below the upper one, nor are two values the same."""
    compared = 0
    for question in asked:
        if question.shape in ("ratio_of_opposites", "ratio_by_group", "ratio_where", "ratio_by_parent"):
            first, second = re.findall(r"CASE WHEN (.*?) THEN 1", question.sql)
            assert first != second
            bounds = dict(
                re.match(r"\S+ ([<>]) (\S+)$", side).groups() for side in (first, second) if re.search("[<>] ", side)
            )
            if bounds.keys() == {"<", ">"} and not any(bound.startswith("'") for bound in bounds.values()):
                assert float(bounds[">"]) >= float(bounds["<"]), question
                compared += 1
    assert compared > 10


def test_every_shape_has_several_phrasings():
    assert all(len(s.phrasings) >= 2 for s in (SHAPES | RATIOS).values())


def test_questions_read_as_sentences(asked):
    for question in asked:
        text = question.question
        assert text[0].isupper(), text
        assert text[-1] in ".?", text
        assert not set("{}[]|_") & set(text) or "_" in question.sql, text
        assert not any(bad in text for bad in (" None", " False", "  ")), text


def test_one_meaning_has_one_query(asked):
    """A question has one query within a domain, and nothing is asked in a style of its own."""
    for question in asked:
        assert "!=" not in question.sql
        named = question.sql.replace(" AS INTEGER)", "")
        assert " AS " not in named or "counts" in named or " AS t1" in named, question.sql


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("show a age .", "Show an age."),
        ("which  x have an price ?", "Which x have a price?"),
        ("What are the names.", "What are the names?"),
        ("How many? Show the names.", "How many? Show the names."),
        ("list a unit , sorted.", "List a unit, sorted."),
    ],
)
def test_tidy(text, tidied):
    assert tidy_sentence(text) == tidied


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("city", "cities"),
        ("date of birth", "dates of birth"),
        ("status", "statuses"),
        ("price per night", "prices per night"),
        ("company", "companies"),
        ("box", "boxes"),
        ("day", "days"),
        ("person", "people"),
    ],
)
def test_plural_and_singular(one, many):
    assert plural(one) == many
    if " " not in one:
        assert singular(many) == one


ROWS = "CREATE TABLE t (id INTEGER, kind TEXT, price REAL); INSERT INTO t VALUES (1, 'a', 2), (2, 'a', 2), (3, 'b', 5)"


@pytest.mark.parametrize(
    ("query", "worth"),
    [
        (SelectParts(("id",), "t", ("kind = 'b'",)), True),
        (SelectParts(("id",), "t", ("kind = 'z'",)), False),  # no answer
        (SelectParts(("id",), "t", ("price > 1",)), False),  # the condition excludes nothing
        (SelectParts(("id",), "t", ("price > 1", "kind = 'a'")), False),  # one of the conditions excludes nothing
        (SelectParts(("COUNT(*)",), "t", ("kind = 'z'",)), False),  # a count of zero
        (SelectParts(("AVG(price)",), "t", ("kind = 'z'",)), False),  # NULL
        (SelectParts(("id",), "t", order="price", limit=1), False),  # a tie at the limit
        (SelectParts(("id",), "t", order="price", descending=True, limit=1), True),
        (SelectParts(("id",), "t", order="price"), False),  # a tie in a sorted list
        (SelectParts(("id",), "t", order="id", limit=3), False),  # the limit cuts nothing off
        (SelectParts(("kind",), "t", group="kind", having="COUNT(*) > 1"), True),
        (SelectParts(("kind",), "t", group="kind", having="COUNT(*) > 0"), False),
    ],
)
def test_worth_asking(query, worth):
    connection = sqlite3.connect(":memory:")
    connection.executescript(ROWS)
    assert worth_asking(query, lambda sql: connection.execute(sql).fetchall()) is worth


def as_schema(domain):
    """A described domain as a stranger's schema: no words, only names, keys and types."""
    return Schema(
        domain.db_id,
        tuple(
            Table(
                t.name,
                t.name,
                tuple(Column(c.name, c.name, "text") for c in t.columns),
                t.key,
                tuple(ForeignKey((c.name,), c.ref[0], (c.ref[1],)) for c in t.columns if c.ref),
            )
            for t in domain.tables
        ),
    )


@pytest.mark.parametrize("domain", load_folder("demo"), ids=lambda d: d.db_id)
def test_shapes_work_on_any_schema(domain):
    rows = make_rows(domain, "demo")
    values = {
        (table.name, column.name): [row[i] for row in rows[table.name]]
        for table in domain.tables
        for i, column in enumerate(table.columns)
    }
    graph = dataclasses.replace(from_schema(as_schema(domain), values), dialect="sqlite")
    questions = generate_questions(graph, memory(domain, rows), random.Random(1), 60)
    assert len(questions) == 60
    assert len({q.shape for q in questions}) > 30


def test_dates_at_both_ends_of_the_calendar():
    attribute = Attribute("until", "end", "date", ("0001-01-01", "9999-12-31"), 0, {})
    drawn = {Picker(None, random.Random(seed))._month(attribute)[0] for seed in range(20)}
    assert drawn == {"'0001-01-01' AND '0001-01-31'", "'9999-12-01' AND '9999-12-31'"}
    drawn = {Picker(None, random.Random(seed))._year(attribute)[0] for seed in range(20)}
    assert drawn == {"'0001-01-01' AND '0001-12-31'", "'9999-01-01' AND '9999-12-31'"}


def test_an_empty_text_is_no_value_to_ask_for():
    texts = [None, "", " ", *(f"Room {i}" for i in range(20))]
    schema = Schema("hotel", (Table("rooms", "rooms", (Column("notes", "notes", "text"),)),))
    (notes,) = from_schema(schema, {("rooms", "notes"): texts}).entities["rooms"].columns
    assert (len(notes.values), notes.nulls) == (20, 1)


def test_parts_of_dates_are_the_same_in_both_dialects():
    """Each draw is made twice, with one seed; both queries give the same rows, one on SQLite, one on PostgreSQL."""
    domain = next(d for d in DOMAINS if d.db_id == "bike_rental")
    rows = make_rows(domain, 42)
    on_sqlite, graph = memory(domain, rows), from_domain(domain, rows)
    with server() as running, psycopg.connect(running.dsn(), autocommit=True) as connection:
        for table in domain.tables:
            columns = ", ".join(f"{c.name} {c.type.replace('REAL', 'float8')}" for c in table.columns)
            connection.execute(f"CREATE TABLE {table.name} ({columns})")
            with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN") as copy:
                for row in rows[table.name]:
                    copy.write_row(row)
        compared = Counter()
        for name in ("group_date", "group_date_ordered", "filter_any_month", "date_span", "percentage", "average_days"):
            for seed in range(12):
                queries = []
                for dialect in ("sqlite", "postgres"):
                    picker = Picker(dataclasses.replace(graph, dialect=dialect), random.Random(seed))
                    with suppress(Unsuitable):
                        queries.append(str((SHAPES | RATIOS)[name].make(picker)[0]))
                if queries:
                    ours, theirs = on_sqlite(queries[0]), connection.execute(queries[1]).fetchall()
                    assert sorted(map(plain, theirs)) == sorted(map(plain, ours)), queries
                    compared[name] += len(ours) > 0
        assert min(compared.values()) > 0, compared


def plain(row):
    return [str(value) if isinstance(value, str | date) else float(value) for value in row]
