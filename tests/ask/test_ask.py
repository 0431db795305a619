"""`text2sql ask` and its Python API: answers, choices between candidates, and what is said of bad input."""

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from typer.testing import CliRunner

from tests.model.held import accepts
from tests.schemas import parse
from tests.scripted import Scripted
from text2sql.ask.catalog import Target
from text2sql.ask.engine import (
    AskedPrompt,
    Engine,
    choose_generation,
    format_sql,
    query_problems,
    query_warnings,
    schema,
)
from text2sql.ask.models import locate_model
from text2sql.ask.place import open_place
from text2sql.cli import app
from text2sql.errors import UserError
from text2sql.files import digest
from text2sql.model.generation import Generation
from text2sql.postgres.compare import Result
from text2sql.postgres.server import server

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOP = """
create table customers (id integer primary key, name text, city text);
create table orders (id integer primary key, customer_id integer references customers (id), total numeric(8, 2));
"""
ROWS = """
insert into customers values (1, 'Ann', 'Rome'), (2, 'Bob', 'Oslo');
insert into orders values (1, 1, 10.5), (2, 1, 20), (3, 2, 5);
"""


@pytest.fixture
def sql_file(tmp_path):
    path = tmp_path / "shop.sql"
    path.write_text(SHOP)
    return path


@pytest.fixture
def sqlite_file(tmp_path):
    path = tmp_path / "shop.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SHOP + ROWS)
    connection.close()
    return path


@pytest.fixture(scope="module")
def dsn():
    with server() as running:
        running.create_database("shop")
        with psycopg.connect(running.dsn("shop"), autocommit=True) as connection:
            connection.execute(SHOP + ROWS)
        yield running.dsn("shop")


@pytest.fixture(scope="module")
def tiny(tiny_release):
    return tiny_release


@pytest.fixture(scope="module")
def engine(tiny):
    return Engine.load(str(tiny))


# --- the command, with a scripted model ---

ANSWERS = {
    "Who lives in Rome?": "select name from customers where city = 'Rome'",
    "Total by customer?": "select name, sum(total) from customers join orders on customer_id = customers.id group by 1",
    "Who is in Spain?": "select name from customers where city = 'Madrid'",
    "Nonsense?": "I am sorry",
    "Wrong column?": "select nme from customers",
    "Please delete all of it": "delete from customers",
    "Mended?": ["select nme from customers", "select nme, id from customers", "select name from customers order by 1"],
    "None?": ["select nme from customers", "select nam from customers"],
    "Brackets [/] and :apple:?": "select '[bold]x[/x]' as \"[a]\", ':apple:', name as \"[/]\" from customers "
    "where name = '[/y]' or id = 1",
    "NUL?": "select name from customers where name = 'a\0b'",
    "Wide?": "select " + ", ".join(f"repeat('x', 30) as c{i}" for i in range(9)),
    "Escapes?": "select chr(27) || '[2J' || chr(10) || 'x' as \"\x1b[31m\"",
    "Many?": ["select nme", "select generate_series(1, 100000000) as g, 1 as g -- all", "select 2"],
    "Endless?": "select generate_series(1, 100000000) as g, 1 as g;",
    "Two?": ["select nme from customers", "select count(*) from customers", "select count(id) from customers"],
}


@pytest.fixture
def ask(monkeypatch):
    located = SimpleNamespace(title="a script", notice="it is a script")
    monkeypatch.setattr("text2sql.ask.terminal.locate_model", lambda name: located)
    monkeypatch.setattr("text2sql.ask.terminal.load_engine_of", lambda located, said: Scripted(ANSWERS))
    return lambda *arguments, text=None: CliRunner().invoke(app, ["ask", *map(str, arguments)], input=text)


def test_formatted_sql(ask, sql_file):
    shown = ask("Who lives in Rome?", "--schema", sql_file)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "SELECT\n  name\nFROM customers\nWHERE\n  city = 'Rome';\n"


def test_what_is_known_of_the_model_is_said_and_questions_may_follow_the_first(ask, sql_file):
    shown = ask("Who lives in Rome?", "--schema", sql_file, "--more", "--json", text="Wrong column?\n")
    assert shown.stderr.count("notice: it is a script") == 1
    assert [json.loads(line)["question"] for line in shown.stdout.splitlines()] == [
        "Who lives in Rome?", "Wrong column?",
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["sqlite", "dsn"])
def test_rows_as_a_table(ask, place, sqlite_file, dsn):
    where = {"sqlite": sqlite_file, "dsn": dsn}[place]
    shown = ask("Total by customer?", f"--{place}", where, "--run").stdout
    assert "Ann" in shown
    assert "30.5" in shown
    assert "2 rows" in shown


