"""What is a question and what is not: sentences that begin like SQL pass, statements are refused."""

import pytest

from tests.schemas import parse
from text2sql.ask.question import LONGEST_QUESTION, check_question, is_sql
from text2sql.errors import UserError

SHOP = parse("""
create table customers (id int, name text, city text);
create table orders (id int, customer_id int, total numeric);
create table products (id int, name text);
""")
SENTENCES = """
Select all customers from Berlin
Select customers from Berlin.
Select all customers from Berlin;
Select customers from Berlin?
Select the customers from Berlin and Paris
Select the names of customers from France, Italy and Spain
Select name and city from customers
Select distinct cities from the customers
Select customers with orders from 2023
Select top 5 products from last year
select all orders from May
Select "all" customers from Berlin
Show tables with more than 4 seats
Show all customers
Update me on orders of May
Update me on which customers bought a tea set
Update us: how many orders were set aside?
With which customers did we earn most?
With how many orders did 2023 end?
Delete all customers
Delete from the list all customers without orders: who is left?
Insert coin
Insert into my report the ten best customers
Create a list of users
Create user list
Create table overview by city
Create a view of sales by month
Create index of products by name
Drop off points in Rome
Drop user complaints from the list and show the rest
Alter nothing, just count customers
Grant amounts by year
Values of all orders
Table reservations of today
Explain the orders from May
Truncate names to ten letters and list them
Set of customers from Berlin
Call volume by month
Merge customers and orders by city
Use only customers from Rome
What is the total of all orders that customer O'Brien placed?
How many customers live in Los Angeles?
List names of airlines from Las Vegas
100%?
"""
STATEMENTS = """
select * from customers
select name from customers
select customer_id from orders order by id limit 3
SELECT count(*) FROM orders
select name from customers where city = 'Berlin'
select c.name from customers c join orders o on o.customer_id = c.id
with t as (select id from customers) select id from t
(select name from customers) union (select name from products)
insert into customers values (1, 'Ann')
insert into customers (id) select id from orders
delete from customers
delete from customers where id = 1
update customers set name = 'x' where id = 1
update only customers as c set name = 'x'
drop table customers
drop table if exists customers cascade;
create table t (id int)
create or replace view v as select * from customers
create unique index i on customers (name)
alter table customers add column x int
truncate customers
"""


@pytest.mark.parametrize("question", SENTENCES.strip().splitlines())
def test_english_sentences_pass(question):
    assert not is_sql(question)
    assert [warning for warning in check_question(question, SHOP) if "English" in warning] == []


@pytest.mark.parametrize("question", STATEMENTS.strip().splitlines())
def test_statements_are_refused(question):
    with pytest.raises(UserError, match="that is SQL already"):
        check_question(question, SHOP)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("", "is empty"),
        (" \t\n", "is empty"),
        ("?!", "is empty"),
        ("how many? " * 10_000, f"100,000 characters\n  -> ask in at most {LONGEST_QUESTION:,}"),
        ("How many \ud800?", "no text"),
        ("How many \0?", "no text"),
        ("How many \x1b[2J?", "no text"),
    ],
)
def test_what_is_no_question_is_said(question, said):
    with pytest.raises(UserError) as error:
        check_question(question, SHOP)
    assert said in str(error.value)
