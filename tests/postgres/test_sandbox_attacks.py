"""Harmful SQL, a line each: after every one the server, the data and the other workers are intact, and the next query
runs. What is expected is the code of the error; a tuple where PostgreSQL may run into one limit or another first."""

import dataclasses
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from text2sql.errors import UserError
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.postgres.server import server

TIMEOUT = 1.0  # long enough for a busy machine to get to the error that is expected
LIMITS = Limits(timeout_seconds=TIMEOUT, max_rows=1000, max_bytes=2**20, temp_bytes=8 * 2**20, memory_bytes=300 * 2**20)
HASTY = dataclasses.replace(LIMITS, timeout_seconds=0.3)  # for what may end at the timeout: it burns a core until then
SLOW = ("timeout", "resources")
LARGE = (*SLOW, "too_many_rows")
ANY = (None, "data", "forbidden", "other", *LARGE)  # as long as nothing comes of it; not every build can do XML
#: Entities that stand for ten of the one before each.
LAUGHS = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
LONG, NEEDLE = "repeat('a', 4000000)", "'b' || repeat('a', 2000000)"
#: Loops in C that look for no cancellation: the client's timeout passes and the server's process would run on.
LOOPS = [
    f"SELECT {LONG} LIKE '%' || repeat('a', 2000000) || 'b'",
    f"SELECT {LONG} ILIKE '%' || repeat('a', 2000000) || 'b'",
    f"SELECT position({NEEDLE} IN {LONG})",
    f"SELECT replace({LONG}, {NEEDLE}, '')",
    f"SELECT translate({LONG}, repeat('b', 3000000), '')",
    f"SELECT btrim({LONG}, repeat('b', 3000000) || 'a')",
    "SELECT normalize(repeat(U&'\\0301\\0316', 1000000))",
    "SELECT position(repeat('0', 2000000)::varbit || B'1' IN repeat('0', 4000000)::varbit)",
    "SELECT to_date(repeat('1', 1000000), repeat('Y', 1000000))",
    "SELECT array_fill(1, ARRAY[1000000]) && array_fill(2, ARRAY[1000000])",
    "SELECT (SELECT jsonb_agg(i) FROM generate_series(1, 60000) AS i)"
    " @> (SELECT jsonb_agg(60000 - i) FROM generate_series(0, 59999) AS i)",
    f"SELECT position((repeat('a', 2000000) || 'b')::bytea IN ({LONG})::bytea)",
]
HUGE = "polygon(100000, circle '((0,0),1)')"
SHOP = """
CREATE TABLE item (id integer PRIMARY KEY, name text);
INSERT INTO item SELECT i, 'item ' || i FROM generate_series(1, 500) AS i;
CREATE SEQUENCE counter;
SELECT lo_from_bytea(4711, 'a large object');
"""
# A name of this test run: the workers that share it collect the same tests.
LOOT = Path("/tmp") / f"text2sql-loot-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"

