"""One's own data: pairs tried in the sandbox, what is hidden stays hidden, questions made up, all of it trained on."""

import functools
import importlib
import json
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from stages import split
from text2sql.ask.catalog import hide
from text2sql.ask.loading import load_script, scratch_database
from text2sql.config import compose, section
from text2sql.data import custom
from text2sql.data.custom import Custom
from text2sql.data.made.made_rows import ROWS, fill_tables, read_tables
from text2sql.data.pairs import Pair
from text2sql.errors import UserError
from text2sql.files import read_jsonl
from text2sql.model.constraint import Constraints
from text2sql.model.prompt import completion
from text2sql.postgres.compare import Result
from text2sql.postgres.server import server
from text2sql.schema import Column, Schema, Table, read_index

ROOT = Path(__file__).parents[2]
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


@functools.cache
def composition():
    return compose(["data=custom"])


def options(**changes):
    params = yaml.safe_load(composition())
    params["data"]["source"] |= {"dsn_variable": "TEST_DSN", "questions": 0, "embedded": 0, **changes}
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
        ("pairs.csv", 'question,sql\na,"select 1\n' + "b,select 2\n" * 20, "is no CSV file"),
        ("pairs.jsonl", "", "0 of 0 pairs can be used: at least 10"),
        ("pairs.jsonl", '{"question": "a", "sql": "select 1"}', "1 of 1 pairs can be used"),
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
    options(database=str(sqlite_file), pairs=pairs, hidden=["Vets.Email", "audit"]).make(1, tmp_path / "source")
    text = "".join(path.read_text() for path in (tmp_path / "source").rglob("*") if path.is_file())
    assert "email" not in text
    assert "@clinic" not in text
    assert "Vet 3" in text


def test_notes_do_not_speak_of_what_is_hidden(tmp_path, sqlite_file):
    with closing(sqlite3.connect(sqlite_file)) as connection:
        connection.executescript(
            "create table staff (id integer primary key, Salary integer, code unique);"
            "insert into staff values (1, 'secret', 5), (2, 70, '5')"
        )
    pairs = pairs_file(tmp_path, map(json.dumps, GOOD))
    hidden = ["staff.salary", "staff.code"]
    found = options(database=str(sqlite_file), pairs=pairs, hidden=hidden).make(1, tmp_path / "source")
    text = "".join(path.read_text() for path in (tmp_path / "source").rglob("*") if path.is_file())
    assert "Salary" not in text + str(found["notes"])
    assert "code" not in text + str(found["notes"])


def test_a_view_does_not_show_what_is_hidden():
    email = Column("email", "email", "text")
    tables = (
        Table("customers", "customers", (Column("id", "id", "integer"), email)),
        Table("contacts", "contacts", (Column("id", "id", "integer"), email), kind="view"),
        Table("suppliers", "suppliers", (email,)),
    )
    shown = hide(Schema("shop", tables), ["customers.email"])
    columns = {table.name: [column.name for column in table.columns] for table in shown.tables}
    assert columns == {"customers": ["id"], "contacts": ["id"], "suppliers": ["email"]}


def test_a_pair_on_the_second_table_of_one_name_is_on_that_one():
    schema = Schema(
        "hr", tuple(Table(name, "users", (Column("id", "id", "integer"),)) for name in ("users", "audit_users"))
    )

    def execute(sql):
        return Result(error="unknown_table") if ".users" in sql else Result(("n",), [(1,)])

    pairs = [Pair(1, "How many?", "SELECT count(*) FROM audit.users"), Pair(2, "All?", "SELECT id FROM x.users")]
    relations = {"audit_users": ("audit", "users")}
    audit, other = custom.tried(pairs, schema, execute, "", relations)
    assert "audit_users" in audit["postgres"]
    assert (other["status"], other["reason"]) == ("rejected", "line 2: unknown_table: ")


def test_the_rows_of_a_schema_file_prove_its_pairs(tmp_path):
    (tmp_path / "clinic.sql").write_text(FILLED)
    pairs = pairs_file(tmp_path, map(json.dumps, GOOD))
    found = options(database=str(tmp_path / "clinic.sql"), pairs=pairs).make(1, tmp_path / "source")
    assert {example["status"] for example in made(tmp_path)} == {"verified"}, found


