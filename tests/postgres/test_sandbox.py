"""The sandbox on a real server: what it returns, what it refuses, and that nothing is left behind."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest

from text2sql.errors import UserError
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.postgres.server import server

SHOP = """
CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric, weight double precision, sold boolean, day date);
INSERT INTO item VALUES (1, 'pen', 1.50, 0.1, true, '2020-01-02'), (2, NULL, 20, 2.5, false, 'infinity');
CREATE TABLE "Odd Name" ("a b" integer);
CREATE SEQUENCE counter;
"""
LIMITS = Limits(timeout_seconds=1.0, max_rows=1000, max_bytes=2**20)


@pytest.fixture(scope="module")
def postgres():
    with server() as running:
        for name in ("shop", "bank"):
            running.create_database(name)
            with psycopg.connect(running.dsn(name)) as connection:
                connection.execute(SHOP)
        yield running


@pytest.fixture(scope="module")
def sandbox(postgres):
    with Sandbox(postgres, LIMITS) as box:
        yield box


def test_values_as_numbers_and_text(sandbox):
    result = sandbox.execute("shop", "SELECT * FROM item ORDER BY id")
    assert result.error is None
    assert result.columns == ("id", "name", "price", "weight", "sold", "day")
    assert result.rows == [
        (1, "pen", Decimal("1.50"), 0.1, True, "2020-01-02"),
        (2, None, Decimal("20"), 2.5, False, "infinity"),
    ]
    assert 0 < result.milliseconds < 1000


def test_no_rows_have_columns(sandbox):
    result = sandbox.execute("shop", 'SELECT "a b" AS x, 1 AS y FROM "Odd Name"')
    assert (result.columns, result.rows, result.error) == (("x", "y"), [], None)


@pytest.mark.parametrize(
    "sql", ["SELECT 1;", "  (SELECT 1)", "VALUES (1)", "WITH a AS (SELECT 1) SELECT * FROM a -- x"]
)
def test_forms_of_a_query(sandbox, sql):
    assert sandbox.execute("shop", sql).rows == [(1,)]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT nope FROM item", "unknown_column"),
        ("SELECT x.id FROM item", "unknown_table"),
        ("SELECT * FROM nope", "unknown_table"),
        ("SELECT nope(id) FROM item", "unknown_function"),
        ("SELECT id FROM item WHERE name = 3", "type"),
        ("SELECT 'x'::integer", "type"),
        ("SELECT a.id, id FROM item a, item b", "ambiguous_column"),
        ("SELECT name, count(*) FROM item", "grouping"),
        ("SELECT DISTINCT name FROM item ORDER BY id", "grouping"),
        ("SELECT 1 / (id - id) FROM item", "data"),
        ("SELECT (SELECT id FROM item)", "subquery_rows"),
        ("SELEC 1", "syntax"),
        ("", "syntax"),
        ("SELECT 'a\0b'", "syntax"),
        ("SELECT '\ud800'", "syntax"),
        ("SELECT * FROM generate_series(1, 1001)", "too_many_rows"),
        ("SELECT repeat('x', 2000) FROM generate_series(1, 1000)", "too_many_rows"),
        (f"SELECT {', '.join(['NULL'] * 200)} FROM generate_series(1, 1000)", "too_many_rows"),
        (f"SELECT {', '.join(['1.5'] * 100)} FROM generate_series(1, 500)", "too_many_rows"),  # 150 kB as text
        ("SELECT count(*) FROM generate_series(1, 1000000000)", "timeout"),
    ],
)
def test_errors_have_codes(sandbox, sql, error):
    result = sandbox.execute("shop", sql)
    assert (result.error, list(result.rows)) == (error, [])
    assert result.message
    assert sandbox.execute("shop", "SELECT 1").rows == [(1,)]


def test_an_unknown_database(sandbox):
    with pytest.raises(UserError, match="nowhere"):
        sandbox.execute("nowhere", "SELECT 1")


@pytest.mark.parametrize("statement", ["SELECT pg_terminate_backend(%s)", None])
def test_a_session_that_is_lost_is_replaced(postgres, sandbox, statement):
    """Ended by an administrator, or killed by the system, which restarts the whole server."""
    sandbox.execute("shop", "SELECT 1")
    for _, session in list(sandbox._idle.values()):
        if statement is None:
            os.kill(session.pid, signal.SIGKILL)
        else:
            with psycopg.connect(postgres.dsn()) as connection:
                connection.execute(statement, (session.pid,))
    time.sleep(0.1)
    assert sandbox.execute("shop", "SELECT count(*) FROM item").rows == [(2,)]


def test_a_query_whose_process_is_killed_is_repeated(postgres):
    """The memory of the machine ran out: not the fault of the queries that were running."""
    results = []
    with Sandbox(postgres, Limits(timeout_seconds=30.0)) as box:
        query = "SELECT count(*) FROM generate_series(1, 2000000)"
        work = threading.Thread(target=lambda: results.append(box.execute("shop", query)))
        pid = box.execute("shop", "SELECT pg_backend_pid()").rows[0][0]
        work.start()
        time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        work.join()
    assert results[0].rows == [(2_000_000,)], results[0].message


def test_many_threads(sandbox):
    """Each gets the answer to its own query."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: sandbox.execute(("shop", "bank")[n % 2], f"SELECT {n}").rows, range(200))
    assert list(answers) == [[(n,)] for n in range(200)]


def test_sandboxes_that_start_together(postgres):
    """They close down different databases of one server at the same time, as two processes would."""
    names = [f"together_{n}" for n in range(6)]
    for name in names:
        postgres.create_database(name)

    def first_query(name):
        with Sandbox(postgres, LIMITS) as box:
            return box.execute(name, "SELECT current_database()").rows

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(first_query, names)) == [[(name,)] for name in names]