@pytest.mark.parametrize("place", ["sqlite", "dsn"])
def test_of_a_long_result_the_first_rows_are_kept(ask, place, sqlite_file, dsn):
    where = f"--{place}", {"sqlite": sqlite_file, "dsn": dsn}[place]
    value = json.loads(ask("Endless?", *where, "--run", "--json").stdout)
    assert value["rows"] == [[i, 1] for i in range(1, 1001)]
    assert (value["error"], value["message"]) == ("too_many_rows", "only the first 1,000 rows are shown")
    shown = ask("Endless?", *where, "--run")
    assert "more than 1,000 rows, the first 50 shown" in " ".join(shown.stdout.split())
    assert "too_many_rows" not in shown.stderr


def test_a_candidate_with_a_long_result_runs(ask, sqlite_file):
    value = json.loads(ask("Many?", "--sqlite", sqlite_file, "--run", "--json", "--candidates", "3").stdout)
    assert "GENERATE_SERIES" in value["sql"]
    assert len(value["rows"]) == 1000
    assert not [warning for warning in value["warnings"] if "runs" in warning]


def test_a_piped_table_is_as_wide_as_its_rows(ask, sqlite_file):
    lines = ask("Wide?", "--sqlite", sqlite_file, "--run").stdout.splitlines()
    assert [line.count("x" * 30) for line in lines if "xxx" in line] == [9]


@pytest.mark.parametrize("place", ["sqlite", "dsn"])
def test_bad_questions_and_literals_do_not_end_the_conversation(ask, place, sqlite_file, dsn):
    where = f"--{place}", {"sqlite": sqlite_file, "dsn": dsn}[place]
    lines = ["NUL?", "how " * 30_000, "what \x00 is", "a \x1b[2J", "Who lives in Rome?"]
    shown = ask(*where, "--run", "--json", text="\n".join(lines))
    values = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [value["question"] for value in values] == ["NUL?", "Who lives in Rome?"], shown.output
    assert values[0]["error"]
    assert values[1]["rows"] == [["Ann"]]
    assert shown.stderr.count("no text") == 2
    assert "119,999 characters" in shown.stderr


def test_what_looks_like_markup_is_shown_as_it_is(ask, sqlite_file, tmp_path):
    bracketed = sqlite_file.rename(tmp_path / "[bold]:apple:[.sqlite")
    shown = ask("Brackets [/] and :apple:?", "--sqlite", bracketed, "--run")
    assert shown.exit_code == 0, shown.output
    assert all(text in shown.stdout for text in ("[bold]x[/x]", "[a]", "[/] ", ":apple:", "Ann")), shown.stdout
    assert "'[/y]' is neither in the question nor a known value of name" in shown.stderr


def test_what_controls_a_terminal_is_shown_escaped(ask, sqlite_file):
    shown = ask("Escapes?", "--sqlite", sqlite_file, "--run").stdout
    assert "\\x1b[2J" in shown
    assert "\\x1b[31m" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize("place", ["sqlite", "dsn"])
def test_json(ask, place, sqlite_file, dsn):
    where = {"sqlite": sqlite_file, "dsn": dsn}[place]
    value = json.loads(ask("Total by customer?", f"--{place}", where, "--run", "--json").stdout)
    assert value["columns"] == ["name", "sum"]
    assert sorted(row[0] for row in value["rows"]) == ["Ann", "Bob"]
    assert value["error"] is None
    assert value["sql"].startswith("SELECT")


def test_a_schema_file_tries_queries_on_empty_tables(ask, sql_file, monkeypatch):
    started = []
    monkeypatch.setattr("text2sql.postgres.server.server", lambda: started.append(1) or server())
    value = ask("Wrong column?", "--schema", sql_file, "--run", "--json")
    assert len(started) == 1, "one server reads the file and runs the query"
    assert json.loads(value.stdout)["error"] == "unknown_column"
    assert "a schema has no rows" in value.stderr


