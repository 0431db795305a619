"""A user's own server: its schema as the catalog has it, queries that only read, and no password in any message."""

import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.ask.pooler import away, pooler
from text2sql.ask.catalog import hide
from text2sql.ask.dsn import is_dsn, parse_dsn
from text2sql.ask.servers import Remote
from text2sql.errors import UserError
from text2sql.postgres.server import server

SETUP = """
create type mood as enum ('good', 'bad');
create domain email as text check (value like '%@%');
create table customers (id int generated always as identity primary key, name varchar(40) not null,
                        mail email unique, mood mood, tags text[], since timestamptz default now(), note jsonb);
create table "Order Lines" (order_id int, line int, customer_id int references customers, price numeric(10, 2),
                            primary key (order_id, line));
create view rich as select name from customers;
create schema other; create table other.hidden (a int);
create sequence numbers;
insert into customers (name, mail, mood) values ('Ann', 'ann@a.org', 'good'), ('Bob', 'bob@b.org', 'bad');
insert into "Order Lines" values (1, 1, 1, 9.5), (1, 2, 1, 0.5), (2, 1, 2, 100);
create function polite() returns int language sql stable as 'select 1';
create function rude() returns int language sql volatile as 'delete from customers; select 1';
create function slow(customers) returns int language sql volatile as 'select 1';
create function waits() returns bool language plpgsql volatile as $$ begin perform pg_sleep(1); return true; end $$;
create domain checked as text check (waits());
create domain sleepy as text check (pg_sleep(1) is not null);
create function plus(int, int) returns int language plpgsql immutable as 'begin return 1; end';
create operator <+> (function = plus, leftarg = int, rightarg = int);
create aggregate bad(int) (sfunc = plus, stype = int, initcond = 0);
create type pair as (a int, b int);
create function pairtext(pair) returns text language sql volatile as $$ select 'x' $$;
create cast (pair as text) with function pairtext(pair);
create extension tablefunc;
create view seen as select rude() r;
create role reader login password 's3cret';
grant select on customers to reader;
"""


@pytest.fixture(scope="module")
def dsn():
    with server() as running:
        running.create_database("shop")
        with psycopg.connect(running.dsn("shop"), autocommit=True) as connection:
            connection.execute(SETUP)
        yield running.dsn("shop")


@pytest.fixture(scope="module")
def shop(dsn):
    with Remote(dsn, seconds=0.5, max_rows=100, trusted=["polite"]) as remote:
        yield remote


def test_schema(shop):
    schema = shop.catalog().schema
    assert [t.name for t in schema.tables] == ["customers", "Order Lines", "hidden", "rich", "seen"]
    assert [t.name for t in schema.tables if t.kind == "view"] == ["rich", "seen"]  # as prompts show them
    types = {c.name: c.type for c in schema.table("customers").columns}
    assert types == {
        "id": "integer", "name": "text", "mail": "text", "mood": "text", "tags": "text[]",
        "since": "timestamptz", "note": "jsonb",
    }  # fmt: skip
    lines = schema.table("Order Lines")
    assert lines.primary_key == ("order_id", "line")
    assert [(k.columns, k.referred_table, k.referred_columns) for k in lines.foreign_keys] == [
        (("customer_id",), "customers", ("id",))
    ]
    mail = schema.table("customers").columns[2]
    assert mail.unique
    assert not any(c.samples for t in schema.tables for c in t.columns), "no value is read unless asked for"


def test_samples_and_hidden_columns(shop):
    schema = shop.catalog(2, ["customers.mail", "Order Lines.customer_id", "rich"]).schema
    assert [t.name for t in schema.tables] == ["customers", "Order Lines", "hidden", "seen"]
    columns = {c.name: c.samples for c in schema.table("customers").columns}
    assert "mail" not in columns
    assert columns["name"] == ("Ann", "Bob")
    assert schema.table("Order Lines").foreign_keys == ()