def test_comments_do_not_speak_of_what_is_hidden():
    columns = [Column("id", "id", "integer", comment="joins with salaries.staff_id"), Column("iban", "iban", "text")]
    tables = (
        Table(
            "staff",
            "staff",
            (*columns, Column("town", "town", "text", comment="of the office")),
            comment="see Salaries",
        ),
        Table("salaries", "salaries", (Column("staff_id", "staff_id", "integer"),)),
    )
    (staff,) = hide(Schema("shop", tables), ["salaries", "staff.iban"]).tables
    assert (staff.comment, [column.comment for column in staff.columns]) == ("", ["", "of the office"])


def test_samples_only_if_asked_for(tmp_path, sqlite_file):
    options(database=str(sqlite_file), pairs=pairs_file(tmp_path, map(json.dumps, GOOD))).make(1, tmp_path / "source")
    for asked in (0, 2):
        (tmp_path / f"dumps{asked}").mkdir()
        found = custom.own_databases(tmp_path / "source", tmp_path / f"dumps{asked}", asked)["clinic"]
        species = next(c for c in found.table("pets").columns if c.name == "species")
        assert len(species.samples) == asked
        assert (tmp_path / f"dumps{asked}/clinic.sql").exists()


def test_values_of_all_rows(tmp_path):
    """A value that begins to occur after thousands of rows is known, and one that differs in its capital letters."""
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table cars (id integer primary key, make text)")
        makes = ["Volvo", "SAAB"] * 1500 + ["volvo", "x" * 501, None, "Ford"]
        connection.executemany("insert into cars (make) values (?)", [(make,) for make in makes])
    options(database=str(path), pairs=None, questions=60).make(1, tmp_path / "source")
    (_, make) = read_index(tmp_path / "source/postgres/schema_index.json")["shop"].table("cars").columns
    assert make.samples == ("Volvo", "SAAB", "volvo", "Ford")


@pytest.mark.parametrize("stem", ["postgres", "template1", "100% Ä.b", "Ä" * 60])
def test_a_database_of_any_name(tmp_path, sqlite_file, stem):
    """It is called here as a server can, and the notes say it where that is another name."""
    path = sqlite_file.rename(tmp_path / f"{stem}.sqlite")
    found = options(database=str(path), pairs=pairs_file(tmp_path, map(json.dumps, GOOD))).make(1, tmp_path / "source")
    name = {"postgres": "postgres_2", "template1": "template1_2", "Ä" * 60: "Ä" * 31}.get(stem, stem)
    assert {e["db_id"] for e in made(tmp_path)} == {name}
    assert (tmp_path / f"source/postgres/{name}.sql").exists()
    assert (f"database {stem}: named {name} here" in found["notes"]) == (name != stem)


def test_a_name_on_a_server_leaves_no_folder(tmp_path, dsn, monkeypatch):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute('create database "../up" template clinic')
    monkeypatch.setenv("TEST_DSN", make_conninfo(dsn, dbname="../up"))
    pairs = pairs_file(tmp_path, map(json.dumps, GOOD))
    options(database=None, pairs=pairs).make(1, tmp_path / "source")
    assert sorted(path.name for path in tmp_path.rglob("*.sql")) == [".._up.sql"]


def test_pairs_that_find_no_rows_are_unverifiable(tmp_path, capsys):
    """Each with the reason; report and message count them."""
    path = tmp_path / "half.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{CLINIC} insert into vets values (1, 'Ada', 'Lyon', 'a@b.example')")
    queries = ["select name from vets", "select count(*) from Pets", "select name from vets where id = 2"]
    queries += ["with p as (select 1 from pets) select count(*) from p, vets", "select 1"]
    lines = [json.dumps({"question": f"{n} {q}?", "sql": q}) for n in range(2) for q in queries]
    found = options(database=str(path), pairs=pairs_file(tmp_path, lines)).make(1, tmp_path / "source")
    reasons = ["", "no rows in pets", "no rows in the result", "no rows in pets", ""]
    assert [e["reason"] for e in made(tmp_path)] == reasons * 2
    assert [e["status"] for e in made(tmp_path)[:5]] == ["unverifiable" if r else "verified" for r in reasons]
    assert found["unverifiable"] == {"no rows in pets": 4, "no rows in the result": 2}
    assert "notice: 4 examples are unverifiable: no rows in pets" in capsys.readouterr().out
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("delete from vets")
    found = options(database=str(path), pairs=pairs_file(tmp_path, lines)).make(1, tmp_path / "source")
    assert {e["status"] for e in made(tmp_path)} == {"unverifiable"}
    assert made(tmp_path)[4]["reason"] == "no rows in the database"