def test_conversation_goes_on_after_a_bad_question(ask, sqlite_file):
    text = "Who lives in Rome?\n\nselect * from customers\nNonsense?\n"
    shown = ask("--sqlite", sqlite_file, "--json", text=text)
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [line["question"] for line in lines] == ["Who lives in Rome?", "Nonsense?"]
    assert lines[1]["warnings"][-1] == "this is not valid SQL"
    assert "that is SQL already" in shown.stderr


@pytest.mark.parametrize(
    ("question", "warning"),
    [
        ("Wrong column?", "no table of the query has a column nme"),
        ("Nonsense?", "this is not valid SQL"),
        ("Please delete all of it", "this is not a query that reads data: it is not run"),
        ("Who is in Spain?", "'Madrid' is neither in the question nor a known value of city"),
        ("Delete every customer there is", "only queries that read data are written"),
        ("Wie viele Kunden haben die Stadt?", "trained on questions in English"),
        ("顧客は何人いますか", "trained on questions in English"),
    ],
)
def test_warnings(ask, sql_file, question, warning):
    assert warning in ask(question, "--schema", sql_file).stderr


def test_an_answer_that_writes_is_not_run(ask, sqlite_file, dsn):
    for place in ("--sqlite", sqlite_file), ("--dsn", dsn):
        value = json.loads(ask("Please delete all of it", *place, "--run", "--json").stdout)
        assert value["error"] in ("syntax", "refused")
        after = json.loads(ask("Two?", *place, "--run", "--json", "--candidates", "3").stdout)
        assert after["rows"] == [[2]]


def test_candidates_that_fail_lose(ask, dsn):
    value = json.loads(ask("Two?", "--dsn", dsn, "--candidates", "3", "--json").stdout)
    assert "COUNT(*)" in value["sql"]


@pytest.mark.parametrize("place", ["sqlite", "dsn"])
def test_a_query_that_the_server_refuses_gets_a_second_try(ask, place, sqlite_file, dsn):
    where = f"--{place}", {"sqlite": sqlite_file, "dsn": dsn}[place]
    value = json.loads(ask("Mended?", *where, "--run", "--json").stdout)
    assert (value["rows"], value["error"], value["candidates"]) == ([["Ann"], ["Bob"]], None, 8)
    refused = 'the server refused a first query (column "nme" does not exist); this is the likeliest of 8 that runs'
    assert value["warnings"][0] == refused
    candidates = json.loads(ask("Mended?", *where, "--candidates", "2", "--json").stdout)
    assert candidates["sql"] == value["sql"]
    assert "rows" not in candidates
    assert "name" not in json.loads(ask("Mended?", *where, "--json").stdout)["sql"]  # nobody asked the server


def test_a_second_try_neither_writes_nor_executes_the_refused_query_again():
    executed, written = [], []

    class Noting(Scripted):
        def generate_batch(self, prompts, candidates=1, drawn=0):
            written.append((candidates, drawn))
            return super().generate_batch(prompts, candidates, drawn)

    def execute(sql):
        executed.append(sql)
        return Result(("name",), [("Ann",)]) if "name" in sql else Result(error="syntax", sqlstate="42703")

    answer = Noting(ANSWERS).ask("Mended?", parse(SHOP), execute=execute, run=True)
    assert answer.result.rows == [("Ann",)]
    assert written == [(1, 0), (8, 1)]
    assert len(executed) == 3 == len(set(executed))
    assert [g.text for g in answer.generations[:3]] == ANSWERS["Mended?"]


@pytest.mark.parametrize(
    ("score", "candidates", "error", "question", "drawn"),
    [
        (-2.0, 1, None, "Who?", 8),  # e^-2 is 0.14
        (-1.0, 1, None, "Who?", 1),
        (-2.0, 2, None, "Who?", 2),  # so many were asked for
        (-2.0, 1, "unavailable", "Who?", 1),
        (-2.0, 1, None, "Which unicorns like violins?", 8),  # a doubt of its words is no reason against one
    ],
)
def test_an_answer_that_the_model_was_not_sure_of_gets_a_second_try(score, candidates, error, question, drawn):
    texts = ["select id from customers", "select name from customers", "select nme from customers"]

    class Unsure(Scripted):
        def written(self, question, candidates):
            scores = [score, -0.5, -0.1, -3, -4, -5, -6, -7]
            written = zip(texts + [texts[0]] * 5, scores, strict=True)
            return [Generation((), text, True, score) for text, score in written][:candidates]

    def execute(sql):
        refused = Result(error="syntax", sqlstate="42703")
        return refused if "nme" in sql else Result(("x",), [(1,)], error=error)

    answer = Unsure({}).ask(question, parse(SHOP), candidates=candidates, execute=execute, run=True)
    assert answer.candidates == drawn
    assert ("name" in answer.sql) == (drawn > 1)
    assert ("the model was not sure; this is the likeliest of 8 that runs" in answer.warnings) == (drawn == 8)