ENDLESS = "SELECT count(*) FROM item a, item b, item c, item d"
ATTACKS = [
    # Several statements, or another one than a query.
    ("SELECT 1; DROP TABLE item", "syntax"),
    ("SELECT 1; COMMIT; DROP TABLE item", "syntax"),
    ("SELECT 1;\n-- x\nSELECT 2", "syntax"),
    ("TABLE item; TABLE item", "syntax"),
    ("DROP TABLE item", "syntax"),
    ("INSERT INTO item VALUES (0, 'x')", "syntax"),
    ("UPDATE item SET name = 'x'", "syntax"),
    ("DELETE FROM item", "syntax"),
    ("TRUNCATE item", "syntax"),
    ("MERGE INTO item USING item AS x ON true WHEN MATCHED THEN DELETE", "syntax"),
    ("CREATE TABLE loot AS SELECT * FROM item", "syntax"),
    ("CREATE TEMP TABLE loot (a integer)", "syntax"),
    ("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DROP TABLE item'", "syntax"),
    ("CREATE EXTENSION plpython3u", "syntax"),
    ("ALTER SYSTEM SET work_mem = '10GB'", "syntax"),
    ("ALTER ROLE CURRENT_USER SUPERUSER", "syntax"),
    ("GRANT pg_read_server_files TO CURRENT_USER", "syntax"),
    ("DO $$ BEGIN PERFORM pg_sleep(60); END $$", "syntax"),
    ("DO LANGUAGE plpgsql 'BEGIN LOOP END LOOP; END'", "syntax"),
    ("CALL x()", "syntax"),
    (f"COPY item TO '{LOOT}'", "syntax"),
    (f"COPY item TO PROGRAM 'touch {LOOT}'", "syntax"),
    (f"COPY item FROM PROGRAM 'touch {LOOT}'", "syntax"),
    ("COPY item TO STDOUT", "syntax"),
    (f"\\! touch {LOOT}", "syntax"),
    ("EXPLAIN ANALYZE DELETE FROM item", "syntax"),
    ("PREPARE p AS SELECT 1", "syntax"),
    ("LISTEN x", "syntax"),
    ("LOCK TABLE item", "syntax"),
    ("VACUUM item", "syntax"),
    ("CHECKPOINT", "syntax"),
    ("SET statement_timeout = 0", "syntax"),
    ("SET default_transaction_read_only = off", "syntax"),
    ("SET SESSION AUTHORIZATION postgres", "syntax"),
    ("RESET ROLE", "syntax"),
    ("COMMIT", "syntax"),
    ("ROLLBACK AND CHAIN", "syntax"),
    ("FETCH ALL FROM prediction", "syntax"),
    ("CLOSE ALL", "syntax"),
    ("DECLARE x CURSOR WITH HOLD FOR SELECT 1", "syntax"),
    ("SHOW data_directory", "syntax"),
    # Queries that write.
    ("WITH gone AS (DELETE FROM item RETURNING *) SELECT * FROM gone", "forbidden"),
    ("WITH x AS (INSERT INTO item VALUES (0, 'x') RETURNING *) SELECT * FROM x, (SELECT 1) AS y", "forbidden"),
    ("SELECT * FROM (WITH x AS (UPDATE item SET name = 'x' RETURNING *) SELECT * FROM x) AS y", "forbidden"),
    ("SELECT * INTO loot FROM item", ("syntax", "forbidden")),
    ("SELECT * INTO TEMP loot FROM item", ("syntax", "forbidden")),
    ("SELECT * FROM item FOR UPDATE", "forbidden"),
    ("SELECT * FROM (SELECT * FROM item FOR SHARE) AS x", "forbidden"),
    ("SELECT nextval('counter')", "forbidden"),
    ("SELECT setval('counter', 1000)", "forbidden"),
    ("UPDATE pg_catalog.pg_database SET datallowconn = false", "syntax"),
    ("WITH x AS (DELETE FROM pg_catalog.pg_class RETURNING oid) SELECT * FROM x", "forbidden"),
    # Functions, in the disguises that names can wear.
    ("SELECT pg_sleep(60)", "forbidden"),
    ("SELECT pg_catalog.pg_sleep_for('1 minute')", "forbidden"),
    ('SELECT "pg_catalog" . /* x */ "pg_sleep" (60)', "forbidden"),
    ('SELECT U&"pg\\005fsleep"(60)', "forbidden"),
    ("WITH s AS MATERIALIZED (SELECT pg_sleep(60)) SELECT 1 FROM s", "forbidden"),
    ("SELECT * FROM item WHERE id = (SELECT 1 FROM pg_sleep(60))", "forbidden"),
    (
        "SELECT count(*) FROM item GROUP BY id HAVING pg_sleep(1) IS NULL ORDER BY pg_sleep(1)",
        ("forbidden", "type", "unknown_function"),
    ),
    ("SELECT set_config('statement_timeout', '0', false)", "forbidden"),
    (
        "WITH a AS MATERIALIZED (SELECT set_config('statement_timeout', '0', false)) SELECT * FROM a, item",
        "forbidden",
    ),
    ("SELECT set_config('transaction_read_only', 'off', false), nextval('counter')", "forbidden"),
    ("SELECT set_config('role', 'postgres', false)", "forbidden"),
    ("SELECT set_config('session_authorization', 'postgres', false)", "forbidden"),
    ("SELECT pg_read_file('/etc/passwd')", "forbidden"),
    ("SELECT pg_read_binary_file('/etc/passwd', 0, 10)", "forbidden"),
    ("SELECT pg_ls_dir('/')", "forbidden"),
    ("SELECT * FROM pg_stat_file('PG_VERSION')", "forbidden"),
    ("SELECT pg_current_logfile()", "forbidden"),
    ("SELECT lo_import('/etc/passwd')", "forbidden"),
    (f"SELECT lo_export(4711, '{LOOT}')", "forbidden"),
    ("SELECT lo_from_bytea(0, 'x')", "forbidden"),
    ("SELECT lo_get(4711)", "forbidden"),
    ("SELECT lo_unlink(4711)", "forbidden"),
    ("SELECT data FROM pg_largeobject", "forbidden"),
    ("SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)", "forbidden"),
    ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", "forbidden"),
    ("SELECT pg_cancel_backend(pg_backend_pid())", "forbidden"),
    ("SELECT pg_reload_conf()", "forbidden"),
    ("SELECT pg_rotate_logfile()", "forbidden"),
    ("SELECT pg_switch_wal()", "forbidden"),
    ("SELECT pg_promote()", "forbidden"),
    ("SELECT pg_create_restore_point('x')", "forbidden"),
    ("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))", "forbidden"),
    ("SELECT pg_create_physical_replication_slot('x', true)", "forbidden"),
    ("SELECT pg_export_snapshot()", "forbidden"),
    ("SELECT pg_advisory_lock(1)", "forbidden"),
    ("SELECT pg_try_advisory_lock_shared(id) FROM item", "forbidden"),
    ("SELECT pg_notify('x', 'y')", "forbidden"),
    ("SELECT pg_stat_reset()", "forbidden"),
    ("SELECT setseed(0.5)", "forbidden"),
    ("SELECT query_to_xml('DELETE FROM item', true, true, '')", "forbidden"),
    ("SELECT query_to_xml('SELECT pg_sleep(60)', true, true, '')", "forbidden"),
    ("SELECT database_to_xml(true, true, '')", "forbidden"),
    ("SELECT * FROM ts_stat('SELECT pg_sleep(60)::text::tsvector')", "forbidden"),
    ("SELECT ts_rewrite('a'::tsquery, 'SELECT pg_sleep(60)::text::tsquery, ''a''::tsquery')", "forbidden"),
    ("SELECT cursor_to_xml('prediction', 1, true, true, '')", "forbidden"),
    ("SELECT * FROM dblink('dbname=bank', 'SELECT * FROM item') AS x(a text)", "unknown_function"),
    # What is not its own.
    ("SELECT * FROM bank.public.item", "forbidden"),
    ("SELECT rolpassword FROM pg_authid", "forbidden"),
    ("SELECT * FROM pg_shadow", "forbidden"),
    ("SELECT datname FROM pg_database", "forbidden"),
    ("SELECT query FROM pg_stat_activity", "forbidden"),
    ("SELECT query FROM pg_stat_get_activity(NULL)", "forbidden"),
    ("SELECT * FROM pg_show_all_settings()", "forbidden"),
    ("SELECT * FROM pg_settings", "forbidden"),
    ("SELECT * FROM pg_hba_file_rules", "forbidden"),
    ("SELECT current_setting('data_directory')", "forbidden"),
    ("SELECT xmlparse(document '<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>')::text", ANY),
    (f"SELECT xmlparse(document '<!DOCTYPE a [{LAUGHS}]><a>&l9;</a>')::text", ANY),
    # Time.
    ("SELECT count(*) FROM generate_series(1, 10000000000)", SLOW),
    ("WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a FROM t) SELECT count(*) FROM t", SLOW),
    ("WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT * FROM t ORDER BY a DESC", SLOW),
    (ENDLESS, "timeout"),
    (
        "SELECT count(*) FROM item a, item b, item c, item d "
        "WHERE repeat('a', a.id + b.id + c.id + d.id) ~ '^(a*)*(a*)*(a*)*\\1\\2\\3b$'",
        SLOW,
    ),
    ("SELECT repeat('a', 5000) ~ (repeat('a?', 5000) || repeat('a', 5000))", ("data", *SLOW)),
    ("SELECT repeat('a', 100000) LIKE '%' || repeat('a%', 3000) || 'b'", (None, *SLOW)),  # given up early
    ("SELECT regexp_split_to_array(repeat('a,', 10000000), ',')", SLOW),
    ("SELECT count(*) FROM item a, item b WHERE a.name || b.name ~ '(a|b|i|t)*(e|m| )*(.*)x\\3'", (None, *SLOW)),
    ("SELECT sum(factorial(30000 + id)) FROM item, generate_series(1, 1000)", SLOW),
    ("SELECT factorial(100000)", "data"),
    ("SELECT sum((2::numeric ^ (100000 + id)) * (3::numeric ^ (60000 - id))) FROM item", ("data", *SLOW)),
    *[(loop, "timeout") for loop in LOOPS],
    ("SELECT path '((0,0),(1,1))' <-> path '((0,0),(1,1))'", "forbidden"),
    (f"SELECT {HUGE} && {HUGE}", "forbidden"),
    # Space.
    ("SELECT * FROM generate_series(1, 10000000000)", LARGE),
    ("SELECT repeat('x', 1000000000)", LARGE),
    ("SELECT repeat('x', 100000000) FROM generate_series(1, 1000)", LARGE),
    ("SELECT length(repeat('x', 500000000) || repeat('y', 500000000))", SLOW),
    ("SELECT string_agg(repeat('x', 1000000), '') FROM generate_series(1, 2000)", SLOW),
    ("SELECT array_agg(a.name || b.name || c.name) FROM item a, item b, item c", SLOW),
    ("SELECT jsonb_agg(a) FROM item a, item b, item c", SLOW),
    ("SELECT array_fill(1, ARRAY[100000000])", LARGE),
    ("SELECT format('%1000000000s', 'x')", LARGE),
    ("SELECT lpad('x', 1000000000)", LARGE),
    ("SELECT a.id FROM item a, item b, item c ORDER BY md5((a.id + b.id * c.id)::text)", SLOW),
    ("SELECT DISTINCT a.id, b.id, c.id FROM item a, item b, item c", LARGE),
    # Depth and length.
    (f"SELECT {'(' * 50_000}1{')' * 50_000}", "resources"),
    (f"SELECT {'-'.join(['1'] * 50_000)}", "resources"),
    (f"SELECT {'NOT ' * 50_000} true", "resources"),
    (f"SELECT * FROM {'(SELECT * FROM ' * 5_000}item{') AS x' * 5_000}", "resources"),
    (f"SELECT * FROM {', '.join(f'item i{i}' for i in range(2_000))}", LARGE),
    (f"SELECT {', '.join(['1'] * 2_000)}", "resources"),
    (f"SELECT repeat('[', 100000)::json{'':10}", "resources"),
    ("SELECT repeat('(', 100000)::tsquery", ("resources", "syntax", "type")),
    # Text.
    ("SELECT U&'\\0027; DROP TABLE item; --'", None),
    ("SELECT $$'; DROP TABLE item; --$$", None),
    ("SELECT 1 /* unfinished", "syntax"),
    ("SELECT 'unfinished", "syntax"),
    ("SELECT '\0'; DROP TABLE item", "syntax"),
    ("SELECT '\udcff'", "syntax"),
    ("SELECT E'\\xff'", ("syntax", "data")),
]


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
        box.execute("shop", "SELECT 1")  # closes the database down, which is not the attacks' doing
        yield box


