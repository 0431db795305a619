"""One's own data: pairs tried in the sandbox, what is hidden stays hidden, questions made up, all of it trained on."""

import json
import sqlite3

import psycopg
import pytest
import yaml

from stages import split
from text2sql.ask import Engine, schema
from text2sql.config import compose, section
from text2sql.data import custom
from text2sql.data.custom import Custom
from text2sql.errors import UserError
from text2sql.files import read_jsonl
from text2sql.postgres.server import server
from text2sql.schema import read_index

CLINIC = """
create table vets (id integer primary key, name text not null, city text, email text unique);
create table pets (id integer primary key, name text, species text, born date, weight numeric(5, 1),
                   vet_id integer references vets (id));
create table visits (id integer primary key, pet_id integer references pets (id), day date, price numeric(8, 2));
create table "Audit" (id integer primary key, note text);
"""
SPECIES = ("cat", "dog", "rabbit")
CITIES = ("Lyon", "Ghent", "Turin")


def rows():
    yield from (
        (f"insert into vets values ({i}, 'Vet {i}', '{CITIES[i % 3]}', 'v{i}@clinic.example')") for i in range(1, 9)
    )
    for i in range(1, 61):
        born = f"20{10 + i % 13}-0{1 + i % 9}-11"
        yield f"insert into pets values ({i}, 'Pet {i}', '{SPECIES[i % 3]}', '{born}', {i * 0.7:.1f}, {1 + i % 8})"
    for i in range(1, 151):
        yield f"insert into visits values ({i}, {1 + i % 60}, '2024-0{1 + i % 9}-02', {10 + i * 1.25})"
    yield "insert into \"Audit\" values (1, 'geheim')"


FILLED = f"begin; {CLINIC}{';'.join(rows())}; commit;"
GOOD = [
    {"question": f"How many pets are {kind}s{more}?", "sql": f"select count(*) from pets where species = '{kind}'{sql}"}
    for kind in SPECIES
    for more, sql in [("", ""), (" over 20 kg", " and weight > 20"), (" under 9 kg", " and weight < 9")]
]
GOOD += [
    {"question": f"Which pets weigh more than {n} kg?", "sql": f"SELECT name FROM pets WHERE weight > {n};"}
    for n in range(10, 16)
]
BAD = {
    '{"question": "What?"}': "no sql",
    '{"question": " ", "sql": "select 1"}': "no question",
    "not json": "not JSON: Expecting value",
    "[1]": "no question",
    '{"question": "Unknown column?", "sql": "select nme from pets"}': 'unknown_column: column "nme" does not exist',
    '{"question": "Unknown table?", "sql": "select 1 from cats"}': 'unknown_table: relation "cats" does not exist',
    '{"question": "Writes?", "sql": "delete from pets"}': "syntax",
    '{"question": "Two?", "sql": "select 1; select 2"}': "syntax",
    '{"question": "How many pets are cats?", "sql": "select 5"}': "the same question has another query further up",
}


@pytest.fixture
def sqlite_file(tmp_path):
    path = tmp_path / "clinic.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(FILLED)
    connection.close()
    return path


@pytest.fixture(scope="module")
def dsn():
    with server() as running:
        running.create_database("clinic")
        with psycopg.connect(running.dsn("clinic"), autocommit=True) as connection:
            connection.execute(FILLED)
        yield running.dsn("clinic")


def options(**changes):
    params = yaml.safe_load(compose(["data=custom"]))
    params["data"]["source"] |= {"dsn_variable": "TEST_DSN", **changes}
    return section(Custom, "data.source", params)


