"""SQLite files as people have them: damaged, locked, empty, too wide."""

import sqlite3
from contextlib import closing

import pytest

from tests.schemas import running
from text2sql.ask.place import execute_first, open_place
from text2sql.errors import UserError
from text2sql.postgres import server
from text2sql.postgres.outcome import finds_nothing
from text2sql.postgres.sandbox import Sandbox

SCRIPT = "create table customers (id integer primary key, name text); insert into customers values (1, 'Ann');"


def database(path, script=SCRIPT):
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def empty(path):
    path.touch()


def encrypted(path):
    path.write_bytes(bytes(range(256)) * 32)


def cut(path):
    rows = "".join(f"insert into customers values ({i}, '{'x' * 50}');" for i in range(2, 2000))
    path.write_bytes(database(path, SCRIPT + rows).read_bytes()[:6000])


def overwritten(path):
    path.write_bytes(database(path).read_bytes()[:16] + b"\xff" * 8000)


FILES = {
    empty: "is empty",
    encrypted: "is no SQLite database",
    cut: "cannot be read: database disk image is malformed\n  -> give an intact copy",
    overwritten: "cannot be read: file is not a database\n  -> give an intact copy",
    lambda path: path.mkdir(): "is a folder",
    lambda path: None: "there is no file",
}


@pytest.mark.parametrize(("make", "said"), FILES.items())
def test_what_is_no_database_is_said(tmp_path, make, said):
    path = tmp_path / "shop.sqlite"
    make(path)
    with pytest.raises(UserError, match=said), open_place(str(path), expected="sqlite"):
        pass


@pytest.mark.parametrize("expected", ["schema", "sqlite", None])
def test_a_text_in_place_of_a_path_is_said(expected):
    with (
        pytest.raises(UserError, match=r"CREATE TABLE t .* cannot be read: File name too long"),
        open_place(f"CREATE TABLE t ({', '.join(f'column_{i} int' for i in range(40))});", expected=expected),
    ):
        pass


@pytest.mark.parametrize("expected", ["schema", "sqlite"])
def test_a_file_that_may_not_be_read_is_said(tmp_path, monkeypatch, expected):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = database(tmp_path / "shop.sqlite")
    monkeypatch.setattr(type(path), "open", refuse)
    with (
        pytest.raises(UserError, match="cannot be read: Permission denied\n  -> give the path of a file"),
        open_place(str(path), expected=expected),
    ):
        pass


def test_a_locked_database_is_said(tmp_path):
    path = database(tmp_path / "shop.sqlite")
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("begin exclusive")
    with pytest.raises(UserError, match="locked by another process"), open_place(str(path), expected="sqlite"):
        pass
    writer.close()


def test_rows_that_postgresql_cannot_hold_are_said_each_time(tmp_path):
    columns = ", ".join(f"c{i} text" for i in range(1600))
    values = ", ".join([f"'{'x' * 20}'"] * 1600)
    path = database(tmp_path / "wide.sqlite", f"create table wide ({columns}); insert into wide values ({values});")
    with open_place(str(path)) as place:
        assert len(place.schema.tables[0].columns) == 1600
        for _ in range(2):
            with pytest.raises(UserError, match="cannot hold a copy of the database: row is too big"):
                place.execute("select 1")


def test_names_are_cut_at_63_bytes(tmp_path):
    name = "ä" * 40
    path = database(tmp_path / "long.sqlite", f"create table {name} (id integer); insert into {name} values (7);")
    with open_place(str(path)) as place:
        (table,) = place.schema.tables
        assert len(table.name.encode()) <= 63
        assert place.execute(f'select * from "{table.name}"').rows == [(7,)]


FAILING = """
select x from pg_class
select 1 from x
select x(1)
select pg_sleep(1)
select a.oid from pg_class b
select oid from pg_class a, pg_class b
select 1 / (n - 3) from generate_series(1, 5) n
select (select generate_series(1, 2))
select relname, count(*) from pg_class
select distinct relname from pg_class order by oid
select 1 order by 2
select 1 union select 1, 2
select 1 + 'x'
select date '2023-02-30'
select 1 where 'a' = 1
select case 1 when 1 then 1 else 'a' end
with a as (select 1 as n), a as (select 2) select * from a
select sum(count(*)) from pg_class
select count(*) from pg_class where count(*) > 1
select generate_series(1, 3) over ()
select 1 limit -1
select * from pg_class for update
select 1 from
select from where
with a as (delete from pg_class returning *) select * from a
select 1 into x
select 'x
""".strip().splitlines()


@pytest.fixture(scope="module")
def sandbox():
    running().create_database("failing")
    with Sandbox(running()) as sandbox:
        yield sandbox
    running().drop_database("failing")


@pytest.mark.parametrize("sql", [*FAILING, "select 1; -- one"])
def test_a_query_that_fails_is_executed_once_and_said_as_it_is(sql, sandbox, monkeypatch):
    expected, execute, executed = sandbox.execute("failing", sql), sandbox.execute, []

    def counted(database, text):
        executed.append(text)
        return execute(database, text)

    monkeypatch.setattr(sandbox, "execute", counted)
    result = execute_first(sandbox, "failing", sql, 10)
    assert (result.error, result.message, result.rows) == (expected.error, expected.message, expected.rows)
    assert (result.error is None) == (sql not in FAILING)
    assert len(executed) == 1 or result.error in ("syntax", "forbidden", None), "what was refused has not run"


def test_a_query_finds_nothing_only_where_there_are_rows(tmp_path):
    """The copy of a schema file has none: a count of zero says nothing about the query."""
    (tmp_path / "shop.sql").write_text("CREATE TABLE customers (id integer primary key, name text);")
    database(tmp_path / "shop.sqlite")
    for name, nothing in (("shop.sql", False), ("shop.sqlite", True)):
        with open_place(str(tmp_path / name)) as place:
            sql = "SELECT count(*) FROM customers WHERE name = 'Bob'"
            assert finds_nothing(place.execute(sql), sql, place.execute) is nothing


def test_a_file_that_is_locked_later_costs_one_server(tmp_path, monkeypatch):
    started, start = [], server.server
    monkeypatch.setattr(server, "server", lambda: started.append(1) or start())
    with closing(sqlite3.connect(tmp_path / "shop.sqlite", isolation_level=None)) as writer:
        writer.execute("create table t (a integer)")
        with open_place(str(tmp_path / "shop.sqlite"), expected="sqlite") as place:
            writer.execute("begin exclusive")
            for _ in range(2):
                with pytest.raises(UserError, match="locked by another process"):
                    place.execute("select 1")
            writer.execute("rollback")
            assert place.execute("select count(*) from t").rows == [(0,)]
    assert len(started) == 1