@pytest.fixture(scope="module")
def hasty(postgres):
    with Sandbox(postgres, HASTY) as box:
        box.execute("shop", "SELECT 1")
        yield box


@pytest.fixture(scope="module")
def neighbour(postgres, sandbox):
    """Another worker, at work all the time; yields its results so far."""
    seen, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            seen.append(sandbox.execute("bank", "SELECT count(*), sum(length(name)) FROM item"))
            time.sleep(0.03)

    thread = threading.Thread(target=work)
    thread.start()
    yield seen
    stop.set()
    thread.join()


STATE = """
SELECT (SELECT md5(string_agg(i::text, ',' ORDER BY id)) FROM item AS i),
       (SELECT last_value FROM counter), (SELECT is_called FROM counter),
       (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_database),
       (SELECT string_agg(rolname || rolsuper::text, ',' ORDER BY rolname) FROM pg_roles),
       (SELECT string_agg(oid::text, ',') FROM pg_largeobject_metadata),
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
       (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_ls_tmpdir()),
       (SELECT md5(string_agg(name || setting, ',' ORDER BY name)) FROM pg_settings),
       (SELECT string_agg(coalesce(datacl::text, ''), ',' ORDER BY datname) FROM pg_database)
"""


@pytest.fixture(scope="module")
def state(postgres, sandbox, hasty):
    """Everything that an attack could have changed, read by a connection that a crash of the server would end."""
    sandbox.execute("bank", "SELECT 1")
    with psycopg.connect(postgres.dsn("shop"), autocommit=True) as connection:
        yield lambda: connection.execute(STATE).fetchone()