def pairs_file(tmp_path, lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def made(tmp_path):
    return list(read_jsonl(tmp_path / "source/postgres/examples.jsonl"))


def test_bad_pairs_are_listed_with_line_and_reason(tmp_path, sqlite_file, capsys):
    pairs = pairs_file(tmp_path, [*map(json.dumps, GOOD), "", *BAD])
    found = options(database=str(sqlite_file), pairs=pairs).make(1, tmp_path / "source")
    assert found["rejected"] == len(BAD)
    assert found["tables"] == 4
    examples = made(tmp_path)
    assert [e["status"] for e in examples[: len(GOOD)]] == ["verified"] * len(GOOD)
    assert not examples[-1]["postgres"]
    shown = capsys.readouterr().out
    for number, reason in enumerate(BAD.values(), start=len(GOOD) + 2):
        assert f"line {number}: {reason}" in shown


def test_csv_pairs(tmp_path, sqlite_file):
    path = tmp_path / "pairs.csv"
    lines = [f'"{p["question"]}","{p["sql"]}"' for p in GOOD]
    path.write_text("question,sql\n" + "\n".join(lines) + '\n"Two\nlines?","select\n1"\n')
    options(database=str(sqlite_file), pairs=str(path)).make(1, tmp_path / "source")
    assert [e["status"] for e in made(tmp_path)] == ["verified"] * (len(GOOD) + 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs.txt", "x", "neither .jsonl nor .csv"),
        ("pairs.csv", "frage,sql\na,b\n", "has no column question"),
        ("pairs.jsonl", "", "0 usable questions of 0"),
        ("pairs.jsonl", '{"question": "a", "sql": "select 1"}', "1 usable questions of 1"),
        ("pairs.jsonl", b"\xff\xfe", "not UTF-8"),
        ("none.jsonl", None, "is missing"),
    ],
)
def test_unusable_pairs(tmp_path, sqlite_file, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        options(database=str(sqlite_file), pairs=str(path)).make(1, tmp_path / "source")


def test_what_is_hidden_leaves_neither_name_nor_value(tmp_path, dsn, monkeypatch):
    monkeypatch.setenv("TEST_DSN", f"{dsn} password=hush")
    pairs = pairs_file(tmp_path, [*map(json.dumps, GOOD), '{"question": "Mail?", "sql": "select email from vets"}'])
    chosen = options(database=None, pairs=pairs, hidden=["vets.email", "Audit"], rows=50)
    found = chosen.make(1, tmp_path / "source")
    text = "".join(path.read_text() for path in (tmp_path / "source").rglob("*") if path.is_file())
    for secret in ("Audit", "geheim", "@clinic.example", "hush"):
        assert secret not in text
    assert made(tmp_path)[-1]["reason"].startswith(f"line {len(GOOD) + 1}: unknown_column")
    assert found["rows"] == 8 + 50 + 50
    with pytest.raises(UserError, match=r"vets\.mail is to be hidden"):
        options(database=None, pairs=pairs, hidden=["vets.mail"]).make(1, tmp_path / "source")


def test_sqlite_columns_are_hidden_too(tmp_path, sqlite_file):
    pairs = pairs_file(tmp_path, map(json.dumps, GOOD))
    options(database=str(sqlite_file), pairs=pairs, hidden=["vets.email", "audit"]).make(1, tmp_path / "source")
    text = "".join(path.read_text() for path in (tmp_path / "source").rglob("*") if path.is_file())
    assert "email" not in text
    assert "@clinic" not in text
    assert "Vet 3" in text


def test_samples_only_if_asked_for(tmp_path, sqlite_file):
    options(database=str(sqlite_file), pairs=pairs_file(tmp_path, map(json.dumps, GOOD))).make(1, tmp_path / "source")
    for asked in (0, 2):
        (tmp_path / f"dumps{asked}").mkdir()
        found = custom.databases(tmp_path / "source", tmp_path / f"dumps{asked}", asked)["clinic"]
        species = next(c for c in found.table("pets").columns if c.name == "species")
        assert len(species.samples) == asked
        assert (tmp_path / f"dumps{asked}/clinic.sql").exists()


def test_questions_are_made_up_where_there_are_none(tmp_path, dsn, monkeypatch):
    monkeypatch.setenv("TEST_DSN", dsn)
    options(database=None, pairs=None, questions=80, hidden=["Audit"]).make(1, tmp_path / "source")
    examples = made(tmp_path)
    assert len(examples) >= 60
    assert {e["status"] for e in examples} == {"verified"}
    assert len({e["hardness"] for e in examples}) == 4
    again = tmp_path / "again"
    options(database=None, pairs=None, questions=80, hidden=["Audit"]).make(1, again)
    assert (again / "postgres/examples.jsonl").read_bytes() == (
        tmp_path / "source/postgres/examples.jsonl"
    ).read_bytes()


def test_a_schema_file_gets_rows_of_its_own(tmp_path):
    path = tmp_path / "clinic.sql"
    path.write_text(CLINIC + "create table a (id int primary key, b_id int); create table b (id int, at timestamptz);")
    found = options(database=str(path), pairs=None, questions=60).make(1, tmp_path / "source")
    assert found["made_up"]
    assert {e["status"] for e in made(tmp_path)} == {"unverifiable"}
    index = read_index(tmp_path / "source/postgres/schema_index.json")["clinic"]
    assert all(table.rows for table in index.tables)


def test_no_database(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_DSN", raising=False)
    with pytest.raises(UserError, match="TEST_DSN"):
        options(database=None, pairs=None).make(1, tmp_path)
    with pytest.raises(UserError, match="No such file"):
        options(database="none.sql", pairs=None).make(1, tmp_path)


def test_split_keeps_wordings_of_one_query_together():
    params = yaml.safe_load(compose(["data=custom"]))
    chosen, seed = split.read_options(params)
    rows = [
        {"id": f"custom-{i}", "db_id": "d", "question": f"q{i}", "postgres": f"select {i // 3}", "status": "verified",
         "hardness": "easy"} for i in range(90)
    ]  # fmt: skip
    parts = split.split_by_question(rows, chosen, seed)
    assert {name: len(part) for name, part in parts.items()} == {"train": 63, "val": 9, "test": 18}
    queries = [{row["postgres"] for row in part} for part in parts.values()]
    assert sum(map(len, queries)) == 30


@pytest.mark.timeout(600)
def test_from_zero_to_a_scored_adapter(tmp_path, sqlite_file, monkeypatch):
    """Every stage in turn, on the tiny model: nobody has seen this schema before."""
    import importlib

    own = {"database": sqlite_file, "pairs": "null", "questions": 60, "hidden": "[audit]"}
    changes = ["data=custom", "model=tiny", "tracking=none", "predict.max_new_tokens=16"]
    changes += [f"data.source.{key}={value}" for key, value in own.items()]
    text = compose(changes)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("DVC_ROOT", str(work))
    (work / "params.yaml").write_text(text)
    stages = ["source", "databases", "convert", "split", "base_model", "prompts", "preflight", "train", "predict"]
    for name in [*stages, "score", "release"]:
        print(name, importlib.import_module(f"stages.{name}").main())
    score = json.loads((work / "metrics/score.json").read_text())
    assert score["n"] == len(list(read_jsonl(work / "data/splits/test.jsonl"))) >= 8
    card = (work / "models/release/README.md").read_text()
    assert "the scores say nothing of other schemas" in card
    answer = Engine.load("models/release").ask("How many pets are there?", schema(sqlite_file))
    assert answer.sql
