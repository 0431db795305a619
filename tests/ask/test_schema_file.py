"""Schema files: one table of cases, `text -> the prompt's DDL`, and what is said of those that cannot be read."""

import pytest

from text2sql.ask.schema_file import LARGEST, parse, read
from text2sql.errors import UserError
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
    "sql server": (
        """CREATE TABLE [dbo].[Users] ([Id] INT IDENTITY(1,1) PRIMARY KEY, [Name] NVARCHAR(50), [Paid] MONEY)
           GO
           CREATE TABLE [dbo].[Log] ([At] DATETIME2) GO""",
        "users(id integer key, name text, paid numeric)\nlog(at timestamp)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_columns_keys(name):
    text, expected = CASES[name]
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [("mysql", "not PostgreSQL: read as MySQL"), ("sqlite", "SQLite"), ("sql server", "read as SQL Server")],
)
def test_another_dialect_is_said(name, said):
    assert parse(CASES[name][0]).notes[0].count(said)


def test_postgres_needs_no_note():
    assert parse(CASES["pg_dump"][0]).notes == ()


def test_what_is_passed_over_is_said():
    schema = parse("CREATE TABLE a (x int REFERENCES gone (id)); CREATE TABLE b AS SELECT 1; CREATE TABLE c (x int")
    assert [t.name for t in schema.tables] == ["a"]
    assert "a(x) refers to gone(id), which is not there" in schema.notes
    assert len([n for n in schema.notes if n.startswith("not read")]) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no CREATE TABLE"),
        (b"-- nothing\nSELECT 1;", "has no CREATE TABLE"),
        (b"this is no SQL at all", "has no CREATE TABLE"),
        (b"it's not SQL", "has no CREATE TABLE"),
        (b"CREATE TABLE (", "no table of"),
        (b"SQLite format 3\0....", "--sqlite"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (b"x" * (LARGEST + 1), "--schema-only"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, content, said):
    path = tmp_path / "shop.sql"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert said in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "none.sql")