@pytest.mark.parametrize(("sql", "expected"), ATTACKS, ids=[f"{sql[:60]!r}" for sql, _ in ATTACKS])
def test_attack(sandbox, hasty, state, neighbour, monkeypatch, sql, expected):
    expected = expected if isinstance(expected, tuple) else (expected,)
    box = hasty if "timeout" in expected else sandbox
    if box is hasty:
        monkeypatch.setattr("text2sql.postgres.sandbox.GRACE_SECONDS", 0.15)
    before, seen, started = state(), len(neighbour), time.perf_counter()
    result = box.execute("shop", sql)
    elapsed = time.perf_counter() - started
    assert result.error in expected, result.message
    assert elapsed < TIMEOUT + 10
    assert "root:" not in str(result.rows)
    while state() != before and time.perf_counter() < started + 10:
        time.sleep(0.01)  # a session that was left takes its temporary files along when it ends
    assert state() == before
    assert not LOOT.exists()
    again = box.execute("shop", "SELECT count(*), current_setting('statement_timeout') FROM item")
    assert again.rows == [(500, "300ms" if box is hasty else "1s")], again.message
    assert neighbour, "the other worker has not worked"
    # A busy machine may give the other worker no time; what it does answer is right (who waits for whom: see below).
    assert all(other.error == "timeout" or other.rows == [(500, 3892)] for other in neighbour[seen:])


