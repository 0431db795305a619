"""SQLite databases in PostgreSQL: types, names, keys and every kind of bad input."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from text2sql.conversion.databases import describe, open_source, probe, write_dump
from text2sql.conversion.databases.dump import write_lines
from text2sql.conversion.engines import connect_as_text
from text2sql.conversion.rows_check import differences
from text2sql.errors import UserError
from text2sql.postgres.load import load_dump
from text2sql.postgres.server import server


@pytest.fixture(scope="module")
def postgres():
    with server() as running:
        yield running


def make(path: Path, script: str) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()
    return path


def convert(postgres, path: Path, name: str):
    """Describe, dump, load and compare; returns the schema."""
    with open_source(path) as source:
        schema = describe(source, name)
        write_dump(source, schema, path.with_suffix(".sql"))
        load_dump(postgres, path.with_suffix(".sql"), name)
        with connect_as_text(postgres.dsn(name)) as connection:
            assert differences(source, schema, connection) == []
    return schema


TYPES = [
    # declared, values, PostgreSQL's type
    ("INTEGER", [1, None, -5], "integer"),
    ("INT", [2**40], "bigint"),
    ("INTEGER", [1, "x", ""], "text"),
    ("INTEGER", [1, 2.5], "double precision"),
    ("REAL", [1, 2.5], "double precision"),
    ("REAL", [float("inf"), 1.5], "double precision"),
    ("DECIMAL(10,2)", [1, 2.5], "numeric"),
    ("DECIMAL(10,2)", [1, 2], "numeric"),
    ("NUMBER(4)", [1, 2], "integer"),
    ("BOOLEAN", [0, 1, None], "boolean"),
    ("BOOLEAN", [0, 2], "integer"),
    ("BOOLEAN", ["T", "F"], "text"),
    ("DATE", ["2020-02-29", None], "date"),
    ("DATE", ["2021-02-29"], "text"),
    ("DATE", ["0000-00-00"], "text"),
    ("DATE", ["2020-2-9"], "text"),
    ("TEXT", ["2020-02-29"], "date"),
    # a blank beside values that are all numbers, dates or booleans is NULL
    ("INTEGER", [1, "", 3], "integer"),
    ("NUMERIC", [10.5, ""], "numeric"),
    ("BOOLEAN", [0, 1, ""], "boolean"),
    ("TEXT", ["2020-02-29", ""], "date"),
    ("INTEGER", ["", ""], "text"),
    ("VARCHAR(10)", ["12", ""], "text"),
    ("DATETIME", ["2020-02-29 10:00:00"], "timestamp"),
    ("DATETIME", ["2020-02-29 10:00:00.25"], "timestamp"),
    ("DATETIME", ["2020-02-29 10:00:00.250"], "timestamp"),
    ("DATETIME", ["2020-02-29T10:00:00Z", "2020-02-29 10:00:00.120000"], "timestamp"),
    ("DATETIME", ["2020-02-29T10:00:00+02:00"], "text"),
    ("TIME", ["10:00:00.500"], "time"),
    ("DATETIME", ["2020-02-29 10:00"], "text"),
    ("DATETIME", ["2020-02-29 25:00:00"], "text"),
    ("TIME", ["23:59:59"], "time"),
    ("DATETIME", ["2020-02-29"], "date"),
    ("VARCHAR(10)", ["12", "7"], "text"),
    ("BLOB", [b"\x00\xff"], "bytea"),
    ("BLOB", [b"abc", "text"], "text"),
    ("", [1, 2], "integer"),
    ("", ["a"], "text"),
    ("INT", [], "integer"),
    ("DATETIME", [], "timestamp"),
    ("VARCHAR(3)", [None], "text"),
    ("DECIMAL(10,2)", [], "numeric"),
    ("BOOL", [], "boolean"),
]


def test_types_hold_declaration_and_values(postgres, tmp_path):
    path = tmp_path / "types.sqlite"
    with sqlite3.connect(path) as connection:
        for number, (declared, values, _) in enumerate(TYPES):
            connection.execute(f"CREATE TABLE t{number} (c {declared})")
            connection.executemany(f"INSERT INTO t{number} VALUES (?)", [(v,) for v in values])
    schema = convert(postgres, path, "types")
    found = [
        (declared, values, table.columns[0].type)
        for (declared, values, _), table in zip(TYPES, schema.tables, strict=True)
    ]
    assert found == TYPES
    assert [table.rows for table in schema.tables] == [len(values) for _, values, _ in TYPES]


BAD_ROWS = [
    # script, table.column type, a word of the note, the rows that PostgreSQL has
    (
        "CREATE TABLE t (a TEXT); INSERT INTO t VALUES (CAST(x'e9' AS TEXT)), ('ok')",
        "text", "not UTF-8", [("é",), ("ok",)],
    ),
    (
        "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('a' || char(0) || 'b')",
        "text", "NUL", [("a\ufffdb",)],
    ),
    (
        "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (9223372036854775807), (-9223372036854775808)",
        "bigint", "", [(2**63 - 1,), (-(2**63),)],
    ),
    (
        "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (123456789012345678901234567890)",
        "double precision", "", [(1.2345678901234568e29,)],
    ),
    (
        "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('123456789012345678901234567890')",
        "text", "", [("123456789012345678901234567890",)],
    ),
    (
        "CREATE TABLE t (a REAL); INSERT INTO t VALUES (9e999), (-9e999), (1.5)",
        "double precision", "", [(float("inf"),), (float("-inf"),), (1.5,)],
    ),
    (
        "CREATE TABLE t (a TEXT PRIMARY KEY); INSERT INTO t VALUES (NULL), (NULL), ('x')",
        "text", "primary key (a) not enforced, it holds NULL", [(None,), (None,), ("x",)],
    ),
    (
        "CREATE TABLE t (a TEXT PRIMARY KEY); INSERT INTO t VALUES ('x'), (x'78')",
        "text", "primary key (a) not enforced, duplicate (x)", [("x",), ("x",)],
    ),
    (
        "CREATE TABLE t (a TEXT); CREATE UNIQUE INDEX i ON t (a); INSERT INTO t VALUES ('x'), (x'78')",
        "text", "unique (a) not enforced", [("x",), ("x",)],
    ),
    (
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (a INT REFERENCES p (id));"
        "INSERT INTO t VALUES (5), (NULL)",
        "integer", "1 values are not there", [(5,), (None,)],
    ),
    (
        "CREATE TABLE p (id INTEGER); CREATE TABLE t (a INT REFERENCES p (id)); INSERT INTO t VALUES (5)",
        "integer", "id is no key there", [(5,)],
    ),
    (
        "CREATE TABLE t (a INT REFERENCES nowhere (id)); INSERT INTO t VALUES (5)",
        "integer", "does not exist", [(5,)],
    ),
    (
        "CREATE TABLE t (a INT, b INT AS (a * 2)); INSERT INTO t (a) VALUES (5)",
        "integer", "generated in SQLite", [(5, 10)],
    ),
    (
        f"CREATE TABLE t (a TEXT PRIMARY KEY); INSERT INTO t VALUES ('{'x' * 2601}')",
        "text", "primary key (a) not enforced, a value is longer than the 2,600 bytes", [("x" * 2601,)],
    ),
    (
        "CREATE TABLE t (a DATE); INSERT INTO t VALUES ('tab\tline\nback\\slash')",
        "text", "declared DATE", [("tab\tline\nback\\slash",)],
    ),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_ROWS)))
def test_no_row_is_lost_and_what_differs_is_noted(postgres, tmp_path, number):
    script, kind, note, rows = BAD_ROWS[number]
    schema = convert(postgres, make(tmp_path / "bad.sqlite", script), f"bad{number}")
    assert schema.table("t").columns[0].type == kind
    assert any(note in text for text in schema.notes) if note else not schema.notes
    with connect_as_text(postgres.dsn(f"bad{number}")) as connection:
        assert connection.execute("SELECT * FROM t").fetchall() == rows


def test_keys_of_every_kind(postgres, tmp_path):
    """One type along a foreign key; circles and references to oneself load; psql loads the dump as well."""
    script = """
    CREATE TABLE a (id INTEGER PRIMARY KEY, b_id TEXT REFERENCES b, boss INT REFERENCES a (id));
    CREATE TABLE b (id TEXT PRIMARY KEY, a_id INT REFERENCES a (id), one INT, two INT, UNIQUE (one, two));
    CREATE TABLE c (
        x TEXT REFERENCES a (id), one INT NOT NULL, two INT, FOREIGN KEY (one, two) REFERENCES b (one, two)
    );
    INSERT INTO a VALUES (1, 'k', 2), (2, NULL, 1);
    INSERT INTO b VALUES ('k', 2, 7, 8);
    INSERT INTO c VALUES ('1', 7, 8), ('2', 7, NULL);
    """
    path = make(tmp_path / "keys.sqlite", script)
    schema = convert(postgres, path, "keys")
    types = {f"{t.name}.{c.name}": c.type for t in schema.tables for c in t.columns}
    assert (types["c.x"], types["a.id"], types["a.b_id"]) == ("bigint", "bigint", "text")
    assert [(k.columns, k.referred_table, k.enforced) for t in schema.tables for k in t.foreign_keys] == [
        (("b_id",), "b", True), (("boss",), "a", True), (("a_id",), "a", True),
        (("x",), "a", True), (("one", "two"), "b", True),
    ]  # fmt: skip
    with connect_as_text(postgres.dsn("keys")) as connection:
        query = "SELECT contype, count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace GROUP BY 1"
        found = connection.execute(query)
        counts = dict(found.fetchall())
        assert (counts["f"], counts["p"], counts["u"]) == (5, 2, 1)
    postgres.create_database("by_psql")
    command = [postgres.binaries / "psql", postgres.dsn("by_psql"), "-q", "-v", "ON_ERROR_STOP=1", "-f"]
    done = subprocess.run([*command, path.with_suffix(".sql")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("key", "other"), [(12345678, 12345679), (1700000000, 1700001600)])
def test_another_key_is_a_difference(postgres, tmp_path, key, other):
    """Integers are compared exactly, however near they are."""
    path = make(tmp_path / "key.sqlite", f"CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES ({key})")
    schema = convert(postgres, path, f"key{key}")
    with open_source(path) as source, connect_as_text(postgres.dsn(f"key{key}")) as connection:
        connection.execute(f"UPDATE t SET id = {other}")
        assert differences(source, schema, connection) == [f"t: ({key},) in SQLite, ({other},) in PostgreSQL"]


def test_names_are_lower_case_short_and_apart(postgres, tmp_path):
    long = "N" * 70
    script = f"""
    CREATE TABLE "{long}1" (Id INT, "Total Points" INT, "Order" INT, xmin INT, "é" INT, "{long}a" INT, "{long}b" INT);
    CREATE TABLE "{long}2" (a INT);
    CREATE TABLE "Select" ("a""b" INT);
    INSERT INTO "{long}1" VALUES (1, 2, 3, 4, 5, 6, 7);
    """
    schema = convert(postgres, make(tmp_path / "names.sqlite", script), "names")
    assert [table.name for table in schema.tables] == ["n" * 63, "n" * 61 + "_2", "select"]
    names = ["id", "total points", "order", "xmin_2", "é", "n" * 63, "n" * 61 + "_2"]
    assert [column.name for column in schema.tables[0].columns] == names
    assert schema.tables[2].columns[0].name == 'a"b'
    assert sum("named" in note for note in schema.notes) == 5


def test_names_that_postgresql_has_itself(postgres, tmp_path):
    """Catalog tables, the indexes of keys, and what a script of statements would end at."""
    script = """
    CREATE TABLE a (id INTEGER PRIMARY KEY, b INT UNIQUE); INSERT INTO a VALUES (1, 2);
    CREATE TABLE a_pkey (c INT); CREATE TABLE a_b_key (c INT PRIMARY KEY); INSERT INTO a_b_key VALUES (5);
    CREATE TABLE PG_Class (relname TEXT, pg_x INT); INSERT INTO pg_class VALUES ('r', 3);
    CREATE TABLE _PG_Class (a INT); INSERT INTO _pg_class VALUES (6);
    CREATE TABLE "x;\n" ("%s;\n" INT); INSERT INTO "x;\n" VALUES (4);
    """
    schema = convert(postgres, make(tmp_path / "own.sqlite", script), "public")
    assert [table.name for table in schema.tables] == ["a", "a_pkey", "a_b_key", "_pg_class", "_pg_class_2", "x;_"]
    assert "table PG_Class: named _pg_class" in schema.notes


def test_views_and_virtual_tables_become_tables(postgres, tmp_path):
    script = """
    CREATE TABLE t (a INT);
    INSERT INTO t VALUES (1), (2);
    CREATE VIEW doubled AS SELECT a * 2 AS d FROM t;
    CREATE VIEW broken AS SELECT absent FROM t;
    CREATE VIEW chance AS SELECT a, random() AS r FROM t;
    CREATE VIRTUAL TABLE words USING fts5 (body);
    INSERT INTO words VALUES ('hello');
    """
    schema = convert(postgres, make(tmp_path / "views.sqlite", script), "views")
    kinds = {table.name: (table.kind, table.rows) for table in schema.tables}
    assert kinds == {"t": ("table", 2), "doubled": ("view", 2), "chance": ("view", 2), "words": ("virtual", 1)}
    notes = " | ".join(schema.notes)
    assert "broken: left out" in notes
    assert "doubled: carried over as a table" in notes
    assert "words: carried over as a table" in notes


def test_blanks_of_a_key_are_null(postgres, tmp_path):
    """As keys and references too; the note says how many there were."""
    script = """
    CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1), (2);
    CREATE TABLE t (p INTEGER REFERENCES p (id), code INT UNIQUE, n INT NOT NULL);
    INSERT INTO t VALUES (1, 7, 1), ('', '', ''), (2, 8, '');
    """
    schema = convert(postgres, make(tmp_path / "blanks.sqlite", script), "blanks")
    table = schema.table("t")
    for column in table.columns:
        assert (column.type, column.blanks_are_null, column.has_nulls, column.not_null) == (
            "integer",
            True,
            True,
            False,
        )
    assert table.foreign_keys[0].enforced
    assert table.columns[1].unique
    assert "column t.n: 2 empty texts, NULL in PostgreSQL" in schema.notes
    with connect_as_text(postgres.dsn("blanks")) as connection:
        assert connection.execute("SELECT * FROM t").fetchall() == [(1, 7, 1), (None, None, None), (2, 8, None)]


#: a loop in C, which looks at no interrupt
SPIN = "instr(hex(zeroblob(2000000)), hex(zeroblob(1000000)) || 'b')"
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
VIEW = f"CREATE TABLE t (a); CREATE VIEW v AS {ENDLESS}"
MISSING = [
    # what is not to be had in a file (what an application has, or an end), and the note; table t with column a is left
    ("CREATE TABLE t (a INT, b INT AS (own(a)))", "column t.b: left out"),
    ("CREATE TABLE t (a INT); CREATE INDEX i ON t (own(a))", ""),
    ("CREATE TABLE t (a INT CHECK (own(a) > 0))", ""),
    ("CREATE TABLE t (a INT); CREATE VIEW v AS SELECT own(a) AS b FROM t", "view v: left out"),
    ("CREATE TABLE t (a TEXT COLLATE own); CREATE UNIQUE INDEX i ON t (a)", "the order of OWN"),
    ("CREATE TABLE t (a); CREATE TABLE u (b TEXT COLLATE own PRIMARY KEY) WITHOUT ROWID", "table u: left out"),
    (f"{VIEW} SELECT i FROM n", "view v: left out, it cannot be read: no end"),
    (f"{VIEW} SELECT count(*) FROM n", "view v: left out, it cannot be read: no end"),
    ("CREATE TABLE t (a INT, b AS (hex(zeroblob(a)))); INSERT INTO t (a) VALUES (3000000)", "column t.b: left out"),
    (f"CREATE TABLE t (a INT); INSERT INTO t VALUES (3); ALTER TABLE t ADD b AS ({SPIN})", "column t.b: left out"),
    (f"CREATE TABLE t (a INT CHECK ({SPIN})); PRAGMA ignore_check_constraints = 1; INSERT INTO t VALUES (3)", ""),
    (f"CREATE TABLE t (a INT); CREATE VIEW v AS SELECT {SPIN}", "view v: left out, it cannot be read: no end"),
]


@pytest.mark.parametrize(("script", "note"), MISSING)
def test_only_what_cannot_be_read_is_left_out_by_name(tmp_path, monkeypatch, script, note):
    monkeypatch.setattr("text2sql.conversion.databases.probe.MOST_SECONDS", 0.2)
    path = tmp_path / "own.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("own", 1, lambda value: (value or 0) + 1, deterministic=True)
        connection.create_collation("own", lambda a, b: (a > b) - (a < b))
        connection.executescript(script)
        connection.commit()
    with open_source(path) as source:
        schema = describe(source, "own")
    assert [(table.name, [column.name for column in table.columns]) for table in schema.tables] == [("t", ["a"])]
    assert any(note in text for text in schema.notes) if note else not schema.notes


def test_a_dump_never_replaces_a_pipe_or_a_link(tmp_path):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t (a INT); INSERT INTO t VALUES (5)")
    pipe, link, target = (tmp_path / name for name in ("pipe", "link", "target.sql"))
    os.mkfifo(pipe)
    link.symlink_to(target)
    with open_source(path) as source, ThreadPoolExecutor() as pool:
        schema = describe(source, "a")
        read = pool.submit(pipe.read_text)
        write_dump(source, schema, pipe)
        write_dump(source, schema, link)
        write_dump(source, schema, tmp_path / "new" / "plain.sql")
        with pytest.raises(UserError, match="cannot be written"):
            write_dump(source, schema, tmp_path / "target.sql" / "below.sql")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert read.result() == target.read_text() == (tmp_path / "new" / "plain.sql").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.sqlite", "link", "new", "pipe", "target.sql"]


def test_a_pipe_that_nobody_reads_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("text2sql.conversion.databases.dump.READER_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="nobody reads it"):
        write_lines(tmp_path / "pipe", ["x"])
    assert (tmp_path / "pipe").is_fifo()


def test_an_empty_file_is_a_database_without_tables(postgres, tmp_path):
    path = tmp_path / "empty.sqlite"
    path.touch()
    assert convert(postgres, path, "empty").tables == ()


@pytest.mark.parametrize("damage", ["cut", "text", "page"])
def test_a_damaged_file_is_a_user_error_that_names_it(tmp_path, damage):
    rows = "".join(f"INSERT INTO t VALUES ('{'x' * 300}{i}');" for i in range(200))
    path = make(tmp_path / "damaged.sqlite", f"CREATE TABLE t (a TEXT); {rows}")
    content = path.read_bytes()
    overwritten = content[:4096] + b"\7" * 8192 + content[12288:]
    path.write_bytes({"cut": content[: len(content) // 2], "text": b"no database", "page": overwritten}[damage])
    with pytest.raises(UserError, match=r"damaged\.sqlite"), open_source(path) as source:
        describe(source, "damaged")


def test_a_locked_file_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr("text2sql.conversion.databases.sqlite.LOCK_SECONDS", 0.1)
    path = make(tmp_path / "locked.sqlite", "CREATE TABLE t (a)")
    with closing(sqlite3.connect(path)) as owner:
        owner.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="locked"), open_source(path):
            pass


def look(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("state", ["closed", "open", "ended", "rollback"])
def test_nothing_beside_the_file_changes(tmp_path, state, monkeypatch):
    """In WAL mode the log is read too, also where its program ended without closing the file."""
    made, folder, copies = tmp_path / "made", tmp_path / "folder", tmp_path / "copies"
    made.mkdir()
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    with closing(sqlite3.connect(made / "a.sqlite")) as owner:
        owner.execute(f"PRAGMA journal_mode = {'DELETE' if state == 'rollback' else 'WAL'}")
        owner.execute("PRAGMA wal_autocheckpoint = 0")
        owner.executescript("CREATE TABLE t (a INT); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT a FROM t")
        if state in ("open", "ended"):
            shutil.copytree(made, folder, ignore=shutil.ignore_patterns("*-shm") if state == "ended" else None)
    if not folder.exists():
        shutil.copytree(made, folder)
    before = look(folder)
    with open_source(folder / "a.sqlite") as source:
        assert [table.rows for table in describe(source, "a").tables] == [1, 1]
        assert look(folder) == before
    assert look(folder) == before


def test_names_that_are_not_utf8(tmp_path):
    """SQLite would take such a column's name for a text, and each of its values would be that."""
    path = make(tmp_path / "a.sqlite", "CREATE TABLE tQ (a INT, cQ INT); INSERT INTO tQ VALUES (1, 2)")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"cQ", b"c\xe9"))
    with open_source(path) as source:
        schema = describe(source, "a")
    assert (schema.tables, schema.notes) == ((), ("table tQ: left out, it cannot be read: no such column: t.cé",))
    path.write_bytes(content.replace(b"tQ", b"t\xe9"))
    with pytest.raises(UserError, match="a table whose name is not UTF-8"), open_source(path):
        pass


