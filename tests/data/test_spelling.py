"""Queries that people wrote: in the one spelling that decoding accepts, and which it accepts in none."""

import pytest

from text2sql.data.spelling import spelled
from text2sql.model.constraint import Constraints
from text2sql.model.prompt import completion
from text2sql.postgres.compare import Result
from text2sql.schema import Column, ForeignKey, Schema, Table


def table(name, *columns, keys=()):
    made = tuple(Column(column, column, type_) for column, _, type_ in (c.rpartition(" ") for c in columns))
    return Table(name, name, made, (made[0].name,), tuple(ForeignKey((a,), b, (c,)) for a, b, c in keys))


CLINIC = Schema(
    "clinic",
    (
        table("vets", "id integer", "name text"),
        table(
            "pets", "id integer", "name text", "born date", "kg numeric", "vet integer", keys=[("vet", "vets", "id")]
        ),
        table("visits", "id integer", "pet integer", "day date", "price numeric", keys=[("pet", "pets", "id")]),
        table("Audit", "id integer", "note text"),
    ),
)


def decodable(sql):
    return Constraints().of(CLINIC).accepts(completion(sql, CLINIC))


SPELLED = {
    "select Name From Pets": "SELECT name FROM pets",
    'select "name" from "pets"': "SELECT name FROM pets",
    'select "P"."kg" from pets "P"': "SELECT kg FROM pets",
    'select NOTE from "Audit"': 'SELECT note FROM "Audit"',
    "SELECT public.pets.name FROM public.pets": "SELECT name FROM pets",
    "select id from pets where born > current_date - interval '30 days'": (
        "SELECT id FROM pets WHERE born > CURRENT_DATE - INTERVAL '30 DAYS'"
    ),
    "select id from pets where born > now() or born < CURRENT_TIMESTAMP": (
        "SELECT id FROM pets WHERE born > CURRENT_TIMESTAMP OR born < CURRENT_TIMESTAMP"
    ),
    "select p.name from pets p where p.kg != 3": "SELECT name FROM pets WHERE kg <> 3",
    "select count(1), MAX(kg)::INTEGER, cast(sum(kg) as NUMERIC) from pets": (
        "SELECT count(*), max(kg)::int, sum(kg)::numeric FROM pets"
    ),
    "select name from pets where name not like 'a%' and not exists (select 1 from visits)": (
        "SELECT name FROM pets WHERE name NOT LIKE 'a%' AND NOT EXISTS(SELECT 1 FROM visits)"
    ),
    'select p.name, count(*) "No. of" from pets p inner join visits v on v.pet = p.id group by 1 order by 2 desc': (
        "SELECT pets.name, count(*) FROM pets JOIN visits ON visits.pet = pets.id GROUP BY pets.name "
        "ORDER BY count(*) DESC"
    ),
    "select name, count(*) n from pets group by name order by n": (
        "SELECT name, count(*) AS n FROM pets GROUP BY name ORDER BY count(*)"
    ),
    "select extract(year from day) as day, count(*) from visits group by day": (
        "SELECT EXTRACT(YEAR FROM day) AS day, count(*) FROM visits GROUP BY day"
    ),
    "select *, kg from pets order by 1": "SELECT *, kg FROM pets ORDER BY 1",
    'select v.price, a.note from visits v left join "Audit" a using (id) where id > 3': (
        'SELECT visits.price, "Audit".note FROM visits LEFT JOIN "Audit" ON visits.id = "Audit".id WHERE visits.id > 3'
    ),
    'select price, note from visits inner join "Audit" using (id) fetch first row only': (
        'SELECT visits.price, "Audit".note FROM visits JOIN "Audit" ON visits.id = "Audit".id LIMIT 1'
    ),
    "select a.name, b.name from pets as a join pets as b on a.vet = b.id": (
        "SELECT t1.name, t2.name FROM pets AS t1 JOIN pets AS t2 ON t1.vet = t2.id"
    ),
    "select count(*) from (select name from pets group by name) x": (
        "SELECT count(*) FROM (SELECT name FROM pets GROUP BY name) AS t1"
    ),
    "select date_trunc('Month', day), sum(price) filter (where price > 3) from visits group by 1": (
        "SELECT date_trunc('month', day), sum(price) FILTER(WHERE price > 3) FROM visits "
        "GROUP BY date_trunc('month', day)"
    ),
    "select substring(name from 1 for 2), round(kg, 1) from pets fetch first 3 rows only": (
        "SELECT substring(name, 1, 2), round(kg, 1) FROM pets LIMIT 3"
    ),
    "select (array_agg(kg order by id))[1] from pets": "SELECT (array_agg(kg ORDER BY id))[1] FROM pets",
    "select cast(sum(kg) / count(*) as numeric), cast(-kg as int) from pets group by kg": (
        "SELECT (sum(kg) / count(*))::numeric, (-kg)::int FROM pets GROUP BY kg"
    ),
    'select v.price as id from visits v join "Audit" a using (id) order by id': (
        'SELECT visits.price AS id FROM visits JOIN "Audit" ON visits.id = "Audit".id ORDER BY visits.price'
    ),
    "select visits.name from pets visits where exists (select 1 from visits where visits.pet = 3)": (
        "SELECT name FROM pets WHERE EXISTS(SELECT 1 FROM visits WHERE pet = 3)"
    ),
}
#: what decoding writes in no spelling keeps its meaning all the same, on whatever rows
KEPT = {
    "select date_trunc('day', day, 'UTC') from visits": "SELECT date_trunc('day', day, 'UTC') FROM visits",
    "select name from pets where not (kg between symmetric 3 and 1)": (
        "SELECT name FROM pets WHERE NOT (kg BETWEEN SYMMETRIC 3 AND 1)"
    ),
    "select name from pets where not (name like any (array['a%', 'b%']))": (
        "SELECT name FROM pets WHERE NOT (name LIKE ANY(array['a%', 'b%']))"
    ),
    "select name, kg, 2 as k from pets order by k, name": "SELECT name, kg, 2 AS k FROM pets ORDER BY k, name",
    "select kg as id, id as kg from pets order by id, 2": "SELECT kg AS id, id AS kg FROM pets ORDER BY id, 2",
    "select upper(x.name) as name from (select name from pets) x group by name": (
        "SELECT upper(t1.name) AS name FROM (SELECT name FROM pets) AS t1 GROUP BY name"
    ),
    "with t1 as (select 1 as id) select p.id from pets p where exists (select 1 from t1 where t1.id = p.id)": (
        "WITH t1 AS (SELECT 1 AS id) SELECT t2.id FROM pets AS t2 WHERE EXISTS(SELECT 1 FROM t1 WHERE t1.id = t2.id)"
    ),
    "select v.id from pets cross join (select day from visits) x join visits v using (id, day)": (
        "SELECT t2.id FROM pets CROSS JOIN (SELECT day FROM visits) AS t1 JOIN visits AS t2 USING (id, day)"
    ),
    "select p.name from pets p full outer join vets v using (id)": (
        "SELECT t1.name FROM pets AS t1 FULL JOIN vets AS t2 USING (id)"
    ),
}