PERCENT = """
create table "100% wool" (id integer primary key, "growth %" numeric, "%s" text unique, "a%(b)s" text not null);
create table "b%" (id integer primary key, "w %" integer references "100% wool" (id),
                   v text check (v in ('10%', '20%%', '%s')));
"""


def test_percent_signs_in_names_and_values(tmp_path):
    """They are no parameters."""
    (tmp_path / "x%s.sql").write_text(PERCENT)
    queries = [
        'select "growth %" from "100% wool" where "%s" like \'%s%\'',
        "select count(*) from \"b%\" where v = '10%'",
    ]
    lines = [json.dumps({"question": f"{n} {q}?", "sql": q}) for n in range(5) for q in queries]
    settings = {"database": str(tmp_path / "x%s.sql"), "pairs": pairs_file(tmp_path, lines), "questions": 20}
    found = options(**settings).make(1, tmp_path / "source")
    assert (found["rejected"], found["notes"], found["examples"]["custom"]) == (0, [], 10)
    assert (found["rows"], found["unverifiable"]) == (
        2 * ROWS,
        {"the rows are made up": sum(found["examples"].values())},
    )


def test_questions_are_made_up_where_there_are_none(tmp_path, dsn, monkeypatch):
    monkeypatch.setenv("TEST_DSN", dsn)
    options(database=None, pairs=None, questions=80, hidden=["Audit"]).make(1, tmp_path / "source")
    examples = made(tmp_path)
    assert len(examples) >= 60
    assert {e["status"] for e in examples} == {"verified"}
    assert len({e["hardness"] for e in examples}) == 4
    clinic, constraints = read_index(tmp_path / "source/postgres/schema_index.json")["clinic"], Constraints()
    answers = [completion(e["postgres"], clinic) for e in examples]
    assert sum(not constraints.of(clinic).accepts(answer) for answer in answers) <= 0.03 * len(answers)
    again = tmp_path / "again"
    options(database=None, pairs=None, questions=80, hidden=["Audit"]).make(1, again)
    assert (again / "postgres/examples.jsonl").read_bytes() == (
        tmp_path / "source/postgres/examples.jsonl"
    ).read_bytes()


#: what real schemas have, and made-up rows must obey
DEMANDING = """
create schema app;
create type app.mood as enum ('happy', 'sad');
create type address as (street text, zip integer);
create domain email as text check (value ~ '^[^@]+@[^@]+[.][a-z]+$');
create domain share as numeric(5, 2) not null check (value >= 0 and value <= 1);
create table app.users (id uuid primary key default gen_random_uuid(), mail email not null unique, mood app.mood,
    moods app.mood[], home address, ip inet, part share, boss uuid references app.users (id), code char(2) unique,
    created_at timestamptz default now());
create table profile (user_id uuid primary key references app.users (id), bio text, span tstzrange, pause interval,
    raw bytea, settings jsonb not null, flags bit(8), price money check (price > 0::money), words tsvector, at point);
create table a (id int primary key, b_id int not null);
create table b (id int primary key, a_id int not null references a);
alter table a add foreign key (b_id) references b;
create table tag (id smallint generated always as identity primary key, name varchar(12) not null unique,
    slug text generated always as (lower(name)) stored);
create table user_tag (user_id uuid references app.users, tag_id smallint references tag, weight real,
    primary key (user_id, tag_id));
create table booking (id bigserial primary key, room int, during tstzrange,
    status text check (status in ('open', 'paid')), starts date, ends date, labels text[],
    check (ends > starts), exclude using gist (during with &&));
create table impossible (id int primary key, x int not null check (x > 5 and x < 3));
create table tenant (id int primary key, name text);
create table account (tenant_id int references tenant, id int, primary key (tenant_id, id));
create table invoice (id int primary key, tenant_id int references tenant, account_id int,
    foreign key (tenant_id, account_id) references account (tenant_id, id));
create table measured (id int, day date) partition by range (day);
create table places (id int primary key, shape geography);
create table flags (flag boolean primary key);
"""


