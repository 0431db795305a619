"""Tables' names in place of aliases: what is written in another way, and what has to stay as it is."""

import pytest

from text2sql.model.qualifiers import by_table
from text2sql.schema import Column, Schema, Table


def table(name, *columns):
    return Table(name, name, tuple(Column(column, column, "text") for column in columns))


MUSIC = Schema(
    "music",
    (table("singer", "id", "name", "Age"), table("order", "id", "singer_id", "day"), table("band", "id", "title")),
)
CASES = {
    "a join": (
        "SELECT t1.name FROM singer AS t1 JOIN band AS t2 ON t1.id = t2.id",
        "SELECT singer.name FROM singer JOIN band ON singer.id = band.id",
    ),
    "columns that only one table has": (
        "SELECT name, count(*) FROM singer AS t1 JOIN band AS t2 ON t1.id = t2.id GROUP BY name",
        "SELECT singer.name, count(*) FROM singer JOIN band ON singer.id = band.id GROUP BY singer.name",
    ),
    "quoted names": (
        'SELECT t2."Age" FROM "order" AS t1 JOIN singer AS t2 ON t1.singer_id = t2.id WHERE day = \'t1.x\'',
        'SELECT singer."Age" FROM "order" JOIN singer ON "order".singer_id = singer.id WHERE "order".day = \'t1.x\'',
    ),
    "one table": (
        "SELECT t1.name FROM singer AS t1 WHERE t1.id = 1 ORDER BY t1.name",
        "SELECT name FROM singer WHERE id = 1 ORDER BY name",
    ),
    "all columns": ("SELECT t1.* FROM singer AS t1", "SELECT singer.* FROM singer"),
    "one table in two queries": (
        "SELECT t1.name FROM singer AS t1 WHERE t1.id IN "
        "(SELECT t1.id FROM singer AS t1 JOIN band AS t2 ON t1.id = t2.id)",
        "SELECT name FROM singer WHERE id IN (SELECT singer.id FROM singer JOIN band ON singer.id = band.id)",
    ),
    "a union": (
        "SELECT t1.name FROM singer AS t1 UNION SELECT t2.title FROM band AS t2 ORDER BY name",
        "SELECT name FROM singer UNION SELECT title FROM band ORDER BY name",
    ),
    "a query that speaks of the one around it": (
        "SELECT t1.name FROM singer AS t1 WHERE EXISTS(SELECT 1 FROM band AS t2 WHERE t2.id = t1.id)",
        "SELECT name FROM singer WHERE EXISTS(SELECT 1 FROM band WHERE id = singer.id)",
    ),
    "and is on the same table": (
        "SELECT t1.name FROM singer AS t1 WHERE t1.id > (SELECT max(t2.id) FROM singer AS t2 WHERE t2.name = t1.name)",
        "SELECT name FROM singer WHERE id > (SELECT max(id) FROM singer AS t2 WHERE name = singer.name)",
    ),
    "and calls the same table by its name": (
        "SELECT t1.name FROM singer AS t1 WHERE t1.id > (SELECT avg(id) FROM singer WHERE name = t1.name)",
        "SELECT name FROM singer AS t1 WHERE id > (SELECT avg(id) FROM singer WHERE name = t1.name)",
    ),
    "a query around the one that does so": (
        "SELECT t1.name FROM singer AS t1 WHERE EXISTS(SELECT 1 FROM band AS t2 WHERE t2.id IN "
        "(SELECT id FROM singer WHERE name = t1.name))",
        "SELECT name FROM singer AS t1 WHERE EXISTS(SELECT 1 FROM band WHERE id IN "
        "(SELECT id FROM singer WHERE name = t1.name))",
    ),
    "a query on the same table that does not speak of it": (
        "SELECT t1.name FROM singer AS t1 WHERE t1.id > (SELECT avg(id) FROM singer)",
        "SELECT name FROM singer WHERE id > (SELECT avg(id) FROM singer)",
    ),
    "a lateral query": (
        "SELECT x.n FROM singer AS t1 CROSS JOIN LATERAL (SELECT t1.id AS n) AS x",
        "SELECT x.n FROM singer CROSS JOIN LATERAL (SELECT singer.id AS n) AS x",
    ),
    "a derived table": (
        "SELECT t3.n FROM (SELECT t1.id AS n FROM singer AS t1) AS t3 JOIN band AS t2 ON t3.n = t2.id",
        "SELECT t3.n FROM (SELECT id AS n FROM singer) AS t3 JOIN band ON t3.n = band.id",
    ),
}
UNCHANGED = [
    "SELECT count(*) FROM singer",
    "SELECT t1.name FROM singer AS t1 JOIN singer AS t2 ON t1.id = t2.id",
    "SELECT t1.name AS id FROM singer AS t1 JOIN singer AS t2 ON t1.id = t2.id ORDER BY id",
    "SELECT id FROM (SELECT id FROM singer) AS t1",
    "SELECT x.y FROM unknown AS x JOIN other AS z ON x.a = z.b",
    "SELECT name FROM",
    "SELECT count(t1) FROM singer AS t1 JOIN band AS t2 ON t1.id = t2.id",
    "SELECT t1.a FROM singer AS t1(a, b, c) JOIN singer AS t2 ON t1.a = t2.id",
]


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_written_by_table(before, after):
    assert by_table(before, MUSIC) == after
    assert by_table(after, MUSIC) == after


@pytest.mark.parametrize("sql", UNCHANGED)
def test_left_alone(sql):
    assert by_table(sql, MUSIC) == sql


def test_an_output_column_of_the_same_name_keeps_its_meaning():
    sql = "SELECT count(*) AS name FROM singer AS t1 GROUP BY t1.name ORDER BY t1.name"
    assert by_table(sql, MUSIC) == "SELECT count(*) AS name FROM singer GROUP BY singer.name ORDER BY singer.name"