def test_a_second_try_keeps_what_was_said_of_the_question():
    engine = Scripted({"Zeige alle Kunden": ["select nme from customers", "select name from customers"]})
    schema, said = parse(SHOP), "trained on questions in English"

    def execute(sql):
        return Result(error="syntax", sqlstate="42703") if "nme" in sql else Result(("x",), [(1,)])

    first = engine.ask("Zeige alle Kunden", schema)
    second = engine.second_try(first, execute(first.sql), schema, execute)
    assert second.sql != first.sql
    for answer in (first, second, engine.ask("Zeige alle Kunden", schema, execute=execute, run=True)):
        assert sum(said in warning for warning in answer.warnings) == 1


@pytest.mark.parametrize(
    ("rows", "score", "drawn", "chosen"),
    [
        ([], -0.1, 8, "name"),
        ([(0,), (None,)], -0.1, 8, "name"),
        ([(False,)], -0.1, 1, "id"),  # "no" is an answer
        ([], -0.02, 8, "id"),  # the one that finds rows is a hundred times less probable
    ],
)
def test_an_answer_that_finds_nothing_gets_a_second_try(rows, score, drawn, chosen):
    class Scored(Scripted):
        def written(self, question, candidates):
            texts = ["select id from customers", "select name from customers"]
            return [Generation((), text, True, s) for text, s in zip(texts * 4, [score, -4.65] * 4, strict=True)][
                :candidates
            ]

    def execute(sql):
        return Result(("x",), [(True,)] if "EXISTS" in sql else [("Ann",)] if "name" in sql else rows)

    answer = Scored({}).ask("Who?", parse(SHOP), execute=execute, run=True)
    assert (answer.candidates, chosen in answer.sql) == (drawn, True)
    said = "a first query finds nothing; this is the likeliest of 8 that finds rows"
    assert (said in answer.warnings) == (chosen == "name")


def test_a_first_answer_that_stays_the_likeliest_is_no_news():
    class Unsure(Scripted):
        def written(self, question, candidates):
            return [Generation((), "select id from customers", True, -2.0)] * candidates

    answer = Unsure({}).ask("Who?", parse(SHOP), execute=lambda sql: Result(("id",), [(1,)]), run=True)
    assert (answer.candidates, answer.warnings, answer.result.rows) == (8, (), [(1,)])


def test_where_no_candidate_runs_it_is_said(ask, dsn):
    warnings = json.loads(ask("None?", "--dsn", dsn, "--candidates", "2", "--json").stdout)["warnings"]
    assert warnings == [
        "no table of the query has a column nme",
        'none of the 2 candidates runs: column "nme" does not exist',
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Who?"], "which database?"),
        (["Who?", "--schema", "a.sql", "--dsn", "postgresql://x"], "which database?"),
        (["Who?", "--schema", "none.sql"], "No such file"),
        (["Who?", "--dsn", "postgresql://me:geheim@127.0.0.1:9/x"], "cannot be reached"),
        (["Who?", "--sqlite", "none.sqlite"], "there is no file none.sqlite"),
        (["Who?", "--sqlite", "{file}"], "is no SQLite database\n  -> give a file of CREATE TABLEs as --schema"),
        (["Who?", "--sqlite", "postgresql://me:geheim@127.0.0.1/x"], "--sqlite takes a file"),
        (["Who?", "--schema", "postgresql+psycopg2://me:geheim@127.0.0.1/x"], "--schema takes a file"),
        (["Who?", "--dsn", "mysql://me:geheim@127.0.0.1/x"], "not mysql"),
        (["", "--schema", "{file}"], "the question is empty"),
        (["?!", "--schema", "{file}"], "the question is empty"),
        (["x" * 1001, "--schema", "{file}"], "1,001 characters"),
        (["select name from customers", "--schema", "{file}"], "that is SQL already"),
        (["drop table customers", "--schema", "{file}"], "that is SQL already"),
        (["Who?", "--schema", "{file}", "--tables", "customers,clients"], "there is no table clients"),
    ],
)
def test_bad_input(ask, sql_file, arguments, said):
    shown = ask(*(a.replace("{file}", str(sql_file)) for a in arguments))
    assert isinstance(shown.exception, UserError)
    assert said in str(shown.exception)
    assert "geheim" not in str(shown.exception) + shown.output


