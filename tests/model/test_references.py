"""Which beginnings of a query can still become one whose names all refer to something."""

import os
import subprocess
import sys

import pytest

from tests.model.held import admits
from text2sql.model.references import References
from text2sql.schema import Column, ForeignKey, Schema, Table, kind_of


def table(name, columns, key=(), foreign=()):
    made = tuple(Column(c, c, t) for c, t in (column.split(maxsplit=1) for column in columns.split(", ")))
    keys = tuple(ForeignKey((own,), other, (referred,)) for own, other, referred in foreign)
    return Table(name, name, made, key, keys)


MUSIC = Schema(
    "music",
    (
        table("singer", "id integer, name text, age integer, born date", ("id",)),
        table("band", "id integer, name text, founded integer, order_no integer", ("id",)),
        table(
            "member",
            "singer_id integer, band_id integer, since integer",
            ("singer_id", "band_id"),
            [("singer_id", "singer", "id"), ("band_id", "band", "id")],
        ),
        table("chart", "title text, points integer, age text"),  # without any key
        table("order", "id integer, Total numeric"),
    ),
)
JOINED = "SELECT singer.name FROM singer JOIN member ON singer.id = member.singer_id"
WHOLE = [
    "SELECT name FROM singer",
    "SELECT name, age FROM singer WHERE age > 3 AND name = 'band.id' ORDER BY born DESC LIMIT 1",
    "SELECT * FROM singer",
    "SELECT count(*) FROM singer",
    'SELECT "Total" FROM "order"',
    "SELECT count(*), name FROM singer GROUP BY name HAVING count(*) > 1 ORDER BY count(*) DESC",
    "SELECT age, name FROM singer GROUP BY id",  # its primary key
    "SELECT max(age) - min(age) FROM singer",
    JOINED,
    f"{JOINED} JOIN band ON member.band_id = band.id WHERE band.founded > 1990",
    f"{JOINED} GROUP BY singer.id HAVING count(*) > 2",
    "SELECT chart.title FROM chart JOIN band ON chart.points = band.founded",  # no key of either says otherwise
    "SELECT name FROM singer WHERE id NOT IN (SELECT singer_id FROM member)",
    "SELECT name FROM singer WHERE EXISTS(SELECT since FROM member WHERE member.singer_id = singer.id)",
    "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer)",
    "SELECT name FROM singer UNION SELECT name FROM band ORDER BY name",
    "SELECT t1.name FROM singer AS t1 JOIN singer AS t2 ON t1.age = t2.id",
    "SELECT count(*) FROM (SELECT name FROM singer GROUP BY name) AS t1",
    "SELECT DISTINCT name FROM singer ORDER BY name",
    "SELECT name FROM singer WHERE (((((((name NOT ILIKE 'a%' OR born > CURRENT_DATE - INTERVAL '1 day')))))))",
    "SELECT singer.name FROM singer LEFT JOIN member ON singer.id = member.singer_id AND member.since <> 3 AND "
    "(singer.age > 3 OR singer.name LIKE 'a%') JOIN band ON member.band_id = band.id AND band.name = singer.name "
    "WHERE member.since <> 3 AND band.founded IN (SELECT founded FROM band)",
    "SELECT name FROM singer WHERE lower(name) = name AND age + 1 > age AND id = age AND age::text <> name",
    "SELECT name FROM singer ORDER BY name LIKE 'a%', age IN (3, 4) DESC, born IS NOT NULL",
    "SELECT CAST(age AS SMALLINT), EXTRACT(SECOND FROM born), EXTRACT(EPOCH FROM born) FROM singer",
    "SELECT CASE WHEN age > 3 OR age < 1 THEN 'a' ELSE 'b' END FROM singer",
    "SELECT name FROM singer WHERE age::text = '3'",
    "SELECT name FROM singer WHERE id = 5 OR 3 < id",
    "SELECT name FROM singer WHERE (id = 5 OR 3 < id) AND age > 3",
    'SELECT singer.name, "order"."Total" FROM singer JOIN "order" ON singer.age = "order".id',
    "SELECT name FROM singer WHERE age BETWEEN 3 AND 5 AND id > 3",
    "SELECT name FROM singer WHERE born < now() AND born > CURRENT_TIMESTAMP ORDER BY born",
    "SELECT age::double precision FROM singer WHERE id = 1",
    "SELECT count(*) FILTER(WHERE age > 3) FROM singer",
    "SELECT name, age FROM singer UNION (SELECT name, id FROM band) UNION SELECT title, points FROM chart",
    "SELECT age FROM (SELECT age FROM singer) AS t1",
    "SELECT avg(n) FROM (SELECT count(*) AS n FROM member GROUP BY band_id) AS counts WHERE n > 1",
    "SELECT name FROM singer WHERE age IS DISTINCT FROM 3 ORDER BY name",
    'SELECT "Total"::DOUBLE PRECISION FROM "order"',
    "SELECT count(*) FROM singer GROUP BY EXTRACT(YEAR FROM born), EXTRACT(MONTH FROM born), age + 1, age + 12",
    "SELECT sum(CASE WHEN age IS NULL THEN 1 ELSE 0 END) FROM singer",
    "SELECT id FROM singer WHERE id = 1 OR id = 12 OR id = 123",
    "SELECT id FROM singer WHERE age > 30 OR age > 300 OR age > 2.5 OR age > 2.25 OR age > 2.55 OR age = 2.50",
    "SELECT band.order_no, band.id, band.id FROM band WHERE EXISTS(SELECT id, id FROM singer)",
    "SELECT replace(replace(name, 'a', 'b'), 'c', 'd'), sum(age) FILTER(WHERE age IN (3, 4)) FROM singer GROUP BY name",
    "SELECT id, id FROM singer UNION SELECT band.id, band.id FROM band LEFT JOIN member ON band.id = member.band_id",
]