@pytest.mark.parametrize(("rows", "read"), [(1, {"hidden"}), (2, {"hidden", "customers"})])
def test_of_a_large_table_not_all_values_are_known(dsn, monkeypatch, rows, read):
    monkeypatch.setattr("text2sql.ask.servers.SAMPLED_ROWS", rows)
    with Remote(dsn) as remote:
        catalog = remote.catalog(10)
    assert catalog.schema.table("customers").columns[1].samples == ("Ann", "Bob")
    assert catalog.target.read == read


def test_through_a_pooler_that_refuses_options(dsn):
    """Limits are set once the connection is there; none can come in its startup packet."""
    path = f"{conninfo_to_dict(dsn)['host']}/.s.PGSQL.{conninfo_to_dict(dsn)['port']}"
    with pooler(path) as port:
        address = f"host=127.0.0.1 port={port} dbname=shop user=postgres"
        with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
            psycopg.connect(address, options="-c statement_timeout=1")
        with Remote(f"postgresql://postgres@127.0.0.1:{port}/shop", seconds=0.5) as remote:
            assert "customers" in {table.name for table in remote.catalog().schema.tables}
            assert remote.execute("select count(*) from customers").rows == [(2,)]
            assert remote.execute("select count(*) from generate_series(1, 10000000000)").error == "timeout"


def socket_of(dsn):
    address = conninfo_to_dict(dsn)
    return f"{address['host']}/.s.PGSQL.{address['port']}"


COUNT = "select count(*) from customers"


def test_a_connection_that_ended_while_idle_is_opened_again(dsn):
    with psycopg.connect(dsn, autocommit=True) as owner, Remote(dsn) as remote:
        owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'text2sql'")
        assert remote.execute(COUNT).rows == [(2,)]
        owner.execute("create role hasty login superuser; alter role hasty set idle_session_timeout = 100")
    with Remote(f"{dsn} user=hasty") as remote:
        time.sleep(0.5)
        assert remote.execute(COUNT).rows == [(2,)]
        time.sleep(0.5)
        assert "customers" in {table.name for table in remote.catalog(1).schema.tables}


def test_a_server_that_is_away_and_comes_back():
    with server() as running, Remote(running.dsn()) as remote:
        with away(running):
            result = remote.execute("select 1")
            assert (result.error, "cannot be reached" in result.message) == ("lost", True)
        assert remote.execute("select 1").rows == [(1,)]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("text2sql.ask.servers.CONNECT_SECONDS", 1.5)
    monkeypatch.setattr("text2sql.ask.dsn.CONNECT_SECONDS", 2)  # psycopg's least
    monkeypatch.setattr("text2sql.ask.servers.CANCEL_SECONDS", 0.5)


def test_a_query_ends_in_time_where_the_server_has_no_limit(dsn, quick):
    def without_limit(sent):
        return sent.replace(b"statement_timeout = 500", b"statement_timeout = 000")

    with pooler(socket_of(dsn), change=without_limit) as port:
        with Remote(f"postgresql://postgres@127.0.0.1:{port}/shop", seconds=0.5) as remote:
            started = time.perf_counter()
            assert remote.execute("select count(*) from generate_series(1, 10000000000)").error == "timeout"
            assert time.perf_counter() - started < 4
            assert remote.execute(COUNT).rows == [(2,)]
        with psycopg.connect(dsn, autocommit=True) as connection:
            running = "select count(*) from pg_stat_activity where query ~ 'generate_series' and state = 'active'"
            # On a busy machine the server takes a moment to end what was cancelled.
            while (count := connection.execute(running).fetchone()) != (1,) and time.perf_counter() - started < 30:
                time.sleep(0.05)
            assert count == (1,), "this one alone: the other was cancelled"