# --- choosing ---


def candidates(*texts):
    return [Generation((), text, True, -float(i)) for i, text in enumerate(texts)]


def test_choose_by_result():
    results = {"select a": Result(error="syntax"), "select b": Result(("x",), [(1,)]), "select c": Result(("y",), [])}
    chosen = choose_generation(candidates("select a", "select b", "select c"), results.__getitem__)
    assert (chosen[0].text, chosen[1]) == ("select b", results["select b"])
    assert choose_generation(candidates("select a", "select a"), results.__getitem__)[0].text == "select a"


def test_choose_by_text_without_a_database():
    chosen, result = choose_generation(candidates("no SQL", "select 1", "select 2"), None)
    assert (chosen.text, result) == ("select 1", None)


def test_format_and_problems():
    shop = parse(SHOP)
    assert format_sql("select name from customers") == "SELECT\n  name\nFROM customers"
    assert query_warnings("select name from customers", "Who?", shop) == []
    assert query_problems("") == ["the model gave no SQL"]
    assert query_problems("drop table customers") == ["this is not a query that reads data: it is not run"]


# --- the places ---


def test_places_agree(sql_file, sqlite_file, dsn):
    schemas = [schema(place) for place in (sql_file, sqlite_file, dsn)]
    names = {tuple((t.name, tuple(c.name for c in t.columns)) for t in found.tables) for found in schemas}
    assert len(names) == 1


def test_tables_of_a_large_schema(dsn):
    with open_place(dsn) as place:
        (orders,) = place.only(["orders"]).schema.tables
    assert (orders.name, orders.foreign_keys) == ("orders", ())  # as in training: no key to what is not shown


def test_prompts_are_written_one_at_a_time():
    writing = []

    def write(question, schema, longest):
        writing.append(question)
        time.sleep(0.02)
        assert writing == [question]  # the tokenizer would take the other thread's setting
        writing.clear()
        return SimpleNamespace(ids=[1], shown=schema)

    engine = Engine.__new__(Engine)
    engine.located = SimpleNamespace(options=SimpleNamespace(max_length=100, max_new_tokens=10))
    engine.model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=1000))
    engine._tokenizing, engine._prompts = threading.Lock(), SimpleNamespace(write=write)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(engine.prompt, f"Question {i}?", parse(SHOP)) for i in range(8)]
    assert [future.result().question for future in asked] == [f"Question {i}?" for i in range(8)]


# --- the real engine, on the tiny model ---


def test_three_lines(engine, sql_file):
    answer = engine.ask("How many customers are there?", schema(sql_file))
    again = engine.ask("How many customers are there?", schema(sql_file))
    assert answer.sql
    assert answer.sql == again.sql
    assert 0 < answer.seconds < 60


def test_a_schema_is_read_once(engine, monkeypatch):
    from text2sql.model import generation

    read, forward = [], generation.Decoder._forward
    monkeypatch.setattr(generation.Decoder, "_forward", lambda *of: read.append(of[1].tokens) or forward(*of))
    first, second = (engine.prompt(question, parse(SHOP)) for question in ("How many cities?", "Which orders are new?"))
    ((made,),) = engine.generate_batch([first])
    read.clear()
    engine.generate_batch([second])
    assert len(read[0]) < len(second.ids) / 4
    ((again,),) = engine.generate_batch([first])
    assert again.token_ids == made.token_ids


def test_candidates_are_sampled_the_same_each_time(engine):
    prompt = engine.prompt("How many?", parse(SHOP))
    (made,) = engine.generate_batch([prompt], 3)
    assert engine.generate_batch([prompt], 3) == [made]
    assert engine.generate_batch([prompt], 3, drawn=1) == [made[1:]]
    assert len({candidate.text for candidate in made}) > 1