def test_a_file_left_amid_a_change(tmp_path):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t (a TEXT)")
    (tmp_path / "copy").mkdir()
    with closing(sqlite3.connect(path)) as owner:
        owner.executescript("PRAGMA cache_size = 1; BEGIN; INSERT INTO t VALUES (hex(zeroblob(100000)))")
        for name in ("a.sqlite", "a.sqlite-journal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    before = look(tmp_path / "copy")
    with pytest.raises(UserError, match="left amid a change"), open_source(tmp_path / "copy/a.sqlite"):
        pass
    assert look(tmp_path / "copy") == before


@pytest.mark.parametrize(
    "query",
    [
        "ATTACH 'b.sqlite' AS b", "DETACH main", "PRAGMA writable_schema = ON", "PRAGMA journal_mode = WAL",
        "CREATE TEMP TABLE u AS SELECT 1", "CREATE TABLE u (a)", "INSERT INTO t VALUES (1)", "DELETE FROM t", "VACUUM",
        "SELECT load_extension('x')", "SELECT fts3_tokenizer('simple')", "SELECT * FROM pragma_database_list", "BEGIN",
    ],
)  # fmt: skip
def test_a_file_is_only_read(tmp_path, query):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t (a INT)")
    before = look(tmp_path)
    with closing(probe.reading_connection(path)) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute(query).fetchall()
    assert probe.try_query(path, query, 5).error
    assert look(tmp_path) == before


def test_virtual_tables_are_read(tmp_path):
    """Those that SQLite prepares changes for when it reads them."""
    script = "CREATE VIRTUAL TABLE r USING rtree (id, x0, x1); INSERT INTO r VALUES (1, 2, 3);"
    script += "CREATE VIRTUAL TABLE f USING fts4 (x); INSERT INTO f VALUES ('a')"
    with open_source(make(tmp_path / "a.sqlite", script)) as source:
        assert {t.name: t.rows for t in describe(source, "a").tables} == {"r": 1, "f": 1}


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="missing"), open_source(tmp_path / "none.sqlite"):
        pass


