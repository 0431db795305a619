"""Proof, limits, generated rows, the stages and the command, on small databases."""

from __future__ import annotations

import functools
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import convert, databases
from tests.postgres.shop import SCRIPT
from text2sql.cli import app
from text2sql.conversion.databases import describe, open_source
from text2sql.conversion.dialect import DEFECT, RULES, Conversion, convert_tree, parse_query
from text2sql.conversion.engines import as_stored, connect_as_text, gave_up, limit, run_postgres, run_sqlite
from text2sql.conversion.examination import convert_script
from text2sql.conversion.proof import prove
from text2sql.conversion.queries import decoded, statements_of
from text2sql.conversion.synthetic import fill
from text2sql.errors import UserError
from text2sql.files import read_jsonl
from text2sql.postgres.compare import Result, same_rows
from text2sql.postgres.server import server

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def make(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


@pytest.mark.parametrize(
    ("sqlite", "postgres", "same"),
    [
        (1, 1.0, True), (1, True, True), (0, False, True), (0.1 + 0.2, Decimal("0.3"), True), (1.0, 1.00001, False),
        (None, 0, False), (None, None, True), ("", None, False), ("a", "A", False), (1e300, 1e300, True),
        # integers are exact, as ids, keys and seconds since 1970 must be
        (12345678, 12345679, False), (1700000000, 1700001600, False), (12345678, Decimal("12345679.0"), False),
        (12345678, Decimal("12345678.00"), True), (2**62, 2**62 + 1, False),
        # a number in a column that PostgreSQL holds as text, and the reverse
        ("1", "1", True), ("1", "1.0", False), (5, "5", True), (5.0, "5.0", True), ("5", 5, True), ("05", 5, False),
        (5, "5.0", False), (b"a", b"a", True), ("a", b"a", True), (b"a", "a", True), ("a\0b", "a\ufffdb", True),
    ],
)  # fmt: skip
def test_values_of_both_engines(sqlite, postgres, same):
    rows, other = [("x", None), ("y", sqlite)], [("x", None), ("y", postgres)]
    assert same_rows(as_stored(rows, other), other, ordered=True) is same
    assert same_rows(as_stored(rows, other[::-1]), other[::-1], ordered=False) is same


def test_a_column_of_numbers_and_texts_is_compared_as_a_bag_too():
    assert same_rows(as_stored([(5,), ("x",)], [("x",), ("5",)]), [("x",), ("5",)], ordered=False)


@pytest.mark.parametrize(("source", "converted"), [(12345678, 12345679), (1700000000, 1700001600)])
def test_another_integer_is_another_result(source, converted):
    """Ids of eight digits and times in seconds differ by less than a millionth."""
    conversion = Conversion(f"SELECT {converted}", parse_query(f"SELECT {source}"), frozenset())
    proof = prove(conversion, Result(("a",), [(source,)]), lambda _: Result(("a",), [(converted,)]))
    assert proof.status == "rejected"
    assert str(converted) in proof.reason


def test_no_query_hangs_and_the_cause_is_recorded(tmp_path):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t (a)")
    _, [(_, outcome)] = convert_script(path, f"{ENDLESS};", 0.3)
    assert (outcome.status, outcome.reason) == ("unverifiable", "SQLite: no answer in 0.3 s")
    with (
        server() as running,
        closing(connect_as_text(running.dsn())) as connection,
    ):
        limit(connection, 0.3)
        answer = run_postgres(connection, ENDLESS)
        assert (gave_up(answer), answer.message) == (True, "PostgreSQL: no answer in time")
        assert run_postgres(connection, "SELECT 1").rows == [(1,)]  # the transaction is still usable


def test_a_query_can_only_read(tmp_path):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t (a)")
    script = f"ATTACH '{tmp_path}/b.sqlite' AS b; DELETE FROM t; PRAGMA journal_mode = WAL; DROP TABLE t;"
    _, outcomes = convert_script(path, script, 5)
    assert [outcome.status for _, outcome in outcomes] == ["invalid_source"] * 4
    assert not (tmp_path / "b.sqlite").exists()
    with closing(sqlite3.connect(path)) as source:
        assert not run_sqlite(source, "SELECT * FROM t", 5).error


@pytest.mark.parametrize(
    ("content", "queries"),
    [
        (b"SELECT 1\nSELECT 2\n", ["SELECT 1", "SELECT 2"]),
        (b"SELECT ';' -- ;\n; SELECT 2", ["SELECT ';' -- ;", "SELECT 2"]),
        (b"SELECT a,\n  b\nFROM t\nORDER BY a", ["SELECT a,\n  b\nFROM t\nORDER BY a"]),
        (b"SELECT 1;\n-- the end\n/* of it */", ["SELECT 1"]),
        (b"-- nothing\n", []),
        (b"\xef\xbb\xbfSELECT 1;", ["SELECT 1"]),
        ("SELECT 'é'".encode("utf-16"), ["SELECT 'é'"]),
        ("SELECT 'é'".encode("cp1252"), ["SELECT 'é'"]),
        ("SELECT 'é'".encode(), ["SELECT 'é'"]),
    ],
)
def test_scripts_as_people_keep_them(content, queries):
    assert statements_of(decoded(content)) == queries


BLANKS = "'' in sensor.heat, sensor.seen taken as NULL"
EMPTY = "no rows in the result; on generated rows: equal"
OUTCOMES = [
    # query, status, what its reason says, whether it leaves its rows open
    ("SELECT heat FROM sensor WHERE id < 3", "verified", "'' in sensor.heat taken as NULL", False),
    ("SELECT count(*) FROM sensor WHERE heat > 11", "verified", "'' in sensor.heat taken as NULL", False),
    ("SELECT count(heat) FROM sensor WHERE seen = ''", "verified", BLANKS, False),
    ("SELECT id FROM sensor WHERE name = 'Lima'", "verified", EMPTY, False),
    ("SELECT id FROM sensor WHERE 1 = 2", "unverifiable", f"{EMPTY}, no rows", False),
    ("SELECT name FROM customer ORDER BY age DESC LIMIT 1", "verified", "", False),
    ("SELECT name FROM customer WHERE age = 34 ORDER BY age LIMIT 1", "verified", "", True),
    ("SELECT age FROM customer WHERE age = 34 ORDER BY age LIMIT 1", "verified", "", False),
    ("SELECT name FROM customer ORDER BY city", "verified", "", False),
    ("SELECT * FROM (SELECT name FROM customer WHERE age = 34 ORDER BY age LIMIT 1)", "verified", "", True),
    ("SELECT DISTINCT city FROM customer ORDER BY age DESC", "verified", "", False),
]


def test_what_examples_say_of_their_proof(tmp_path):
    path = make(tmp_path / "shop.sqlite", SCRIPT)
    for query, outcome in convert_script(path, ";".join(query for query, *_ in OUTCOMES), 5)[1]:
        reason = outcome.reason + (convert.GENERATED + outcome.generated if outcome.generated else "")
        assert (query, outcome.status, reason, outcome.open) in OUTCOMES


def test_sums_that_tie_but_for_floating_point(tmp_path):
    rows = "(1, 0.1), (1, 0.2), (2, 0.3), (3, 0.2), (3, 0.05)"
    path = make(tmp_path / "sums.sqlite", f"CREATE TABLE t (k INT, n NUMERIC(10,2)); INSERT INTO t VALUES {rows}")
    query = "SELECT k, rank() OVER (ORDER BY sum(n) DESC) FROM t GROUP BY k ORDER BY k"
    (outcome,) = dict(convert_script(path, query, 5)[1]).values()
    assert (outcome.status, outcome.reason) == ("verified_ties", "sums that are equal but for SQLite's floating point")


def test_the_query_that_generated_rows_prove_is_the_one_that_is_kept(tmp_path):
    """On generated rows the subquery has several, of which SQLite takes the first."""
    script = """
    CREATE TABLE a (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE b (id INTEGER PRIMARY KEY, city TEXT, n INT);
    INSERT INTO a VALUES (1, 'Ann'), (2, 'Bob');
    INSERT INTO b VALUES (1, 'Rome', 5);
    """
    query = "SELECT name FROM a WHERE id > (SELECT n FROM b WHERE city = 'Oslo')"
    (outcome,) = dict(convert_script(make(tmp_path / "ab.sqlite", script), query, 5)[1]).values()
    assert (outcome.status, outcome.generated) == ("verified", "equal")
    assert outcome.postgres == query.replace("'Oslo'", "'Oslo' LIMIT 1")


def test_generated_rows_fit_their_queries(tmp_path):
    script = """
    CREATE TABLE river (name TEXT PRIMARY KEY, length INT, country TEXT);
    CREATE TABLE bridge (id INTEGER PRIMARY KEY, river TEXT REFERENCES river (name), built DATE, width REAL NOT NULL);
    """
    queries = [
        "SELECT name FROM river WHERE country = 'Nowhere' AND length > 750",
        "SELECT b.id FROM river AS r JOIN bridge AS b ON r.name = b.river WHERE r.country LIKE '%land' AND b.width < 3",
        "SELECT name FROM river WHERE name IN (SELECT river FROM bridge WHERE built > '1900-01-01' AND width < 3)",
    ]
    with open_source(make(tmp_path / "empty.sqlite", script)) as source:
        schema = describe(source, "empty")
        made = [fill(source, schema, queries).connection for _ in range(2)]
    for query in queries:
        assert made[0].execute(query).fetchall(), query
    dumps = [list(connection.iterdump()) for connection in made]
    assert dumps[0] == dumps[1]


KEYED = [
    # unique indexes of table t, and a note on what got no rows
    ("CREATE UNIQUE INDEX i ON t (a)", ""),
    ("CREATE UNIQUE INDEX i ON t (b, a)", ""),
    ("CREATE UNIQUE INDEX i ON t (lower(a))", ""),
    ("CREATE UNIQUE INDEX i ON t (a) WHERE b > 2", ""),
    ("CREATE UNIQUE INDEX i ON t (seen)", ""),
    ("CREATE UNIQUE INDEX i ON t (own(a))", "table t: no generated rows, its index i cannot be made here: no such f"),
    (
        f"CREATE UNIQUE INDEX i ON t (instr(hex(zeroblob({10**6})), a))",
        "table t: no generated rows, none obeys its key",
    ),
]


@pytest.mark.parametrize(("index", "note"), KEYED)
def test_generated_rows_obey_unique_indexes(tmp_path, index, note):
    path = tmp_path / "keyed.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("own", 1, lambda value: value, deterministic=True)
        connection.executescript(f"CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INT, seen DATETIME); {index}")
    queries = ["a = 'x'", "a = 'X' AND b = 3", "a = 'x' AND b = 3", "b = 3", "seen = '2020-01-01T10:00:00'"]
    queries += ["seen = '2020-01-01 10:00:00'"]
    schema, outcomes = convert_script(path, ";".join(f"SELECT id FROM t WHERE {q}" for q in queries), 5)
    assert any(text.startswith(note) for text in schema.notes) if note else not schema.notes
    assert {outcome.status for _, outcome in outcomes} == {"unverifiable"}
    assert all(outcome.generated.startswith("equal") for _, outcome in outcomes[:4])


def test_what_a_table_of_postgresql_cannot_hold(tmp_path, monkeypatch):
    """Rows of 12,000 bytes: a database with one is left out with the reason, generated ones prove nothing."""
    wide = f"CREATE TABLE wide ({', '.join(f'c{i} REAL' for i in range(1500))})"
    script = "SELECT c0 FROM wide WHERE c1 > 5"
    _, [(_, outcome)] = convert_script(make(tmp_path / "a.sqlite", wide), script, 5)
    assert (outcome.status, outcome.generated[:49]) == (
        "unverifiable",
        "PostgreSQL cannot hold the database: row is too b",
    )
    path = make(tmp_path / "data/source/database/b/b.sqlite", f"{wide}; INSERT INTO wide VALUES ({'1.5,' * 1499} 1.5)")
    with pytest.raises(UserError, match=r"row is too big.*COPY wide, line"):
        convert_script(path, script, 5)
    make(tmp_path / "data/source/database/public/public.sqlite", "CREATE TABLE t (a INT)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("data: {databases: {samples: 2}}")
    assert "1 databases, 1 left out" in databases.main()
    assert [path.name for path in (tmp_path / "data/postgres/databases").iterdir()] == ["public.sql"]


def test_generated_rows_of_what_sqlite_computes(tmp_path):
    """Views, virtual tables and generated columns get rows of their own; no CHECK is computed."""
    script = """
    CREATE TABLE t (a INT, b TEXT CHECK (instr(hex(zeroblob(2000000)), hex(zeroblob(1000000)) || 'b') = 0));
    CREATE VIEW v AS SELECT a, b FROM t;
    CREATE VIRTUAL TABLE words USING fts5 (body);
    CREATE TABLE g (a INT, twice AS (a * 2));
    """
    queries = ["SELECT a FROM v WHERE b = 'x'", "SELECT a FROM t WHERE b = 'y'", "SELECT body FROM words",
               "SELECT twice FROM g WHERE a = 7"]  # fmt: skip
    with open_source(make(tmp_path / "computed.sqlite", script)) as source:
        filled = fill(source, describe(source, "computed"), queries).connection
    for query in queries:
        assert filled.execute(query).fetchall(), query


def test_the_stages(tmp_path, monkeypatch):
    """Every example has a line; nothing about an unreadable or missing database stops the others."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "data/source"
    make(source / "database/shop/shop.sqlite", SCRIPT)
    make(source / "database/bare/bare.sqlite", "CREATE TABLE t (a INT, b TEXT)")
    (source / "database/bad").mkdir()
    (source / "database/bad/bad.sqlite").write_bytes(b"no database at all")
    examples = [
        ("shop", "SELECT name FROM customer WHERE age > 30"),
        ("shop", "SELECT name FROM customer WHERE age = 34 LIMIT 1"),
        ("shop", "SELECT nothing FROM customer"), ("shop", "SELECT json_array(id) FROM customer"),
        ("bare", "SELECT a FROM t WHERE b = 'x'"), ("bad", "SELECT 1"), ("none", "SELECT 1"),
    ]  # fmt: skip
    rows = [{"db_id": db_id, "question": "?", "query": query} for db_id, query in examples]
    for name, part in (("train_spider", rows[:4]), ("train_others", rows[4:6]), ("dev", rows[6:])):
        (source / f"{name}.json").write_text(json.dumps(part))
    (tmp_path / "params.yaml").write_text("data: {databases: {samples: 2}, convert: {timeout_seconds: 5.0}}")
    assert "2 databases, 1 left out" in databases.main()
    convert.main()
    lines = list(read_jsonl(tmp_path / "data/postgres/examples.jsonl"))
    ids = [*(f"train_spider-{i}" for i in range(4)), "train_others-0", "train_others-1", "dev-0"]
    assert [line["id"] for line in lines] == ids
    statuses = [line["status"] for line in lines]
    assert statuses[0] == "verified"
    assert statuses[1] in ("verified", "verified_ties")
    assert statuses[2:] == ["invalid_source", "rejected", "unverifiable", "missing_database", "missing_database"]
    assert lines[4]["reason"].startswith("no rows in t; on generated rows: equal")
    assert [line["postgres"] is None for line in lines] == [False, False, True, True, False, True, True]
    found = json.loads((tmp_path / "metrics/convert.json").read_text())
    assert found["generated"] == {"examples": 1, "equal": 1, "with_rows": 1}
    counts = (tmp_path / "metrics/plots/conversion.csv").read_text()
    assert counts.startswith("split,status,examples\ntrain_spider,verified,")


def test_the_command(tmp_path):
    path = make(tmp_path / "shop.sqlite", SCRIPT)
    (tmp_path / "q.sql").write_text("SELECT Name FROM Customer WHERE age = '34'; SELECT rowid FROM item;")
    done = CliRunner().invoke(
        app, ["convert", "--sqlite", str(path), str(tmp_path / "q.sql"), "--dump", str(tmp_path / "shop.sql")]
    )
    assert done.exit_code == 1
    assert "SELECT name FROM customer WHERE age = 34;\n-- verified\n" in done.output
    assert "-- rejected: rowid: PostgreSQL's rows have no number" in done.output
    assert "1 of 2 proven" in done.output
    assert (tmp_path / "shop.sql").read_text().count("CREATE TABLE") == 6


def test_the_command_spoils_nothing_and_says_why(tmp_path):
    path = make(tmp_path / "shop.sqlite", SCRIPT)
    script = tmp_path / "q.sql"
    script.write_text("SELECT 1;")
    before = path.read_bytes()
    for arguments, said in [
        ([script, "--sqlite", path, "--dump", path], "is what is read"),
        ([script, "--sqlite", path, "--dump", script], "is what is read"),
        ([script, "--sqlite", tmp_path], "is no file"),
        ([script, "--sqlite", script], "file is not a database"),
        ([path, "--sqlite", path], "is no text"),
    ]:
        done = CliRunner().invoke(app, ["convert", *map(str, arguments)])
        assert isinstance(done.exception, UserError), arguments
        assert said in str(done.exception)
    assert (path.read_bytes(), script.read_text()) == (before, "SELECT 1;")


def defective(tree):
    """A rule that does not know what it got."""
    return tree.expressions[5]


def test_a_defect_of_ours_is_reported_as_one(tmp_path, monkeypatch, caplog):
    """The query is left out, and log, message and exit code say why."""
    path = make(tmp_path / "shop.sqlite", SCRIPT)
    failing = functools.partial(convert_tree, rules=(*RULES, defective))
    monkeypatch.setattr("text2sql.conversion.examination.convert_tree", failing)
    (tmp_path / "q.sql").write_text("SELECT name FROM customer;")
    done = CliRunner().invoke(app, ["convert", "--sqlite", str(path), str(tmp_path / "q.sql")])
    assert done.exit_code == 1
    assert "-- rejected: defect: the rule defective failed: IndexError" in done.output
    assert "1 failed by a defect of the conversion" in done.output
    assert "Traceback" in caplog.text


def test_a_defect_ends_the_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert, "read_params", lambda: {"data": {"convert": {"timeout_seconds": 5.0}}})
    row = {"id": "dev-0", "status": "rejected", "reason": f"{DEFECT}the rule names failed: KeyError", "postgres": None}
    monkeypatch.setattr(convert, "converted", lambda options: [row])
    with pytest.raises(UserError, match="failed on dev-0"):
        convert.main()
    assert json.loads((tmp_path / "data/postgres/examples.jsonl").read_text()) == row


def test_a_signal_is_not_taken_for_a_timeout(tmp_path):
    """sqlite3 swallows what a signal's handler raises amid a query."""
    make(tmp_path / "shop.sqlite", SCRIPT)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as source, pytest.raises(KeyboardInterrupt):
            run_sqlite(source, ENDLESS, 10)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_conversion_needs_no_model(tmp_path):
    """The command and the tests of this folder import neither torch nor anything of text2sql.model."""
    path = make(tmp_path / "shop.sqlite", SCRIPT)
    (tmp_path / "q.sql").write_text("SELECT name FROM customer;")
    script = f"""
import sys
from typer.testing import CliRunner
from tests.conversion import test_conversion, test_databases, test_dialect
from text2sql.cli import app
done = CliRunner().invoke(app, ["convert", "--sqlite", {str(path)!r}, {str(tmp_path / "q.sql")!r}])
assert "verified" in done.output, done.output
print([name for name in sys.modules if name.split(".")[0] in ("torch", "transformers") or "text2sql.model" in name])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_column_of_numbers_and_texts_in_arithmetic(tmp_path):
    script = "CREATE TABLE w (d TEXT, heat REAL); INSERT INTO w VALUES ('a', -3.5), ('b', 12.9), ('c', 'n/a'), ('e', 7)"
    queries = "SELECT d FROM w ORDER BY heat + 0; SELECT sum(heat) FROM w; SELECT d FROM w WHERE heat + 0 > 12.5"
    _, outcomes = convert_script(make(tmp_path / "w.sqlite", script), queries, 10)
    assert [outcome.status for _, outcome in outcomes] == ["verified"] * 3


def test_texts_in_a_query_of_numbers(tmp_path):
    script = "CREATE TABLE a (c TEXT); CREATE TABLE b (n INT);"
    script += "INSERT INTO a VALUES ('1'), ('07'), ('x'); INSERT INTO b VALUES (1)"
    queries = "SELECT c FROM a WHERE c IN (SELECT n FROM b)"
    _, outcomes = convert_script(make(tmp_path / "a.sqlite", script), queries, 10)
    assert outcomes[0][1].status == "verified"
