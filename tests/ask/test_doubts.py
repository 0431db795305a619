"""What is doubted in a query, and what is not."""

import pytest

from tests.schemas import parse
from text2sql.ask.doubts import doubts
from text2sql.ask.unknown import query_scopes

SHOP = parse("""
create table customers (id integer primary key, name text, city text, joined date,
                        state text check (state in ('new', 'gone')));
create table orders (id integer primary key, customer_id integer references customers (id), total numeric);
create table visits (id integer primary key, customer_id integer references customers (id), note text);
""")
QUESTION = "Which customers from New York joined after 2019 and paid more than 1,500.50 or 20 %?"


def doubted_in(sql, question, schema):
    return doubts(query_scopes(sql), question, schema)


@pytest.mark.parametrize(
    ("condition", "doubted"),
    [
        ("city = 'New York'", None),
        ("city = 'new york'", None),
        ("lower(city) = 'boston'", "'boston' is neither in the question nor a known value of city"),
        ("city in ('New York', 'Boston')", "'Boston'"),
        ("city like 'New%York'", None),
        ("city ilike '%Jersey%'", "'%Jersey%'"),
        ("'Boston' = city", None),  # only the right side is looked at
        ("joined > '2019-12-31'", None),
        ("joined > date '2018-12-31'", "'2018-12-31'"),
        ("joined between '2019-01-01' and '2021-01-01'", "'2021-01-01'"),
        ("id > 1500.5", None),
        ("id > 0.2", None),
        ("id > 99", "99 is neither"),
        ("id = 2", None),
        ("city = name", None),
        ("state = 'gone'", None),
        ("state = 'lost'", "'lost'"),
        ("street = 'Boston'", None),  # `unknown` tells of a column that is none
    ],
)
def test_literals(condition, doubted):
    (sentence,) = doubted_in(f"select name from customers where {condition}", QUESTION, SHOP) or [None]
    assert sentence is None if doubted is None else sentence.startswith(doubted)


@pytest.mark.parametrize(
    ("question", "condition", "doubted"),
    [
        ("How many joined in 2024?", "joined >= '2024-01-01' and joined < '2025-01-01'", None),
        ("How many joined after 2024?", "joined >= '2025-01-01'", None),
        ("How many joined before 2024?", "joined <= '2023-12-31'", None),
        ("How many joined in 2024?", "joined < '2026-01-01'", "'2026-01-01'"),
        ("How many joined in 2024?", "joined = '2025-01-01'", "'2025-01-01'"),
        ("Who has more than a hundred?", "id > 100", None),
        ("Who has more than twenty five?", "id > 25", None),
        ("Who has more than 5k?", "id > 5000", None),
        ("Who has more than 1.5 million?", "id > 1500000", None),
        ("Who has more than 5 karats?", "id > 5000", "5000"),
    ],
)
def test_years_and_numbers_in_words(question, condition, doubted):
    (sentence,) = doubted_in(f"select name from customers where {condition}", question, SHOP) or [None]
    assert sentence is None if doubted is None else sentence.startswith(doubted)


@pytest.mark.parametrize(
    ("joined", "doubted"),
    [
        ("customers join orders on customers.id = orders.customer_id", None),
        ("customers c join orders o on o.customer_id = c.id join visits v on v.customer_id = c.id", None),
        ("orders join visits on orders.customer_id = visits.customer_id", None),  # both refer to customers
        ("customers, orders where customers.id = orders.customer_id", None),
        ("customers a join customers b on a.id = b.id", None),
        (
            "customers join orders on customers.id = orders.id",
            "orders is joined along no key: customers.id = orders.id",
        ),
        ("customers, orders", "every row of orders is joined with every row of the others"),
        ("customers join orders using (id)", None),  # no telling without the schema's help
        ("customers join (select 1 as id) o on o.id = customers.id", None),
        ("customers join orders on id = customer_id", None),
        ("customers c join orders o on o.customer_id = c.id + 1", None),
        ("generate_series(1, 3) m left join orders o on date_trunc('month', o.total) = m", None),
        ("customers c join orders o on o.total between c.id and c.id + 9", None),
        (
            "customers c join orders o on c.name = c.city",
            "every row of orders is joined with every row of the others",
        ),
    ],
)
def test_joins(joined, doubted):
    assert doubted_in(f"select 1 from {joined}", QUESTION, SHOP) == ([doubted] if doubted else [])


def test_nothing_is_said_of_joins_without_keys_and_of_what_is_no_query():
    assert (
        doubted_in("select 1 from a join b on a.x = b.y", "?", parse("create table a (x int); create table b (y int)"))
        == []
    )
    assert doubted_in("no SQL", "?", SHOP) == doubted_in("delete from orders where id = 77", "?", SHOP) == []