@pytest.mark.parametrize("where", ["connect", "catalog", "idle", "rows"])
def test_a_silent_network_is_waited_for_in_vain_no_longer_than_the_limit(dsn, quick, where):
    network = threading.Event()
    network.set()

    def silent_at(sent):
        if where == "rows" and b"generate_series" in sent and b"\0E\0" in sent:  # the query is executed
            network.clear()
        return sent

    with pooler(socket_of(dsn), network, silent_at) as port:
        remote = Remote(f"postgresql://postgres@127.0.0.1:{port}/shop", seconds=0.5)
        if where == "connect":
            network.clear()
            with pytest.raises(UserError, match="cannot be reached: connection timeout"), remote:
                pass
            return
        with remote:
            started = time.perf_counter()
            if where == "rows":
                result = remote.execute("select count(*) from generate_series(1, 1000)")
                assert result.error == "timeout"
            else:
                network.clear()
            if where == "idle":
                assert remote.execute(COUNT).error == "lost"
            if where == "catalog":
                with pytest.raises(UserError, match="cannot be reached"):
                    remote.catalog()
            assert time.perf_counter() - started < 6
            network.set()
            assert remote.execute(COUNT).rows == [(2,)]


def test_the_end_does_not_take_the_connection_from_a_thread_that_reads(dsn):
    with ThreadPoolExecutor() as pool:
        with Remote(dsn, seconds=2) as remote:
            result = pool.submit(remote.execute, "select count(*) from generate_series(1, 10000000000)")
            time.sleep(0.3)
        assert result.result().error == "timeout"
    remote.__exit__()
    assert remote._connection.closed


def test_a_silent_network_within_a_transaction(dsn, quick):
    network = threading.Event()
    network.set()
    with pooler(socket_of(dsn), network) as port:
        address = f"postgresql://postgres@127.0.0.1:{port}/shop"
        with Remote(address, seconds=0.5) as remote, remote.transaction(statements=1) as connection:
            network.clear()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
            network.set()