def test_a_constrained_model_names_nothing_unknown(tiny, tmp_path):
    release = copy_of(tiny, tmp_path)
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["params"]["predict"] |= {"constrained": True, "max_new_tokens": 8}
    (release / "manifest.json").write_text(json.dumps(manifest))
    engine = Engine.load(str(release))
    answer = engine.ask("How many customers are there?", parse(SHOP))
    assert answer.sql.upper().startswith(("SELECT", "WITH", "("))

    def admits(condition, question, read):
        tokens = engine.tokenizer(f"SELECT name FROM customers WHERE {condition}", add_special_tokens=False).input_ids
        prompt = AskedPrompt([], question, place.schema, place.schema, Target(read=read))
        return accepts(engine._constraint(prompt), tokens)

    with open_place(str(EXAMPLES / "shop.sqlite")) as place:
        read = place.target.read
    assert read == {"customers", "products", "orders", "order_items"}
    assert admits("city = 'Berlin'", "Who lives in Germany's capital?", read)  # a value
    assert admits("city = 'Hamburg'", "Who lives in Hamburg?", read)  # a word of the question
    assert not admits("city = 'Hamburg'", "Who lives in the north?", read)
    assert admits("city = 'Hamburg'", "Who lives in the north?", frozenset())  # there may be more values


@pytest.mark.parametrize("file", ["shop.sqlite", "shop.sql"])
def test_a_schema_a_place_and_its_parts_are_asked_alike(engine, file):
    with open_place(str(EXAMPLES / file)) as place:
        ways = [(schema(EXAMPLES / file),), (place,), (place.schema, place.target)]
    prompts = [engine.prepare("Which customers live in Berlin?", *way) for way in ways]
    assert len({str((prompt.ids, prompt.held_schema().tables, prompt.target)) for prompt in prompts}) == 1
    samples = [column.samples for table in prompts[0].held_schema().tables for column in table.columns]
    assert any(samples) == (file == "shop.sqlite")


def test_schema_sizes(engine):
    with pytest.raises(UserError, match="the schema has no table"):
        engine.ask("How many?", dataclasses.replace(parse(SHOP), tables=()))
    enormous = parse("".join(f"create table table_{i} (id int, name text, note text);" for i in range(400)))
    prompt = engine.prompt("What is the name in table 317?", enormous)
    assert "table_317" in [table.name for table in prompt.shown.tables]
    assert len(prompt.ids) <= engine.located.options.max_length
    (note,) = prompt.notes
    assert note.startswith("the model was shown")
    assert "table_317" in note
    wide = parse("create table wide (" + ", ".join(f"column_number_{i} integer" for i in range(900)) + ");")
    with pytest.raises(UserError, match="table wide alone takes"):
        engine.ask("How many?", wide)


def test_an_untrained_base_model_answers_too(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent.parent)
    assert Engine.load("models/base").ask("How many?", parse(SHOP)).sql


# --- finding models ---


def test_a_base_model_of_the_configuration_is_asked_untrained(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    obtained = []

    def obtain(options, target):
        obtained.append(options.name)
        shutil.copytree(tiny.parent / "base", target)

    monkeypatch.setattr("text2sql.ask.models.obtain", obtain)
    engine = Engine.load("qwen2.5-coder-0.5b")
    assert engine.located.notice == (
        "qwen2.5-coder-0.5b is untrained; so it answers 60.4 % of Spider's dev questions right"
    )
    assert engine.ask("How many?", parse(SHOP)).sql.upper().startswith(("SELECT", "("))
    assert Engine.load("qwen2.5-coder-0.5b").located.base.parent == tmp_path / "sql-codegen-slm"
    assert obtained == ["qwen2.5-coder-0.5b"]
    with pytest.raises(UserError, match="mistral-7b has no wheels"):
        Engine.load("mistral-7b")


def test_from_any_folder_of_the_repository(tiny, tmp_path, monkeypatch):
    copy_of(tiny, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path / "docs" / "deep")
    assert Engine.load().ask("How many?", parse(SHOP)).sql


def copy_of(tiny, tmp_path):
    shutil.copytree(tiny.parent, tmp_path / "models")
    return tmp_path / "models" / "release"


def test_another_base_model_is_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    release = copy_of(tiny, tmp_path)
    (tmp_path / "cache").touch()  # cannot be written
    Engine.load(str(release))
    (tmp_path / "cache").unlink()
    Engine.load(str(release))
    (note,) = (tmp_path / "cache/sql-codegen-slm/digests").iterdir()
    assert note.read_text() == digest(tmp_path / "models/base")
    config = tmp_path / "models/base/config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="was not trained on the base model"):
        Engine.load(str(release))


def test_a_kept_release_on_another_base_model_obtains_it(tiny, tmp_path, monkeypatch):
    release = copy_of(tiny, tmp_path)
    kept = tmp_path / "models/kept/other"
    kept.parent.mkdir()
    release.rename(kept)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "models/base", whole)
    config = tmp_path / "models/base/config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "text2sql.ask.models.obtain", lambda options, target: shutil.copytree(whole, target, dirs_exist_ok=True)
    )
    monkeypatch.chdir(tmp_path)
    assert locate_model("models/kept/other").base.is_relative_to(tmp_path / "cache")


