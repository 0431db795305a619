"""Names that the schema does not have: each query beside what is said of it."""

import pytest

from tests.schemas import parse
from text2sql.ask.unknown import query_scopes, unknown_names

SCHEMA = parse(
    """CREATE TABLE customers (id int, name text, city text);
       CREATE TABLE orders (id int, customer_id int, total numeric);
       CREATE TABLE "Notes" ("Text" text);"""
)
KNOWN = [
    "select name from customers",
    "SELECT c.NAME FROM Customers AS c WHERE C.City = 'x'",
    "select c.name, sum(o.total) as s from customers c join orders o on o.customer_id = c.id group by 1 order by s",
    "select name from customers c where exists (select 1 from orders where customer_id = c.id and c.city = name)",
    "with t as (select customer_id, count(*) as n from orders group by 1) select n from t where t.customer_id > 1",
    "select x.n from (select name as n from customers) x",
    "select * from (select * from customers) x where x.anything = 1",
    "select n from (select name from customers) as x(n)",
    "select city from customers union select name from customers order by city",
    'select "Text" from "Notes"',
    "select g from generate_series(1, 3) g",
    "select c from customers c",
    "select count(*), customers.* from customers group by 2",
    "select ctid from orders",
    "select current_date",
    "not sql at all (",
    "drop table x",
]
UNKNOWN = {
    "select name from client": ["there is no table client"],
    "select nme from customers": ["no table of the query has a column nme"],
    "select c.nme, o.nme from customers c, orders o": ["customers has no column nme", "orders has no column nme"],
    "select x.name from customers": ["there is no x that name could belong to"],
    "select t.total from (select id from orders) t": ["t has no column total"],
    "select text from Notes": ["there is no table notes"],
    "select Text from \"Notes\"": ["no table of the query has a column text"],
    "select name from customers where id in (select client from orders)": ["no table of the query has a column client"],
    'select "Name" from customers': ['no table of the query has a column "Name"'],
}  # fmt: skip


@pytest.mark.parametrize("sql", KNOWN)
def test_known(sql):
    assert unknown_names(query_scopes(sql), SCHEMA) == []


@pytest.mark.parametrize("sql", UNKNOWN)
def test_unknown(sql):
    assert unknown_names(query_scopes(sql), SCHEMA) == UNKNOWN[sql]