def test_made_up_rows_obey_any_schema(tmp_path):
    path = tmp_path / "demanding.sql"
    path.write_text(DEMANDING)
    with server() as running, scratch_database(running) as connection:
        load_script(connection, DEMANDING)
        checks = "select conrelid::regclass::text, conname from pg_constraint where contype = 'c' order by 2"
        before = connection.execute(checks).fetchall()
        _, notes = fill_tables(connection, random.Random(1))
        assert notes == ["made-up rows do not obey CHECK impossible_x_check of impossible"]
        assert len(before) - len(connection.execute(checks).fetchall()) == 1
        counts = {t.said: connection.execute(f"select count(*) from {t.name.as_string()}").fetchone()[0]
                  for t in read_tables(connection)}  # fmt: skip
        assert {name: n for name, n in counts.items() if n != ROWS and not name.startswith("measured")} == {"flags": 2}
        joined = """select count(*) from {} child left join {} parent on {} where parent.{} is null"""
        for child, parent, on, key in [
            ("user_tag", "app.users", "parent.id = user_id", "id"),
            ("profile", "app.users", "parent.id = user_id", "id"),
            ("a", "b", "parent.id = b_id", "id"),
            ("b", "a", "parent.id = a_id", "id"),
            ("invoice", "account", "(parent.tenant_id, parent.id) = (child.tenant_id, account_id)", "id"),
        ]:
            query = joined.format(child, parent, on, key)
            assert connection.execute(query).fetchone() == (0,), query
        assert connection.execute("select count(*) from app.users where boss is null").fetchone() == (1,)


def test_made_up_rows_obey_the_check_below_a_domain():
    with server() as running, scratch_database(running) as connection:
        domains = "create domain year as integer check (value > 1900); create domain recent as year;"
        load_script(connection, f"{domains} create table film (id integer primary key, released recent)")
        assert fill_tables(connection, random.Random(1))[1] == []
        assert connection.execute("select count(released) from film").fetchone() == (ROWS,)


def test_a_demanding_schema_file_is_trained_on(tmp_path):
    path = tmp_path / "demanding.sql"
    path.write_text(DEMANDING)
    lines = [
        {
            "question": f"How many bookings over room {n}?",
            "sql": f"select count(*) from booking where room > {n}; -- all",
        }
        for n in range(10)
    ]
    lines += [
        {"question": "Users?", "sql": "SELECT count(*) FROM app.users"},
        {"question": "Happy ones?", "sql": "SELECT count(*) FROM app.users u WHERE u.mood = 'happy'::app.mood"},
        {"question": "users?", "sql": "select COUNT(*) from app.users;"},
    ]
    pairs = pairs_file(tmp_path, map(json.dumps, lines))
    found = options(database=str(path), pairs=pairs, questions=150).make(1, tmp_path / "source")
    assert found["rejected"] == 0
    examples = made(tmp_path)
    assert {e["status"] for e in examples} == {"unverifiable"}
    assert [e["postgres"] for e in examples[10:13]] == [
        "SELECT count(*) FROM users",
        "SELECT count(*) FROM users AS t1 WHERE t1.mood = 'happy'",
        "SELECT count(*) FROM users",
    ]
    queries = " ".join(e["postgres"] for e in examples[13:])
    for part in ("= ANY(labels)", "::date", "user_tag JOIN tag", "mood"):
        assert part in queries
    index = read_index(tmp_path / "source/postgres/schema_index.json")["demanding"]
    assert all(table.rows for table in index.tables)


TYPES = """
create table things (id uuid primary key default gen_random_uuid(), name text, tags text[], data jsonb, at timestamptz,
    clock time, price money, bits bit(4), net inet, born date, kind citext_like, odd double precision);
"""