@pytest.fixture(scope="module")
def references():
    return References(MUSIC)


@pytest.mark.parametrize("sql", WHOLE)
def test_every_beginning_of_a_query_will_do(references, sql):
    refused = [sql[:end] for end in range(len(sql) + 1) if not admits(references, sql[:end])]
    assert not refused, refused[0]
    assert admits(references, sql, ended=True)


@pytest.mark.parametrize(
    ("begun", "refused"),
    [
        ("SELECT name FROM ", "m"),  # member has no name
        ("SELECT name, age FROM ", "band"),
        ("SELECT name, ", "singer."),  # alone or after their tables' names, not both
        ("SELECT singer.name, ", "age"),
        ("SELECT singer.name FROM band", " WHERE"),  # singer is missing
        ("SELECT singer.name FROM ", "chart WHERE"),
        ("SELECT name FROM singer", " JOIN"),
        ("SELECT name FROM singer WHERE ", "fo"),  # founded is band's
        ("SELECT name FROM singer WHERE ", "string_agg"),
        ("SELECT name FROM singer WHERE ", "band."),
        ("SELECT name FROM singer WHERE singer.", "f"),
        (f"{JOINED} WHERE ", "band."),
        (f"{JOINED} WHERE ", "since"),
        (f"{JOINED} JOIN ", "s"),  # a second time
        ("SELECT singer.name FROM singer JOIN ", "band"),  # no key joins them
        ("SELECT singer.name FROM singer JOIN member ON ", "band"),
        ("SELECT singer.name FROM singer JOIN member ON singer.", "name"),
        ("SELECT singer.name FROM singer JOIN member ON singer.id = member.", "b"),
        ("SELECT singer.name FROM singer JOIN member ON ", "'"),
        ("SELECT singer.name FROM singer JOIN member ON singer.id", " WHERE"),
        ("SELECT count(*), name FROM singer", " ORDER"),
        ("SELECT name, age FROM singer GROUP BY name", " ORDER"),
        ("SELECT name, age FROM singer GROUP BY name", " OR"),
        ("SELECT name FROM singer GROUP BY name ORDER BY ", "age,"),
        ("SELECT name FROM singer UNION SELECT name", ","),
        ("SELECT name, age FROM singer UNION SELECT name", " FROM"),
        ("SELECT name FROM singer WHERE id IN (SELECT id FROM singer WHERE id IN (SELECT id FROM singer WHERE id IN ("
         "SELECT id FROM singer WHERE id IN (", "SELECT id"),
        ("SELECT t1.name FROM singer AS t1 JOIN singer AS ", "t1 ON"),
        ("SELECT name FROM singer ORDER BY ", "count("),
        ("SELECT name FROM singer WHERE id = ", "id"),
        ("SELECT singer.name FROM singer WHERE singer.id <> singer.", "id"),
        ("SELECT name FROM singer WHERE (age > 3 OR id = ", "id"),
        ("SELECT count(*) FROM singer", " ORDER"),
        (JOINED, " OR singer"),
        (f"{JOINED} AND member.since > 3 AND member.since >", " 3 "),
        (f"{JOINED} AND ", "band."),
        (f"{JOINED} AND ", "count("),
        ("SELECT name FROM singer UNION SELECT name FROM band UNION SELECT title FROM chart", " UNION SELECT"),
        ("SELECT DISTINCT name FROM singer ORDER BY ", "ag"),
        ("SELECT singer.name FROM singer JOIN member ON singer.id", " NOT"),
        ("SELECT abs(ceil(sqrt(round(floor(mod(power(", "abs"),
        ("SELECT t1.name FROM singer AS t1 WHERE t1.", "founded"),
        ("SELECT name FROM singer WHERE age > 3 AND age > ", "3 "),  # again
        ("SELECT name FROM singer WHERE age > 3 AND age > 3", " AN"),  # the number may go on, the condition may not end
        ("SELECT name FROM singer WHERE age > 3 AND age > 3", " ORDER"),
        ("SELECT name FROM singer WHERE age = 0 AND age = ", "0"),  # neither 0.0
        ("SELECT name FROM singer WHERE age > 30 AND age > 30", "."),
        ("SELECT name FROM singer WHERE age > 2.5 AND age > 2.5", "0"),
        ("SELECT name FROM singer WHERE age > 2.50 AND age > 2", ".5 "),
        ("SELECT avg(n) FROM ", "singer"),
        ("SELECT avg(n) FROM (SELECT count(*)", " FROM"),
        ("SELECT n, ", "age"),
        ("SELECT name FROM singer WHERE name = 'a' OR name = 'b' OR name = 'a", "'"),
        ("SELECT age, count(*) FROM singer GROUP BY age HAVING ", "born"),
        ("SELECT name FROM singer", " HAVING"),
        ("SELECT *, count(*) FROM singer", " WHERE age > 3 LIMIT"),
        ("SELECT age FROM (SELECT name", " FROM"),  # it does not return the age
        ("SELECT avg(age) FROM (SELECT name", " FROM"),
        ("SELECT name FROM singer UNION SELECT name FROM band ORDER BY ", "age"),
        ("SELECT singer.name FROM singer", " CROSS JOIN"),
        ("SELECT avg(CAST(", "since AS integer)) FROM singer"),  # member's
        ("SELECT name FROM singer WHERE CAST(", "since"),
        # what begins nothing that could go on
        ("SELECT name FROM singer WHERE id = ", '"'),  # no name of it needs quotes
        ("SELECT name FROM singer WHERE ", "order"),  # needs quotes
        ("SELECT name FROM singer ", "ON"),  # no JOIN
        ("SELECT singer.name FROM singer JOIN member ", "W"),  # the key is to come
        ("SELECT singer.name FROM singer JOIN member ON ", "."),
        ("SELECT name FROM singer UNION SELECT name FROM band UNION SELECT title FROM chart ", "INT"),
        ("SELECT name FROM singer WHERE id IN (SELECT id FROM singer WHERE id IN (SELECT id FROM singer WHERE id IN ("
         "SELECT id FROM singer WHERE id IN (", "SE"),
        ("SELECT ((SELECT max(age) FROM singer)", " U"),
        ("SELECT abs(id) ", "FI"),  # no aggregate
        ("SELECT upper(name) FROM singer WHERE lower(trim(", "lo"),  # within itself
        ("SELECT EXTRACT(YEAR FROM ", "EXT"),
        ("SELECT abs(ceil(sqrt(round(floor(mod(power(", "le"),  # no room for brackets
        ("SELECT abs(ceil(sqrt(round(floor(mod(power(", "CAST"),
        ("SELECT name FROM singer GROUP BY age, name, ", "age "),  # again
        ("SELECT count(*) FROM singer GROUP BY EXTRACT(YEAR FROM born), EXTRACT(YEAR FROM born", ")"),
        ("SELECT born, born, ", "born"),  # for the third time
        ("SELECT DISTINCT count(*), count(*), name, ", "count(*)"),
        ("SELECT id, order_no, founded FROM band UNION SELECT id + 1, id + 1, id + ", "1 "),
    ],
)  # fmt: skip
def test_where_a_query_can_only_fail(references, begun, refused):
    assert admits(references, begun)
    assert not admits(references, begun + refused)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name",
        "SELECT singer.name FROM band",
        "SELECT count(*), name FROM singer",
        "SELECT name, age FROM singer GROUP BY name",
        "SELECT name FROM singer WHERE id IN (SELECT id FROM singer",
        "SELECT singer.name FROM singer JOIN member ON singer.id",
        "SELECT name, age FROM singer UNION SELECT name FROM band",
        "",
    ],
)
def test_what_is_no_whole_query(references, sql):
    assert not admits(references, sql, ended=True)