@pytest.mark.parametrize("sql", SPELLED)
def test_one_spelling_that_decoding_accepts(sql):
    same = Result(rows=[(1,)])
    written = spelled(sql, CLINIC, lambda _: same, same)
    assert completion(written, CLINIC) == SPELLED[sql]
    assert spelled(written, CLINIC, lambda _: same, same) == written
    assert decodable(written)
    assert not decodable(sql)


@pytest.mark.parametrize("sql", KEPT)
def test_no_other_meaning(sql):
    same = Result(rows=[(1,)])
    assert spelled(sql, CLINIC, lambda _: same, same) == KEPT[sql]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (SELECT id FROM pets) SELECT count(*) FROM x",
        "SELECT name, rank() OVER (ORDER BY kg) FROM pets",
        "SELECT name FROM pets WHERE born > LOCALTIMESTAMP",
        "SELECT pets.name FROM pets JOIN visits ON pets.id = visits.id",
    ],
)
def test_what_decoding_never_writes(sql):
    assert not decodable(sql)


@pytest.mark.parametrize("sql", ["select Name from pets", "select ((", "SELECT name FROM pets"])
def test_a_query_that_would_have_another_result_stays_as_it_is(sql):
    assert spelled(sql, CLINIC, lambda _: Result(rows=[(2,)]), Result(rows=[(1,)])) == sql