def test_the_role_owns_nothing_and_reads_one_database(postgres, sandbox):
    result = sandbox.execute(
        "shop",
        """SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,
                  has_database_privilege('shop', 'TEMP'), has_database_privilege('shop', 'CREATE'),
                  has_schema_privilege('public', 'CREATE'), has_table_privilege('item', 'UPDATE'),
                  has_database_privilege('bank', 'CONNECT'), has_database_privilege('postgres', 'CONNECT')
           FROM (SELECT false AS rolsuper, false AS rolcreatedb, false AS rolcreaterole, false AS rolreplication,
                        false AS rolbypassrls) AS x""",
    )
    assert result.rows == [(False,) * 11], result.message
    with psycopg.connect(postgres.dsn("shop")) as connection:
        roles = connection.execute(
            """SELECT bool_or(rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls),
                      bool_or(EXISTS (SELECT FROM pg_class WHERE relowner = r.oid)),
                      bool_or(EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid))
               FROM pg_roles AS r WHERE rolname LIKE 'sandbox%'"""
        ).fetchone()
    assert roles == (False, False, False)


def test_no_function_that_is_left_is_volatile_but_the_innocent(sandbox):
    result = sandbox.execute(
        "shop",
        """SELECT DISTINCT proname FROM pg_proc
           WHERE provolatile = 'v' AND prokind <> 'a' AND has_function_privilege(oid, 'EXECUTE') ORDER BY 1""",
    )
    innocent = ["clock_timestamp", "gen_random_uuid", "random", "random_normal", "timeofday", "uuidv4", "uuidv7"]
    assert [name for (name,) in result.rows] == innocent