def test_an_adapter_of_other_shapes_is_told(tiny, tmp_path):
    release = copy_of(tiny, tmp_path)
    config = json.loads((release / "adapter_config.json").read_text())
    (release / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(UserError, match="was not trained on the base model"):
        Engine.load(str(release))


def test_the_base_model_is_obtained_where_there_is_none(tiny, tmp_path, monkeypatch):
    release = copy_of(tiny, tmp_path)
    shutil.rmtree(tmp_path / "models/base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = Engine.load(str(release))
    assert engine.located.base.parent == tmp_path / "cache/sql-codegen-slm"
    assert engine.ask("How many?", parse(SHOP)).sql == Engine.load(str(tiny)).ask("How many?", parse(SHOP)).sql


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "pickled weights are not read"),
        (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
        (lambda f: [p.unlink() for p in f.glob("adapter*")], "neither an adapter nor a model"),
    ],
)
def test_incomplete_folders(tiny, tmp_path, monkeypatch, change, said):
    release = copy_of(tiny, tmp_path)
    monkeypatch.chdir(tmp_path)
    change(release)
    with pytest.raises(UserError, match=said):
        Engine.load(str(release))


def test_an_adapter_from_before_its_form_was_recorded(tiny, tmp_path):
    release = copy_of(tiny, tmp_path)
    manifest = json.loads((release / "manifest.json").read_text())
    del manifest["params"]["prompt"]["qualifiers"]
    (release / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="aliases"):
        Engine.load(str(release))


@pytest.mark.parametrize("name", ["models/nothing", "nothing", "./nothing", "a/b/c"])
def test_no_such_model(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no model {name}"):
        Engine.load(name)


@pytest.mark.parametrize("name", ["adapter/", "my adapters/v1"])
def test_a_name_that_no_hub_can_have(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no folder {name}"):
        Engine.load(name)


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="could not be downloaded"):
        Engine.load("user/name")


def test_a_git_revision(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny.parent.parent, tmp_path / "repo")
    monkeypatch.chdir(tmp_path / "repo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in ("git init -q", "dvc init -q", "dvc add -q models/release models/base", "git add -A"):
        subprocess.run(command.split(), check=True)
    author = ["git", "-c", "user.name=a", "-c", "user.email=a@a.org", "commit", "-qm", "x"]
    subprocess.run(author, check=True)
    subprocess.run(["git", "tag", "v1"], check=True)
    shutil.rmtree("models/release")
    engine = Engine.load("v1")
    assert engine.located.adapter.parent == tmp_path / "cache/sql-codegen-slm"
    assert Engine.load("v1").located == engine.located
    with pytest.raises(UserError, match="there is no model v2"):
        Engine.load("v2")


def test_an_mlflow_alias_moves(tiny, tmp_path, monkeypatch):
    release = copy_of(tiny, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tiny.parent.parent)
    fetched = []

    def fetch(name, target):
        fetched.append(name)
        shutil.copytree(release, target)
        return f"{len(fetched)}" * 64

    monkeypatch.setattr("text2sql.registry.fetch", fetch)
    first, second = (Engine.load("models:/shop@best").located.adapter for _ in range(2))
    assert fetched == ["shop@best", "shop@best"]
    assert first != second, "the alias names another version now"


def test_a_hub_name_brings_safetensors_only(tiny, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.chdir(tmp_path)
    download = "huggingface_hub.snapshot_download"
    monkeypatch.setattr(download, lambda name, **k: asked.update(k, name=name) or str(tiny))
    assert Engine.load("user/name").located.adapter == tiny
    assert asked["name"] == "user/name"
    assert not any("bin" in pattern or "*.py" in pattern or pattern == "*" for pattern in asked["allow_patterns"])
