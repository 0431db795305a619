"""Queries in words."""

import pytest

from app.explain import explain


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        (
            "select name, price from products where price > 5 order by price desc",
            "Name and price of products, where price is over 5, highest price first.",
        ),
        ("select count(*) from order_items", "Number of order items."),
        ("select count(distinct city), avg(t.age) from t", "Number of different city and average age of t."),
        ("select distinct city from t limit 1", "Different city of t, only the first."),
        (
            "select c.name, sum(total) as s from customers as c join orders on c.id = customer_id group by c.name "
            "having count(*) >= 2 order by s desc, c.name limit 3",
            "Name and total total of customers and orders, for each name, if number is at least 2, "
            "highest total total first and lowest name first, only the first 3.",
        ),
        (
            "select * from t where a between 1 and 2 or (b in ('x', 'y') and c is null and d is not null)",
            "All columns of t, where a is between 1 and 2 or (b is one of 'x' and 'y' and c is missing "
            "and d is there).",
        ),
        (
            "select a from t where a > (select avg(a) from t) and name like 'A%'",
            "A of t, where a > (SELECT AVG(a) FROM t) and name is like 'A%'.",
        ),
        (
            "select a from t where name not like 'A%' and b not in (1, 2) and not c is null",
            "A of t, where name is not like 'A%' and NOT b IN (1, 2) and NOT c IS NULL.",
        ),
        ("select a from t union select b from u", ""),
        ("with x as (select 1) select * from x", ""),
        ("select a from (select 1 as a)", ""),
        ("select 1", ""),
        ("select a from t offset 3", ""),
        ("select row_number() over (order by a) from t", "ROW_NUMBER() OVER (ORDER BY a) of t."),
        ("drop table t", ""),
        ("no SQL", ""),
    ],
)
def test_sentences(sql, sentence):
    assert explain(sql) == sentence