def test_what_is_asked_about_a_beginning_leaves_no_trace():
    """ " O" may become OR, which is refused after the only key there is, or ORDER: in whatever order a set has them."""
    code = (
        "from tests.model.test_references import JOINED, MUSIC, References, admits; "
        "print(admits(References(MUSIC), f'{JOINED} O'))"
    )
    for seed in range(4):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
        )
        assert run.stdout == "True\n", (seed, run.stderr)


def test_kinds():
    kinds = {
        "bigint": "number",
        "numeric(8,2)": "number",
        "varchar(3)": "text",
        "timestamp": "moment",
        "character varying": "text",
        "citext": "text",
        "timestamp(3) with time zone": "moment",
        "interval": "other",
        "int4range": "other",
        "integer[]": "other",
        "bytea": "other",
    }
    assert {type_: kind_of(type_) for type_ in kinds} == kinds


def test_tables_that_refer_to_the_same_column_are_joined_along_it():
    papers = References(
        Schema(
            "papers",
            (
                table("paper", "id integer, title text", ("id",)),
                table("set", "name text, paper_id integer", foreign=[("paper_id", "paper", "id")]),
                table("cite", "citing integer, cited integer", (), [(c, "paper", "id") for c in ("citing", "cited")]),
            ),
        )
    )
    begun = "SELECT set.name FROM set JOIN cite ON set"
    assert admits(papers, f"{begun}.paper_id = cite.cited", ended=True)
    assert admits(papers, f"{begun}.paper_id = cite.citing", ended=True)
    assert not admits(papers, f"{begun}.name = ")
    either = f"{begun}.paper_id = cite.cited OR "
    assert admits(papers, f"{either}set.paper_id = cite.citing AND set.name <> 'a'", ended=True)
    assert not admits(papers, f"{either}.")
    assert not admits(papers, f"{either}set.paper_id = cite.cited")


def test_a_column_may_be_called_as_a_function_is():
    words = References(Schema("words", (table("word", "left text, id integer"),)))
    assert admits(words, 'SELECT left("left", 1) FROM word', ended=True)
