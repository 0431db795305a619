"""Queries in words."""

import pytest

from app.explain import explain


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        (
            "select name, price from products where price > 5 order by price desc, name",
            "Name and price of products, where price is over 5, in descending order of price and in order of name.",
        ),
        ("select count(*) from order_items", "Number of order items."),
        ("select count(*), min(a) from staff", "Number of rows and lowest a of staff."),
        ("select count(distinct city), avg(t.age) from t", "Number of different city and average age of t."),
        ("select distinct city from t limit 1", "Each different city of t, only the first."),
        ("select city from t fetch first row only", "City of t, only the first."),
        ("select city from t limit 2 + 1", "City of t, only the first 2 + 1."),
        (
            "select count(*) from customers join orders on customers.id = customer_id join items on true",
            "Number of rows, from customers joined with orders and items.",
        ),
        (
            "select c.name, c.city, sum(total) as s from customers as c join orders on c.id = customer_id "
            "where c.age > 3 group by c.name having count(*) >= 2 order by s desc, c.name limit 3",
            "For each name of customers: city of customers and sum of total, from customers joined with orders, "
            "where age of customers is over 3, if its number of rows is at least 2, "
            "in descending order of sum of total and in order of name of customers, only the first 3.",
        ),
        ("select city, count(*) as n from customers group by city", "For each city: number of customers."),
        (
            "select date_trunc('month', order_date)::date, count(*) from orders "
            "where extract(year from order_date) = 2024 group by date_trunc('month', order_date)::date",
            "For each month of order date: number of orders, where year of order date is 2024.",
        ),
        ("select city from customers group by city", "City of customers, for each city."),
        (
            "select t1.customer_name, t2.* from customers as t1 left join orders as t2 on t2.customer_id = t1.id",
            "Customer name and all columns of orders, from customers with or without orders.",
        ),
        (
            "select * from t where a between 1 and 2 or (b in ('x', 'y') and c is null and d is not null)",
            "All columns of t, where a is between 1 and 2 or (b is one of 'x' and 'y' and c is missing "
            "and d is there).",
        ),
        (
            "select a from t where a > (select avg(t1.a) from t as t1) and name like 'A%'",
            "A of t, where a is over (average a of t) and name is like 'A%'.",
        ),
        (
            "select a from t where b not in (select b from u where c = 1) and a = (select 1)",
            "A of t, where b is not among (b of u, where c is 1) and a is (SELECT 1).",
        ),
        (
            "select a from t where name not like 'A%' and b not in (1, 2) and not c is null and not d",
            "A of t, where name is not like 'A%' and b is none of 1 and 2 and c is there and NOT d.",
        ),
        ("select a from t full join u on t.b = u.b", ""),
        ("select a from t union select b from u", ""),
        ("with x as (select 1) select * from x", ""),
        ("select a from (select 1 as a)", ""),
        ("select 1", ""),
        ("select g from generate_series(1, 3) as g", ""),
        ("select a from t offset 3", ""),
        ("select row_number() over (order by a) from t", "ROW_NUMBER() OVER (ORDER BY a) of t."),
        ("select name from customers where active is not false", "Name of customers, where NOT active IS FALSE."),
        ("select a from t left join u on u.id = t.u_id and u.state = 'open'", ""),
        ("select a from t fetch first 3 rows only", "A of t, only the first 3."),
        ("drop table t", ""),
        ("no SQL", ""),
    ],
)
def test_sentences(sql, sentence):
    assert explain(sql) == sentence