@pytest.mark.parametrize(
    ("encoding", "word"), [("LATIN1", "crème"), ("EUC_JP", "日本"), ("SQL_ASCII", "crème"), ("WIN1251", "чай")]
)
def test_a_database_of_any_encoding(dsn, encoding, word, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as owner:
        owner.execute(f"create database enc_{encoding} encoding '{encoding}' locale 'C' template template0")
    address = f"{dsn} dbname=enc_{encoding.lower()}"
    with psycopg.connect(address, autocommit=True, client_encoding="UTF8") as owner:
        owner.execute(f"create table \"{word}\" (name text); insert into \"{word}\" values ('{word}'), ('tea')")
    with Remote(address) as remote:
        (table,) = remote.catalog(5).schema.tables
        assert (table.name, table.columns[0].samples) == (word, (word, "tea"))
        found = remote.execute(f"select name, length(name) > 1 from \"{word}\" where name = '{word}'")
        assert found.rows == [(word, True)]
        outside = remote.execute(f"select * from \"{word}\" where name = '☃'")
        if encoding == "SQL_ASCII":
            assert outside.rows == []
        else:
            assert (outside.error, "has no equivalent in encoding" in outside.message) == ("data", True)
        assert remote.execute("select 1").rows == [(1,)]


def test_bytes_that_are_no_text(dsn):
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("create database bytes encoding 'SQL_ASCII' locale 'C' template template0")
    with psycopg.connect(f"{dsn} dbname=bytes client_encoding=SQL_ASCII", autocommit=True) as owner:
        owner.execute(b"create table t (a text, \"\xe9\" text); insert into t values ('caf\xe9'), ('tea')")
    with Remote(f"{dsn} dbname=bytes") as remote:
        catalog = remote.catalog(5)
        assert [(c.name, c.samples) for c in catalog.schema.tables[0].columns] == [("a", ("tea",))]
        assert "no UTF-8: 1" in catalog.schema.notes[0]
        assert remote.execute("select a from t").rows == [("caf�",), ("tea",)]


UNREADABLE = """
create table good (name text); insert into good values ('yes');
create table policed (name text); insert into policed values ('no');
create function raises() returns bool language plpgsql stable as $$ begin raise 'not for you'; end $$;
alter table policed enable row level security; create policy p on policed using (raises());
create table secret (name text); insert into secret values ('no');
create extension postgres_fdw;
create server gone foreign data wrapper postgres_fdw options (host '127.0.0.1', port '{port}', dbname 'x');
create user mapping for public server gone options (user 'x', password 'y');
create foreign table away (name text) server gone;
create foreign table silent (name text) server gone;
create view fails as select raises() as name;
create view endless as with recursive t as (select 1 as a union all select a + 1 from t) select a from t;
create materialized view unfilled as select 'x' as name with no data;
grant select on good, policed, away, silent, fails, endless, unfilled to reader;
"""


def test_a_table_that_cannot_be_read_is_shown_without_values(dsn):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute("create database odd")
        with psycopg.connect(f"{dsn} dbname=odd", autocommit=True) as owner:
            owner.execute(UNREADABLE.replace("{port}", str(silent.getsockname()[1])))
        with Remote(f"{dsn} dbname=odd user=reader", seconds=0.5) as remote:
            schema = remote.catalog(2).schema
            samples = {table.name: table.columns[0].samples for table in schema.tables}
            assert samples == {"good": ("yes",)} | dict.fromkeys(
                ("policed", "away", "silent", "fails", "endless", "unfilled"), ()
            )
            (note,) = schema.notes
            assert note.startswith("no values were read of policed (not for you); away (")
            assert remote.execute("select * from fails").error in ("refused", "other")
            assert remote.execute("select count(*) from endless").error == "timeout"
            assert remote.execute("select * from good").rows == [("yes",)]


def test_values_are_not_read_for_ever(dsn, monkeypatch):
    monkeypatch.setattr("text2sql.ask.servers.SAMPLING_SECONDS", -1)
    monkeypatch.setattr("text2sql.ask.servers.SHOWN_TABLES", 1)
    with Remote(dsn) as remote:
        catalog = remote.catalog(1)
    assert "no values were read of customers (no time left) and 4 more" in catalog.schema.notes
    assert not catalog.target.read


def test_a_misspelt_hidden_column_is_refused(shop):
    with pytest.raises(UserError, match=r"customers.email"):
        hide(shop.catalog().schema, ["customers.email"])


def test_a_role_sees_what_it_may_read(dsn):
    with Remote(f"{dsn} user=reader") as remote:
        assert [t.name for t in remote.catalog().schema.tables] == ["customers"]


def test_no_table_says_where_there_are_some(dsn):
    with Remote(f"{dsn} options=-csearch_path=nowhere") as remote, pytest.raises(UserError, match="other, public"):
        remote.catalog()


OWN_TEXT = "select query from pg_stat_activity where pid = pg_backend_pid()"
QUERIES = {
    "select name from customers order by 1": [("Ann",), ("Bob",)],
    "SELECT count(*) FROM \"Order Lines\" WHERE name LIKE '%'": "unknown_column",
    "select 1 /* ; drop table x */ as a -- more": [(1,)],
    "select 1; select 2": "syntax",
    "select name from customers where json_exists(note, '$') is not true order by id": [("Ann",), ("Bob",)],
    "select * from customers where name like 'A%' and polite() = 1 and random() >= 0": 1,
    "with t as (select 1 as a) select * from t union all select 2": [(1,), (2,)],
    # sent as it is: a cursor would keep PostgreSQL from using parallel workers
    OWN_TEXT: [(OWN_TEXT,)],
    "select nope from customers": "unknown_column",
    "select * from nope": "unknown_table",
    "select generate_series(1, 1000)": "too_many_rows",
    "with recursive t as (select 1 as a union all select a + 1 from t) select max(a) from t": "timeout",
}


@pytest.mark.parametrize("sql", QUERIES)
def test_queries(shop, sql):
    result, expected = shop.execute(sql), QUERIES[sql]
    if isinstance(expected, str):
        assert result.error == expected, result.message
    elif isinstance(expected, int):
        assert (result.error, len(result.rows)) == (None, expected)
    else:
        assert (result.error, result.rows) == (None, expected)


def test_a_large_result_is_cut(shop, monkeypatch):
    result = shop.execute("select generate_series(1, 1000)")
    assert (len(result.rows), result.message) == (100, "only the first 100 rows are shown")
    monkeypatch.setattr("text2sql.ask.servers.MAX_BYTES", 2**20)
    for sql in ("select repeat('x', 9000000)", "select repeat('x', 90000) from generate_series(1, 90)"):
        assert shop.execute(sql).message == "the result is larger than 1 MB", "one row and several"
        assert shop.execute("select count(*) from customers").rows == [(2,)], "the connection is opened again"


ATTACKS = [
    "drop table customers",
    "delete from customers",
    "insert into customers (name) values ('x')",
    "update customers set name = 'x'",
    "truncate customers",
    "select * into stolen from customers",
    "with d as (delete from customers returning *) select * from d",
    "select * from customers for update",
    "select pg_sleep(9)",
    "select pg_catalog.pg_sleep(9)",
    'select "pg_sleep"(9)',
    "select nextval('numbers')",
    "select setval('numbers', 9)",
    "select set_config('statement_timeout', '0', false)",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "select pg_terminate_backend(1)",
    "select pg_advisory_lock(1)",
    "select rude()",
    "select * from rude()",
    "select query_to_xml('delete from customers', true, true, '')",
    "select (select rude())",
    "copy customers to program 'cat'",
    "do $$ begin perform 1; end $$",
    "set statement_timeout = 0",
    "begin; select 1",
    "call rude()",
    "explain analyze delete from customers",
    "create table x (a int)",
    "values (rude())",
    "select * from (values (rude())) t",
    "vacuum",
    "listen x",
    "select c.slow from customers c",
    "select 'x'::checked",
    "select 'x'::sleepy",
    "select 1 operator(public.<+>) 2",
    "select bad(id) from customers",
    "select row(1, 2)::pair::text",
    "select * from seen",
    "select * from crosstab('select 1, 2, 3') as t(a int, b int)",
    "select * from ts_stat('select 1')",
    "",
    "select 1 \0 from customers",
    "not sql at all",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_nothing_but_reading(shop, sql):
    result = shop.execute(sql)
    assert result.error in ("refused", "syntax", "other"), result
    assert shop.execute("select count(*) from customers").rows == [(2,)]


def test_the_check_holds_wherever_the_server_breaks_the_lines_of_a_tree(shop):
    """PostgreSQL prints trees in lines of 78 characters: ":funcid" and its number may stand on two of them."""
    for length in range(1, 79):
        result = shop.execute(f'select 1 as "{"a" * min(length, 40)}", 2 as "{"b" * max(1, length - 40)}", rude()')
        assert result.error == "refused", (length, result)


def test_the_transaction_is_read_only_even_where_the_check_is_passed(shop):
    with shop.transaction() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("select rude()")


SECRET = "geheim"
SHOP = {"user": "me", "password": "pw", "host": "h", "dbname": "shop"}
#: an address, libpq's parameters, schemas, and what is passed over
ADDRESSES = [
    ("postgresql://me:pw@h/shop", SHOP, (), ""),
    ("postgres://me:pw@h:6543/shop", SHOP | {"port": "6543"}, (), ""),
    ("POSTGRESQL://me:pw@h/shop", SHOP, (), ""),
    (" postgresql://me:pw@h/shop\n", SHOP, (), ""),
    ("postgis://me:pw@h/shop", SHOP, (), ""),
    ("postgresql+psycopg2://me:pw@h/shop", SHOP, (), ""),
    ("postgresql+asyncpg://me:pw@h/shop?ssl=verify-full", SHOP | {"sslmode": "verify-full"}, (), ""),
    ("postgresql://me:p@s:w/o?r%#d@h/shop", SHOP | {"password": "p@s:w/o?r%#d"}, (), ""),
    ("postgresql://me:p%40s%3Aw%2F%25+%20@h/shop", SHOP | {"password": "p@s:w/%+ "}, (), ""),
    ("postgresql://me@corp.com:pw@h/shop", SHOP | {"user": "me@corp.com"}, (), ""),
    ("postgresql://me%40corp.com:pw@h/shop", SHOP | {"user": "me@corp.com"}, (), ""),
    ("postgresql://h/shop?user=me&password=p@w+%2B", SHOP | {"password": "p@w++"}, (), ""),
    ("postgresql://h:5432/shop?user=me@h&password=pw", SHOP | {"user": "me@h", "port": "5432"}, (), ""),
    ("jdbc:postgresql://h:5432/shop?user=me@h&password=p+w&ssl=true&currentSchema=a,b&loginTimeout=3&tcpKeepAlive=true",
     SHOP | {"user": "me@h", "password": "p w", "port": "5432", "sslmode": "require", "connect_timeout": "3"},
     ("a", "b"), "tcpKeepAlive"),
    ("jdbc:postgresql://h/shop?user=me&password=pw&ssl&ApplicationName&&sslcert=",
     SHOP | {"sslmode": "require"}, (), "ApplicationName, sslcert"),
    ("postgresql://me:pw@h/shop?schema=x&connection_limit=5&pgbouncer=true&sslmode=require",
     SHOP | {"sslmode": "require"}, ("x",), "connection_limit, pgbouncer"),
    ("postgresql://me:pw@h/shop?sslmode=require&channel_binding=require&options=endpoint%3Dep-1",
     SHOP | {"sslmode": "require", "channel_binding": "require", "options": "endpoint=ep-1"}, (), ""),
    ("postgresql://me:pw@a:1,b:2/shop?target_session_attrs=any",
     SHOP | {"host": "a,b", "port": "1,2", "target_session_attrs": "any"}, (), ""),
    ("postgresql://me:pw@[::1]:5433/shop", SHOP | {"host": "::1", "port": "5433"}, (), ""),
    ("postgresql://[::1]:5433/shop?user=me@h&password=pw",
     SHOP | {"host": "::1", "port": "5433", "user": "me@h"}, (), ""),
    ("postgresql:///shop?host=/var/run", {"host": "/var/run", "dbname": "shop"}, (), ""),
    ("postgresql://%2Fvar%2Frun/my%20shop", {"host": "/var/run", "dbname": "my shop"}, (), ""),
    ("postgresql://", {}, (), ""),
    ("service=shop", {"service": "shop"}, (), ""),
    ("postgresql://?service=shop", {"service": "shop"}, (), ""),
    ("hostaddr=127.0.0.1 dbname=shop", {"hostaddr": "127.0.0.1", "dbname": "shop"}, (), ""),
    (r"host=h user=me dbname=shop password='p w\'s'", SHOP | {"password": "p w's"}, (), ""),
]  # fmt: skip


@pytest.mark.parametrize(("dsn", "parameters", "schemas", "passed_over"), ADDRESSES)
def test_addresses(dsn, parameters, schemas, passed_over):
    address = parse_dsn(dsn)
    assert is_dsn(dsn)
    assert (address.parameters, address.schemas) == (parameters, schemas)
    assert address.notes == ((f"passed over in the DSN: {passed_over}",) if passed_over else ())
    assert "pw" not in repr(address)


def test_what_the_address_leaves_out_comes_from_the_environment(dsn, tmp_path, monkeypatch):
    parts = conninfo_to_dict(dsn)
    (tmp_path / "services").write_text(f"[shop]\nhost={parts['host']}\nport={parts['port']}\nuser=reader\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGAPPNAME", "mine")
    with Remote("service=shop dbname=shop") as remote:
        assert remote.execute("select current_user, current_setting('application_name')").rows == [("reader", "mine")]
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    with pytest.raises(UserError, match=r"nowhere\.invalid:5432 cannot be reached"), Remote("dbname=shop"):
        pass
    monkeypatch.setenv("PGHOST", parts["host"])
    monkeypatch.setenv("PGPORT", str(parts["port"]))
    monkeypatch.setenv("PGSSLMODE", "wrong")
    with pytest.raises(UserError, match="invalid sslmode value"), Remote("postgresql://reader@/shop"):
        pass


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        (f"postgresql://me:{SECRET}@127.0.0.1:9/shop", "cannot be reached: connection failed: "),
        (f"postgresql://me:{SECRET}@nowhere.invalid/shop", "cannot be reached"),
        (f"postgresql://me:{SECRET}@127.0.0.1:9x/shop", "the DSN cannot be read"),
        (f"postgresql://me:p@{SECRET}/?#@127.0.0.1:9/shop", "cannot be reached"),
        (f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:9/shop", "cannot be reached"),
        (f"postgresql+asyncpg://me:{SECRET}@127.0.0.1:9/shop", "cannot be reached"),
        (f"jdbc:postgresql://127.0.0.1:9/shop?user=me&password={SECRET}", "cannot be reached"),
        (f"postgresql://me:{SECRET}@127.0.0.1:9/shop?schema=public&connection_limit=3", "cannot be reached"),
        (f"jdbc:postgresql://127.0.0.1:9/shop?user=me@corp&password={SECRET}", "127.0.0.1:9 cannot be reached"),
        (f"postgresql://127.0.0.1:9/shop?user=me@corp&password={SECRET}", "127.0.0.1:9 cannot be reached"),
        (f"postgresql://me:{SECRET}@a.invalid,b.invalid/shop", "cannot be reached"),
        (f"postgresql://me:{SECRET}@127.0.0.1:9/shop?connect_timeout=x", "the DSN cannot be read"),
        (f"postgresql://me:{SECRET}%zz@127.0.0.1:9/shop", "cannot be reached"),
        (f"'postgresql://me:{SECRET}@127.0.0.1:9/shop'", "the DSN cannot be read"),
        (f"psql postgresql://me:{SECRET}@127.0.0.1:9/shop", "the DSN cannot be read"),
        (f"service=nosuch password={SECRET}", "service nosuch"),
        (f"mysql://me:{SECRET}@127.0.0.1/shop", "only PostgreSQL is reached by --dsn, not mysql"),
        (f"host=127.0.0.1 {SECRET}", "the DSN cannot be read"),
        (f"host=127.0.0.1 passwort={SECRET}", "the DSN cannot be read"),
        ("shop.sql", "the DSN cannot be read"),
    ],
)
def test_unreachable_never_shows_the_password(dsn, said):
    with pytest.raises(UserError) as error, Remote(dsn):
        pass
    assert said in str(error.value)
    assert SECRET not in str(error.value)


def test_wrong_password():
    with server() as running:
        with psycopg.connect(running.dsn(), autocommit=True) as connection:
            connection.execute("create role careful login password 'right'")
        hba = next(running.root.rglob("pg_hba.conf"))
        hba.write_text("local all careful scram-sha-256\nlocal all all trust\n")
        subprocess.run([running.binaries / "psql", running.dsn(), "-qc", "select pg_reload_conf()"], check=True)
        with (
            pytest.raises(UserError, match="does not let careful in") as error,
            Remote(f"{running.dsn('postgres', 'careful')} password={SECRET}"),
        ):
            pass
        assert SECRET not in str(error.value)
        with pytest.raises(UserError, match='database "nope" does not exist'), Remote(running.dsn("nope")):
            pass