def test_a_server_with_every_type(tmp_path, monkeypatch):
    with server() as running:
        running.create_database("things")
        with psycopg.connect(running.dsn("things"), autocommit=True) as connection:
            connection.execute("create domain citext_like as text")
            connection.execute("alter database things set datestyle = 'SQL, DMY'")
            connection.execute(TYPES)
            connection.execute(
                """insert into things (name, tags, data, at, clock, price, bits, net, born, kind, odd)
                select 'Thing ' || i, array['a' || i % 4, 'b'], jsonb_build_object('n', i),
                    case when i = 3 then 'infinity' else timestamptz '2024-01-31 23:59+00' + i * interval '1 day' end,
                    '12:30', (i * 1000.5)::numeric::money, b'1010', '10.0.0.1',
                    case when i = 4 then '0044-03-15 BC' else date '2000-01-01' + i end, 'k' || i % 3,
                    case when i = 5 then 'NaN' else i::float end from generate_series(1, 40) i"""
            )
        monkeypatch.setenv("TEST_DSN", running.dsn("things"))
        options(database=None, pairs=None, questions=60).make(1, tmp_path / "source")
    examples = made(tmp_path)
    assert len(examples) > 30
    assert {e["status"] for e in examples} == {"verified"}
    things = read_index(tmp_path / "source/postgres/schema_index.json")["things"].table("things")
    assert {c.name: c.type for c in things.columns}["price"] == "numeric"
    samples = {c.name: set(c.samples) for c in things.columns}
    assert "1000.50" in samples["price"]
    assert samples["bits"] == {"1010"}
    assert "2000-01-02" in samples["born"]


UNREADABLE = """
create role reader login; create role author;
grant select on all tables in schema public to reader, author;
create view lost as select * from vets; alter view lost owner to author; revoke select on vets from author;
create view failing as select id, 1 / (id - 5) as x from vets;
grant select on lost, failing to reader;
alter table pets enable row level security; create policy broken on pets using (1 / (id - id) = 0);
revoke select on "Audit" from reader;
"""


def test_a_table_that_cannot_be_read_is_left_out(tmp_path, monkeypatch, capsys):
    with server() as running:
        running.create_database("clinic")
        with psycopg.connect(running.dsn("clinic"), autocommit=True) as connection:
            connection.execute(FILLED + UNREADABLE)
        monkeypatch.setenv("TEST_DSN", running.dsn("clinic", "reader"))
        found = options(database=None, pairs=None, questions=20).make(1, tmp_path / "source")
        with psycopg.connect(running.dsn("clinic"), autocommit=True) as connection:
            connection.execute("drop table visits; revoke select on vets from reader")
        with pytest.raises(UserError, match="no table can be read: failing is left out"):
            options(database=None, pairs=None, questions=20).make(1, tmp_path / "none")
    schema = read_index(tmp_path / "source/postgres/schema_index.json")["clinic"]
    assert [(table.name, table.rows, table.foreign_keys) for table in schema.tables] == [
        ("vets", 8, ()), ("visits", 150, ()),
    ]  # fmt: skip
    assert found["notes"] == [
        "pets is left out: it cannot be read (division by zero)",
        "lost is left out: it cannot be read (permission denied for table vets)",
        "failing is left out: it cannot be read (division by zero)",
    ]
    assert "notice: pets is left out" in capsys.readouterr().out


def test_a_server_whose_texts_are_no_utf8(tmp_path, monkeypatch):
    with server() as running:
        with psycopg.connect(running.dsn(), autocommit=True) as connection:
            connection.execute("create database clinic encoding 'SQL_ASCII' template template0")
        with psycopg.connect(running.dsn("clinic"), autocommit=True) as connection:
            connection.execute(FILLED)
            connection.execute(r"update vets set name = convert_from('\xff', 'SQL_ASCII') where id = 1")
        monkeypatch.setenv("TEST_DSN", running.dsn("clinic"))
        found = options(database=None, pairs=None, questions=20).make(1, tmp_path / "source")
    assert (found["rows"], found["notes"][1:]) == (8 + 60 + 150 + 1, [])


