"""Names as PostgreSQL writes them."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from sqlglot.errors import SqlglotError

from text2sql.postgres.server import server
from text2sql.schema import KEYWORDS, needs_quotes, quote
from text2sql.sql import parse_one, write

#: beside the keywords: case, other letters than ASCII, signs, quotes, digits, blanks, length, nothing
PLAIN_AND_NOT = """
singer _ _a a1 a_b1 Singer SINGER sinGer année straße имя 名前 é É a$b $a a$ 1a 2nd a-b a.b a+b a% a# a@b a/b a! a,b a;b
a(b) [a] {a} a|b a~b a^b a&b a*b a=b a<b a>b a?b a:b a`b a'b order Order ORDER select group user table time Time date
name names value values row rows type position number zone xmin ctid
"""
QUOTES_AND_BLANKS = ['a"b', '"', '""', 'a""b', "", " ", "a b", " a", "a ", "Total Points", "a\tb", "a\nb", "a\\b"]
NAMES = [*PLAIN_AND_NOT.split(), *QUOTES_AND_BLANKS, "n" * 63, "N" * 63, "\u0130", "\U0001f600"]


@pytest.fixture(scope="module")
def connection():
    with server() as running, psycopg.connect(running.dsn()) as connection:
        yield connection


def test_quote_is_quote_ident(connection):
    words = [word for (word,) in connection.execute("SELECT word FROM pg_get_keywords()").fetchall()]
    names = [*NAMES, *words, *(word.upper() for word in words)]
    assert len(NAMES) + len(words) > 500
    written = connection.execute("SELECT n, quote_ident(n) FROM unnest(%s::text[]) AS n", (names,)).fetchall()
    assert [(name, quote(name)) for name in names] == written


@pytest.mark.parametrize("sql", ['SELECT "Archive"(), my_fn(1) FROM "T"', "SELECT a FROM t LIMIT 2 - (SELECT 1) % 2"])
def test_names_and_limits_survive_parsing(sql):
    assert write(parse_one(sql)) == sql


def test_a_statement_of_a_megabyte_is_refused_before_it_is_parsed():
    with pytest.raises(SqlglotError, match="1,000,009 characters"):
        parse_one("SELECT '" + "x" * 1_000_000 + "'")


def test_the_words_are_the_servers(connection):
    words = connection.execute("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'").fetchall()
    assert {word for (word,) in words} == KEYWORDS


def test_a_name_without_quotes_stands_anywhere(connection):
    words = connection.execute("SELECT word FROM pg_get_keywords()").fetchall()
    free = [word for (word,) in words if not needs_quotes(word)]
    columns = sql.SQL(", ").join(sql.SQL(f"{word} int") for word in free)
    connection.execute(sql.SQL("CREATE TABLE t ({})").format(columns))
    for word in free:
        connection.execute(f"SELECT max({word}) AS {word} FROM t AS {word} WHERE {word} > 1 GROUP BY {word}")