def test_the_same_source_gives_the_same_bytes(tmp_path):
    path = make(tmp_path / "same.sqlite", "CREATE TABLE t (a REAL); INSERT INTO t VALUES (0.1), (1e22), (5)")
    dumps = []
    for number in range(2):
        with open_source(path) as source:
            write_dump(source, describe(source, "same"), tmp_path / f"{number}.sql")
        dumps.append((tmp_path / f"{number}.sql").read_bytes())
    assert dumps[0] == dumps[1]
    assert b"0.1\n1e+22\n5\n" in dumps[0]


@pytest.mark.parametrize(
    "definition",
    [
        "(name TEXT PRIMARY KEY COLLATE NOCASE) WITHOUT ROWID",
        "(name TEXT COLLATE NOCASE) STRICT",
        "(name TEXT COLLATE NOCASE UNIQUE ON CONFLICT REPLACE)",
        "(name TEXT COLLATE NOCASE, n UNSIGNED BIG INT)",
        "(name TEXT COLLATE NOCASE, n INT CHECK (missing(n)))",
    ],
)
def test_a_collation_is_found_however_the_table_is_declared(tmp_path, definition):
    path = make(tmp_path / "a.sqlite", "PRAGMA user_version = 1")
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("missing", 1, lambda n: 1, deterministic=True)
        connection.execute(f"CREATE TABLE t {definition}")
        connection.commit()
    with open_source(path) as source:
        (table,) = describe(source, "a").tables
    assert table.columns[0].collation == "NOCASE"
