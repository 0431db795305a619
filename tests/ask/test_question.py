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
Select all customers from Berlin (Germany)
Select the names from the orders (2023)
Select name from customers (2023)
Select customers from Berlin (Germany), Paris (France)
Select customers from city (Berlin or Paris)
Select customers from city (name = Berlin)
Select all products from stock (price > 5)
Select names (first, last) from customers
Select all (active) customers from Berlin
Select customer(s) from Berlin
Select customers from Berlin (Germany) order by name
Select customers from "Berlin (Germany)"
Select average (mean) price from products
Select all customers from St.Petersburg
Select customers from amazon.com
Select airlines from U.S.A
Select v2.0 from stock
Select 5* hotels from Berlin
Select the customer_id from the orders
Show customers from Berlin (Germany)
Show the customers with more than 3 orders (paid)
Show me (all) customers with total > 100
With which customers (by city) did we earn most?
Update customers set (for the list)
Insert into the (new) list all customers
Insert into list (2023) all customers
Insert into report values of May
Delete from list where nobody bought
Create table overview (by city)
Create user list (sorted by name)
Create table overview as a list
Create table overview on customers
Create role overview (all)
Drop table reservations, show the rest
Alter table seating, just count seats
Table customers (Berlin)
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
select name from customers where (name = 'Ann' or city = 'Berlin')
select name from customers where city in ('Berlin', 'Paris') and id in (1, 2)
select name from customers where city like 'B%' or name like "A%"
select count (*) from visits
select avg (total) from orders
select x from generate_series(1, 3) x
select total from orders where customer_id = (select max(id) from customers)
select customers.name from customers order by customers.city
select order_id from order_items
insert into customers values (1, 'Ann')
insert into customers values(1, 'Ann')
insert into customers (id, name) values (1, 'Ann')
insert into customers (select * from customers)
insert into customers default values
delete from customers where city is null
update customers set (name, city) = ('x', 'y')
drop table customers, orders;
create table t as select 1
create table t (a varchar(20), b point)
create function f() returns int
create view v (a, b) as select 1, 2
create index i on customers using hash (name)
create type state as enum ('a')
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
