"""Schema files: one table of cases, `text -> the prompt's DDL`, and what is said of those that cannot be read."""

import threading
import time

import pytest

from tests.schemas import parse, running
from text2sql.ask.schema_file import LARGEST, parse_schema, schema_text
from text2sql.errors import UserError
from text2sql.postgres.script import script_statements
from text2sql.postgres.server import Server
from text2sql.schema import Table, quote


def shown(text: str) -> str:
    """The schema, one line a table: columns with their types, keys, and what they refer to."""
    return "\n".join(map(line, parse(text).tables))


def line(table: Table) -> str:
    targets = {
        name: f" -> {quote(key.referred_table)}.{quote(referred)}"
        for key in table.foreign_keys
        for name, referred in zip(key.columns, key.referred_columns, strict=True)
    }
    columns = (
        f"{quote(c.name)} {c.type}" + (" key" if c.name in table.primary_key else "") + targets.get(c.name, "")
        for c in table.columns
    )
    return f"{quote(table.name)}({', '.join(columns)})"


CASES = {
    "postgres": (
        """CREATE TABLE Customers (id serial PRIMARY KEY, name varchar(40) NOT NULL, since timestamptz DEFAULT now());
           CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                                customer_id int REFERENCES customers (id) ON DELETE CASCADE, total numeric(10, 2));""",
        "customers(id integer key, name text, since timestamptz)\n"
        "orders(id bigint key, customer_id integer -> customers.id, total numeric)",
    ),
    "pg_dump": (
        """SET statement_timeout = 0;
           SELECT pg_catalog.set_config('search_path', '', false);
           CREATE TYPE public.mood AS ENUM ('good', 'bad');
           CREATE FUNCTION public.f() RETURNS int AS $$ CREATE TABLE no (a int); $$ LANGUAGE sql;
           CREATE TABLE public.orders (id integer NOT NULL, customer_id integer, mood public.mood);
           CREATE TABLE public.customers (id integer NOT NULL, name text);
COPY public.customers (id, name) FROM stdin;
1\tCREATE TABLE x (a int); '
\\.
           CREATE INDEX i ON public.orders USING btree (id);
           ALTER TABLE ONLY public.customers ADD CONSTRAINT customers_pkey PRIMARY KEY (id);
           ALTER TABLE ONLY public.orders ADD CONSTRAINT f FOREIGN KEY (customer_id) REFERENCES public.customers(id);
           ALTER TABLE public.orders OWNER TO someone;""",
        "orders(id integer, customer_id integer -> customers.id, mood text)\ncustomers(id integer key, name text)",
    ),
    "quoted names keep their case": (
        'CREATE TABLE "Order Lines" ("Id" int PRIMARY KEY, "order" int, Plain int)',
        '"Order Lines"("Id" integer key, "order" integer, plain integer)',
    ),
    "composite keys": (
        """CREATE TABLE a (x int, y int, PRIMARY KEY (x, y));
           CREATE TABLE b (x int, y int, FOREIGN KEY (x, y) REFERENCES a);""",
        "a(x integer key, y integer key)\nb(x integer -> a.x, y integer -> a.y)",
    ),
    "mysql": (
        """CREATE TABLE `Users` (`Id` int(11) unsigned NOT NULL AUTO_INCREMENT, `kind` enum('a','b') DEFAULT 'a',
           `at` datetime, PRIMARY KEY (`Id`), KEY `k` (`kind`)) ENGINE=InnoDB COMMENT='(x)';
           CREATE TABLE `posts` (`id` int, `by` int, CONSTRAINT `c` FOREIGN KEY (`by`) REFERENCES `Users` (`Id`));""",
        "users(id integer key, kind text, at timestamp)\nposts(id integer, by integer -> users.id)",
    ),
    "sqlite": (
        """CREATE TABLE IF NOT EXISTS [Track] ([TrackId] INTEGER PRIMARY KEY AUTOINCREMENT, Name NVARCHAR(200), x,
           FOREIGN KEY (x) REFERENCES Album) WITHOUT ROWID;
           CREATE TABLE Album (AlbumId INTEGER PRIMARY KEY)""",
        "track(trackid integer key, name text, x text -> album.albumid)\nalbum(albumid integer key)",
    ),
    "columns that ALTER TABLE adds": (
        """CREATE TABLE regions (id int PRIMARY KEY); CREATE TABLE customers (id int PRIMARY KEY, old text);
           ALTER TABLE customers ADD COLUMN region_id int REFERENCES regions (id), DROP COLUMN old;
           ALTER TABLE customers RENAME id TO number; CREATE TABLE gone (a int); DROP TABLE gone;""",
        "regions(id integer key)\ncustomers(number integer key, region_id integer -> regions.id)",
    ),
    "rows behind COPY with options": (
        "CREATE TABLE a (name text);\nCOPY a FROM stdin DELIMITER '|';\nCote d'Ivoire|CI\n\\.\nCREATE TABLE b (x int);",
        "a(name text)\nb(x integer)",
    ),
    "domains, enums and their arrays": (
        """CREATE DOMAIN year AS integer CHECK (VALUE > 1900); CREATE DOMAIN recent AS year;
           CREATE TYPE mood AS ENUM ('a');
           CREATE TABLE film (released recent, moods mood[], span interval(6), words tsvector, flags bit(3));""",
        "film(released integer, moods text[], span interval, words tsvector, flags bit varying)",
    ),
    "types of extensions": (
        "CREATE TABLE t (a geography(Point, 4326), b extensions.citext, c vector(3), d public.geometry[]);",
        "t(a text, b text, c text, d text[])",
    ),
    "inheritance": (
        """CREATE TABLE cities (name text); CREATE TABLE capitals (state char(2)) INHERITS (cities);
           CREATE TABLE old_cities (CHECK (name > 'a')) INHERITS (cities);""",
        "cities(name text)\ncapitals(name text, state text)",
    ),
    "partitions": (
        """CREATE TABLE e (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at);
           CREATE TABLE e_1 (id bigint, at timestamptz NOT NULL);
           ALTER TABLE ONLY e ATTACH PARTITION e_1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');""",
        "e(id bigint, at timestamptz)",
    ),
    "one name in two schemas": (
        """CREATE TABLE sales.person (id int PRIMARY KEY, quota numeric); CREATE TABLE hr.person (id int PRIMARY KEY);
           CREATE TABLE sales.orders (person_id int REFERENCES sales.person (id));""",
        "sales_person(id integer key, quota numeric)\nhr_person(id integer key)\n"
        "orders(person_id integer -> sales_person.id)",
    ),
    "LIKE, views, generated columns, circles": (
        """CREATE TABLE a (id serial PRIMARY KEY, b_id int REFERENCES b (id), n int,
                           twice int GENERATED ALWAYS AS (n * 2) VIRTUAL);
           CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a (id) NOT DEFERRABLE);
           CREATE TABLE c (LIKE b); CREATE VIEW v AS SELECT n FROM a;""",
        "a(id integer key, b_id integer -> b.id, n integer, twice integer)\nb(id integer key, a_id integer -> a.id)\n"
        "c(id integer, a_id integer)\nv(n integer)",
    ),
    "types of extensions in a dump": (
        """CREATE TABLE public.p (id bigint, at public.geography(Point,4326), e public.vector(3));
           ALTER TABLE ONLY public.p ADD PRIMARY KEY (id);""",
        "p(id bigint key, at text, e text)",
    ),
    "defaults, CHECKs and generated columns that call an extension": (
        """create table notes (id uuid default extensions.uuid_generate_v4() primary key, n int check (f(n)) not null);
           CREATE TABLE places (id serial, lon float, g geometry(Point) GENERATED ALWAYS AS (ST_Point(lon, 0)) STORED,
               owner uuid REFERENCES auth.users NOT NULL DEFAULT auth.uid(), PRIMARY KEY (id));
           ALTER TABLE notes ADD place int REFERENCES places;""",
        "notes(id uuid key, n integer, place integer -> places.id)\n"
        "places(id integer key, lon double precision, g text, owner uuid)",
    ),
    "clauses that our server does not have": (
        """CREATE TABLE a (id int PRIMARY KEY, name text COLLATE "xx_YY.utf8", n int DEFAULT nextval('s')) TABLESPACE x;
           CREATE TABLE b (id int, r tstzrange, room int, EXCLUDE USING gist (room WITH =, r WITH &&)) USING columnar;
           CREATE TABLE c (a_id int REFERENCES a (id), t text ENCODE zstd) WITH (own = 3) DISTKEY (a_id);
           CREATE FOREIGN TABLE d (id int OPTIONS (key 'true')) SERVER s;""",
        "a(id integer key, name text, n integer)\nb(id integer, r tstzrange, room integer)\n"
        "c(a_id integer -> a.id, t text)\nd(id integer)",
    ),
    "mysql's clauses that its parser does not know": (
        """CREATE TABLE `a` (`id` int(11) unsigned NOT NULL, `p` decimal(8,2) unsigned zerofill, KEY `k` (`p`(4)),
           PRIMARY KEY (`id`));
           CREATE TABLE jobs (id NUMBER, a NUMBER(6) REFERENCES a (id), CONSTRAINT j PRIMARY KEY (id) ENABLE);""",
        "a(id integer key, p numeric)\njobs(id numeric key, a numeric -> a.id)",
    ),
    "sql server": (
        """CREATE TABLE [dbo].[Users] ([Id] INT IDENTITY(1,1) PRIMARY KEY, [Name] NVARCHAR(50), [Paid] MONEY)
           GO
           CREATE TABLE [dbo].[Log] ([At] DATETIME2, CONSTRAINT p PRIMARY KEY CLUSTERED ([At]))
           GO""",
        "users(id integer key, name text, paid numeric)\nlog(at timestamp key)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_columns_keys(name):
    text, expected = CASES[name]
    assert shown(text) == expected


REMARKS = {
    "postgres": """
        CREATE TYPE mood AS ENUM ('sad', 'it''s ok');
        CREATE DOMAIN size AS text CHECK (VALUE IN ('S', 'M'));
        CREATE TABLE t (state text CHECK (state IN ('new', 'paid')), code varchar(3) CHECK (code IN ('a', 'b')),
            m mood, ms mood[], s size, price numeric CHECK (price > 0), CHECK (code <> state));
        COMMENT ON TABLE t IS 'one row an order';
        COMMENT ON COLUMN t.price IS 'in cents';""",
    "mysql": """
        CREATE TABLE `t` (`state` ENUM('new','paid'), `price` DECIMAL(8,2) COMMENT 'in cents') ENGINE=InnoDB;""",
}


def test_what_the_author_wrote():
    table = parse(REMARKS["postgres"]).tables[0]
    assert table.comment == "one row an order"
    assert {column.name: column.comment for column in table.columns if column.comment} == {"price": "in cents"}
    assert {column.name: column.choices for column in table.columns if column.choices} == {
        "state": ("new", "paid"),
        "code": ("a", "b"),
        "m": ("sad", "it's ok"),
        "ms": ("sad", "it's ok"),
        "s": ("S", "M"),
    }
    state, price = parse(REMARKS["mysql"]).tables[0].columns
    assert (state.choices, price.comment) == (("new", "paid"), "in cents")


@pytest.mark.parametrize(
    ("name", "said"),
    [("mysql", "not PostgreSQL: read as MySQL"), ("sqlite", "SQLite"), ("sql server", "read as SQL Server")],
)
def test_another_dialect_is_said(name, said):
    assert parse(CASES[name][0]).notes[0].count(said)


def test_what_a_table_was_read_without_is_said():
    (note,) = parse("CREATE TABLE a (id uuid DEFAULT uuid_generate_v4())").notes
    assert note == ("a: read without defaults, checks and storage (function uuid_generate_v4() does not exist)")


def test_postgres_needs_no_note():
    assert parse(CASES["pg_dump"][0]).notes == ()


def test_what_is_passed_over_is_said():
    schema = parse("CREATE TABLE a (x int REFERENCES gone (id)); CREATE TABLE b AS SELECT 1; CREATE TABLE c (x int")
    assert {t.name for t in schema.tables} == {"a", "b"}
    assert "a(x) refers to gone (id), which is not there" in schema.notes
    assert len([n for n in schema.notes if n.startswith("not read")]) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no CREATE TABLE"),
        (b"-- nothing\nSELECT 1;", "has no CREATE TABLE"),
        (b"this is no SQL at all", "has no CREATE TABLE"),
        (b"it's not SQL", "has no CREATE TABLE"),
        (b"CREATE TABLE (", "no table of"),
        (b"SQLite format 3\0....", "--sqlite"),
        (b"\xff\x00\x01", "not UTF-8"),
        ("create table t (a int)".encode("utf-16-be"), "save it as UTF-8"),
        (b"create table t ()", "has no CREATE TABLE"),
        (f"create table t ({', '.join(f'c{i} int' for i in range(1601))})".encode(), "at most 1600 columns"),
        (f"create table t ({'c' * 63} int, {'c' * 64} int)".encode(), "specified more than once"),
        (b"x" * (LARGEST + 1), "--schema-only"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, content, said):
    path = tmp_path / "shop.sql"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        parse_schema(schema_text(path), running())
    assert said in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "shop.sql"
    path.write_text("CREATE TABLE Größen (id int)", encoding=encoding)
    assert shown(schema_text(path)) == '"größen"(id integer)'


def test_a_view_alone_is_a_schema():
    assert shown("create view v as select 1 as a") == "v(a integer)"


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        schema_text(tmp_path / "none.sql")


UNLIMITED = """
create function lift() returns int stable language plpgsql as
  $$ begin perform set_config('statement_timeout', '0', false); return 1; end $$;
create function what() returns int language plpgsql as $f$ begin {}; return 1; end $f$;
create function hostile() returns int stable language plpgsql as $f$ begin return public.what(); end $f$;
create table t (a int); create table filled (a int);
alter table t add lifted int default lift();
alter table t add b int default hostile();
"""
LOOP = "loop begin perform pg_sleep(1000); exception when query_canceled then null; end; end loop"
HOSTILE = {
    "sleeps": (UNLIMITED.format("perform pg_sleep(1000)"), "more than 2 s"),
    "is not to be cancelled": (UNLIMITED.format(LOOP), "more than 2 s"),
    "looks for no interrupt": (
        UNLIMITED.format("perform repeat('a', 40000000) like '%' || repeat('a', 20000000) || 'b'"),
        "more than 2 s",
    ),
    "sleeps in an index": (
        UNLIMITED.replace("stable", "immutable").format("perform pg_sleep(1000)").replace("add b", "add b int; --")
        + "create index on t ((hostile() + a));",
        "more than 2 s",
    ),
    "fills the disk": (
        UNLIMITED.format("insert into filled select generate_series(1, 2000000000)"),
        "more than 20 MB of disk",
    ),
    "has a thousand statements": ("create table t (a int);" + "drop table if exists u;" * 50_000, "more than 0.3 s"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_script_ends_in_time_and_space(name, monkeypatch):
    script, said = HOSTILE[name]
    monkeypatch.setattr("text2sql.ask.loading.SCRIPT_SECONDS", 0.3 if "0.3" in said else 2.0)
    monkeypatch.setattr("text2sql.ask.loading.SCRIPT_BYTES", 20 * 2**20)
    started = time.monotonic()
    with pytest.raises(UserError, match=f"PostgreSQL takes {said} to read the schema"):
        parse(script)
    assert time.monotonic() - started < 15
    monkeypatch.undo()
    assert parse("create table t (a int)").tables, "the server is as before"


def test_a_script_that_cannot_be_watched_is_ended(monkeypatch):
    connect, opened = Server.connect, []

    def counted(server, *given, **options):
        opened.append(connect(server, *given, **options))
        return opened[-1]

    monkeypatch.setattr(Server, "connect", counted)
    parse("create table t (a int)")
    usual, opened[:] = len(opened), []

    def lose_watcher():
        time.sleep(1)
        with connect(running()) as owner:
            owner.execute("select pg_terminate_backend(%s)", [opened[-1].info.backend_pid])

    thread = threading.Thread(target=lose_watcher)
    thread.start()
    started = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be watched: terminating connection.*\n  -> run the command again"):
        parse(HOSTILE["is not to be cancelled"][0])
    thread.join()
    assert (time.monotonic() - started < 5, len(opened)) == (True, usual), "one connection watches"


@pytest.mark.parametrize(
    "statement",
    [
        'create table "a b" as select generate_series(1, 2000000000) as x',
        "create table u (x) using heap with (fillfactor = 50) as select generate_series(1, 2000000000)",
        "create materialized view u as select generate_series(1, 2000000000) as x with data",
        "create unlogged table if not exists u as table t; insert into u select generate_series(1, 2000000000)",
        "do $$ begin perform pg_sleep(1000); end $$",
    ],
)
def test_no_query_of_a_script_is_run(statement):
    started = time.monotonic()
    assert parse(f"create table t (a int); {statement}").tables[0].name == "t"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("piece", ["$a{}$ ", "/* ", "\\{}\n", "\"'"])
def test_a_script_of_pieces_without_end_is_read_at_once(piece):
    started = time.monotonic()
    list(script_statements("create table t (a int);" + "".join(map(piece.format, range(30_000)))))
    assert time.monotonic() - started < 3