def test_a_query_that_ignores_its_own_timeout_meets_the_deadline(postgres):
    """The server's timeout taken away, as if an attack had managed to: the client's deadline is another wall."""
    with Sandbox(postgres, HASTY) as box:
        role = box.execute("shop", "SELECT current_user").rows[0][0]
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {role} SET statement_timeout = 0")
        try:
            box.__exit__(None, None, None)  # the next session has the new setting
            started = time.perf_counter()
            result = box.execute("shop", ENDLESS)
            assert result.error == "timeout"
            assert time.perf_counter() - started < TIMEOUT + 5
            assert box.execute("shop", "SELECT 1").rows == [(1,)]
        finally:
            with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
                connection.execute(f"ALTER ROLE {role} SET statement_timeout = '300ms'")


def test_no_process_outlives_a_query_that_cannot_be_cancelled(postgres):
    """More of them than connections of the server, four at a time: each ends, and no session is left without one."""
    limits = dataclasses.replace(LIMITS, timeout_seconds=0.1)
    with Sandbox(postgres, limits) as box, ThreadPoolExecutor(4) as pool:
        assert {result.error for result in pool.map(lambda _: box.execute("shop", LOOPS[0]), range(16))} == {"timeout"}
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'sandbox%' AND state = 'active'"
            deadline = time.perf_counter() + 10
            while (running := connection.execute(query).fetchone()[0]) and time.perf_counter() < deadline:
                time.sleep(0.05)
        assert running == 0


def test_a_database_is_dropped_while_a_query_that_cannot_be_cancelled_runs(postgres):
    postgres.create_database("doomed")
    with Sandbox(postgres, LIMITS) as box:
        work = threading.Thread(target=box.execute, args=("doomed", LOOPS[0]))
        work.start()
        time.sleep(TIMEOUT / 2)
        box.drop("doomed")
        work.join()
        with pytest.raises(UserError, match="doomed"):
            box.execute("doomed", "SELECT 1")
    with psycopg.connect(postgres.dsn()) as connection:
        assert connection.execute("SELECT count(*) FROM pg_database WHERE datname = 'doomed'").fetchone() == (0,)


def test_hanging_queries_do_not_hold_up_others(sandbox, hasty):
    """Eight queries that hang, each costs its timeout; meanwhile others are answered."""
    hanging = [threading.Thread(target=hasty.execute, args=("shop", ENDLESS)) for _ in range(8)]
    for thread in hanging:
        thread.start()
    started = time.perf_counter()
    assert sandbox.execute("bank", "SELECT 1").rows == [(1,)]
    for thread in hanging:
        thread.join()
    assert time.perf_counter() - started < TIMEOUT + 10