def test_no_database(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_DSN", raising=False)
    with pytest.raises(UserError, match="TEST_DSN"):
        options(database=None, pairs=None, questions=60).make(1, tmp_path)
    with pytest.raises(UserError, match="No such file"):
        options(database="none.sql", pairs=None, questions=60).make(1, tmp_path)


def row(id_, query, db_id="d", status="verified"):
    return {"id": id_, "db_id": db_id, "question": id_, "postgres": query, "status": status, "hardness": "easy"}


def split_of(rows, **options):
    params = yaml.safe_load(composition())
    params["data"]["split"] |= options
    chosen, seed = split.read_options(params)
    return split.split_by_question(rows, chosen, seed)


@pytest.mark.parametrize("stem", ["custom", "generated"])
def test_split_keeps_wordings_of_one_query_together(stem):
    parts = split_of([row(f"{stem}-{i}", f"select {i // 3}") for i in range(90)])
    assert {name: len(part) for name, part in parts.items()} == {"train": 63, "val": 9, "test": 18}
    queries = [{row["postgres"] for row in part} for part in parts.values()]
    assert sum(map(len, queries)) == 30


def test_generated_questions_are_for_training_only():
    """Ten pairs are enough; no query of a held-back pair is trained on in other words."""
    pairs = [row(f"custom-{i}", f"select {i}") for i in range(10)]
    others = [row(f"generated-{i}", f"SELECT  {i}") for i in range(100)] + [
        row("train_spider-1", "select 1 from t", "shop")
    ]
    parts = split_of(pairs + others)
    assert [len(parts[name]) for name in ("val", "test")] == [1, 2]
    assert {row["id"].split("-")[0] for row in parts["val"] + parts["test"]} == {"custom"}
    assert len(parts["train"]) == 7 + 97 + 1


def test_a_limit_takes_nothing_of_ones_own_for_other_databases():
    others = [row(f"train_spider-{i}", f"select {i} from t", f"shop_{i % 35}") for i in range(140)]
    own = [row(f"custom-{i}", f"select {i}") for i in range(60)]
    parts = split_of(own + others, train_limit=20)
    assert Counter(row["id"].split("-")[0] for row in parts["train"]) == {"custom": 20, "train_spider": 140}


def test_too_few_different_queries():
    with pytest.raises(UserError, match="12 questions have 2 different queries"):
        split_of([row(f"custom-{i}", f"select {i % 2}") for i in range(12)])


def test_the_stages_take_it_from_there(tmp_path, sqlite_file, monkeypatch):
    """The other stages do not know whose data they have: tests/test_pipeline.py."""
    own = {
        "database": f"data/custom/{sqlite_file.name}",
        "pairs": "null",
        "questions": 60,
        "embedded": 0,
        "hidden": "[audit]",
    }
    text = compose(["data=custom", "model=tiny", *(f"data.source.{key}={value}" for key, value in own.items())])
    work = tmp_path / "work"
    (work / "data" / "custom").mkdir(parents=True)
    shutil.copy(sqlite_file, work / "data" / "custom")
    monkeypatch.chdir(work)
    monkeypatch.setenv("DVC_ROOT", str(work))
    (work / "params.yaml").write_text(text)
    shutil.copy(ROOT / "dvc.yaml", work)
    for name in ("source", "databases", "convert", "split", "base_model", "prompts"):
        importlib.import_module(f"stages.{name}").main()
    prompts = {name: list(read_jsonl(work / f"data/prompts/{name}.jsonl")) for name in ("train", "val", "test")}
    assert [len(prompts[name]) >= least for name, least in (("train", 30), ("val", 2), ("test", 8))] == [True] * 3
    assert {row["db_id"] for rows in prompts.values() for row in rows} == {"clinic"}
    assert not any("audit" in row["prompt"].lower() for rows in prompts.values() for row in rows)


def test_pairs_are_spelled_as_decoding_writes_them(tmp_path, sqlite_file):
    """Otherwise the model learns tokens that constrained decoding refuses."""
    written = {
        'SELECT "name" FROM Public.Pets p WHERE p.Weight > 30': "SELECT name FROM pets AS t1 WHERE t1.weight > 30",
        "with old as (select id from pets) select count(*) from old": (
            "WITH old AS (SELECT id FROM pets) SELECT count(*) FROM old"
        ),
    }
    asked = [{"question": f"Question {n}?", "sql": sql} for n, sql in enumerate(written)]
    pairs = pairs_file(tmp_path, map(json.dumps, [*GOOD, *asked]))
    options(database=str(sqlite_file), pairs=pairs).make(1, tmp_path / "source")
    assert [e["postgres"] for e in made(tmp_path)[len(GOOD) :]] == list(written.values())
    assert made(tmp_path)[0]["postgres"] == "SELECT count(*) FROM pets WHERE species = 'cat'"
