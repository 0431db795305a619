"""The demo in a real browser: every domain, a pasted schema, hostile questions and queries, two visitors at once."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from app.databases import MOST_TABLES, TITLES, Databases
from tests.scripted import Scripted
from text2sql.data.mini.domain import load_folder
from text2sql.errors import UserError

pytestmark = pytest.mark.browser
DOMAINS = {domain.db_id: domain for domain in load_folder("demo")}
ANSWERS = {question: sql for domain in DOMAINS.values() for question, sql in domain.questions} | {
    "Throw it all away": "drop table customers",
    "Read a file": "select pg_read_file('/etc/passwd')",
    "<img src=x onerror=alert(1)>": "select '<script>alert(1)</script>' as \"<b>x</b>\"",
    "How many books did each author write?": "select name, count(*) from authors join books "
    "on author_id = authors.id group by name",
    "A thousand rows": "select generate_series(1, 1000)",
    "How many orders has each status?": "select status, count(*) as n from orders group by status order by status",
    "Mended column": ["select nickname from customers", "select 2"],
    "Invented column": "select nickname from customers",
}


@pytest.fixture(scope="module")
def databases():
    with Databases() as running:
        yield running


@pytest.fixture(scope="module")
def address(databases):
    from app.demo import build_page, serve  # with gradio, whose import only the process of this file pays

    page = build_page(Scripted(ANSWERS, seconds=0.05), databases)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield serve(page, port, block=False).rstrip("/")
    page.close()


@contextmanager
def opened(browser, address, **viewport):
    """A visitor's page, which causes no error, dialog or request to elsewhere."""
    context = browser.new_context(**viewport)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on("request", lambda r: problems.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.wait_for_selector("#samples button")
    yield page
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def page(browser, address):
    """One page for all tests that do not mind what was asked before."""
    with opened(browser, address) as page:
        yield page


@pytest.fixture
def new_page(browser, address):
    with opened(browser, address) as page:
        yield page


@pytest.fixture(scope="module")
def client(address):
    """What the page's scripts do, without a browser."""
    from gradio_client import Client

    return Client(address, verbose=False)


def ask(page, question):
    """Type a question; waits until the answer of this one is there."""
    done = page.locator("[data-answer]").get_attribute("data-answer") if page.locator("[data-answer]").count() else "0"
    page.fill("#question textarea", question)
    page.click("#ask")
    page.wait_for_selector(f"[data-answer]:not([data-answer='{done}']), #notice .error")


def table(page):
    return [row.locator("td").all_inner_texts() for row in page.locator("#rows .scroll tbody tr").all()]


def test_the_sample_questions_of_every_domain(page):
    for key, title in reversed(TITLES.items()):  # the first one is chosen already
        page.get_by_text(title, exact=True).click()
        page.wait_for_function(
            "q => document.querySelector('#samples button')?.innerText.trim() === q", arg=DOMAINS[key].questions[0][0]
        )
        shown = page.locator("#samples button").all_inner_texts()
        assert [text.strip() for text in shown] == [question for question, _ in DOMAINS[key].questions]
        page.locator("#samples button").last.click()
        page.wait_for_selector("#rows tbody tr, #notice .error, #rows .error")
        assert page.locator(".error").count() == 0, page.locator(".error").all_inner_texts()
        assert table(page)
        assert "SELECT" in page.locator("#sql .cm-content").inner_text()


def test_all_gold_queries_have_rows(databases):
    for key, domain in DOMAINS.items():
        for question, sql in domain.questions:
            result = databases.execute(databases.domains[key], sql)
            if result.error is None:  # gold is SQLite's; those that PostgreSQL takes as they are
                assert result.rows, question


def test_pasted_schema(new_page):
    page = new_page
    page.get_by_text("Your schema", exact=True).click()
    page.wait_for_selector("#pasted textarea")
    ask(page, "How many books did each author write?")
    page.wait_for_selector("#rows .good")
    page.fill("#pasted textarea", "CREATE TABLE authors (id int, title text);")
    page.click("#run")
    page.wait_for_selector("#rows .error")
    assert 'relation "books" does not exist' in page.locator("#rows .error").inner_text()
    page.fill("#pasted textarea", "hello")
    page.click("#ask")
    page.wait_for_selector("#notice .error")
    assert "has no CREATE TABLE" in page.locator("#notice .error").inner_text()


@pytest.mark.parametrize(("text", "said"), [("", "has no CREATE TABLE"), ("CREATE TABLE (", "can be read")])
def test_pasted_nonsense(client, text, said):
    assert said in "".join(client.predict("How many?", "Your schema", text, api_name="/ask")[1:3])


def test_a_pasted_schema_is_asked_as_the_visitors_server_has_it(databases):
    pasted = databases.pasted("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int, total numeric);")
    assert pasted.target.relations == {"orders": ("sales", "orders")}
    assert databases.execute(pasted, "select count(*) from sales.orders").rows == [(0,)]


def test_what_was_changed_in_a_pasted_schema_is_said(client):
    text = "CREATE TABLE authors (id int); CREATE TABLE books (id int, title txet);"
    assert (
        "type txet is an extension&#x27;s: shown as text"
        in client.predict("How many?", "Your schema", text, api_name="/ask")[1]
    )


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Throw it all away", "not a query"),
        ("Read a file", "forbidden"),
        ("drop table customers", "that is SQL already"),
        ("   ", "the question is empty"),
        ("Mended column", "the server refused a first query"),
        ("Invented column", "no table of the query has a column nickname"),
    ],
)
def test_hostile_questions(client, databases, question, said):
    sql, notice, rows, *_ = client.predict(question, TITLES["ecommerce"], "", api_name="/ask")
    assert said in notice + rows
    assert (sql == "") == (question not in ANSWERS), "a declined question leaves no query in the editor"
    assert len(databases.execute(databases.domains["ecommerce"], "select * from customers").rows) == 30


def test_markup_is_text(page):
    ask(page, "<img src=x onerror=alert(1)>")
    page.wait_for_selector("#rows tbody tr")
    assert table(page) == [["<script>alert(1)</script>"]]
    assert page.locator("#rows th").inner_text() == "<b>x</b>"


def test_long_results_are_cut(page):
    ask(page, "A thousand rows")
    page.wait_for_selector("#rows")
    assert "more than 200 rows, the first 100 shown" in page.locator("#rows").inner_text()
    assert len(table(page)) == 100


def test_confidence_and_bars(page):
    ask(page, "How many orders has each status?")
    assert page.locator(".explained").inner_text() == "For each status: number of orders, in order of status."
    assert page.locator(".confidence").inner_text().strip() == "88% sure"
    assert page.locator(".bars tr").count() == len(table(page)) > 1
    assert page.locator(".bars caption").inner_text() == "n by status"


def test_edited_query_and_history(new_page):
    page = new_page
    ask(page, "How many customers are there?")
    page.locator("#sql .cm-content").fill("select max(price) as top from products")
    page.click("#run")
    page.wait_for_function("document.querySelector('#rows th')?.innerText === 'top'")
    assert table(page) == [["249.0"]]
    kept = page.evaluate("JSON.stringify(localStorage)")
    ask(page, "Which three products are the most expensive?")
    page.wait_for_function("kept => JSON.stringify(localStorage) !== kept", arg=kept)
    for _ in ("now", "after a reload"):
        page.get_by_text("History").click()
        page.wait_for_selector("#history summary")
        summaries = page.locator("#history summary").all_inner_texts()
        assert [s.rpartition(" ")[0] for s in summaries] == [
            "Which three products are the most expensive?",
            "How many customers are there?",
        ]
        page.reload()


def test_a_phone_needs_no_sideways_scrolling(browser, address):
    phone = {"viewport": {"width": 320, "height": 800}, "is_mobile": True, "has_touch": True}
    with opened(browser, address, **phone) as page:
        ask(page, "For each customer, show the name and the number of orders.")
        page.wait_for_selector("#rows tbody tr")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_two_visitors_at_once_get_their_own_answers(address):
    from gradio_client import Client

    def visit(title):
        client = Client(address, verbose=False)
        for number, (question, _) in enumerate(DOMAINS[title].questions[:4], 1):
            sql, *_, past = client.predict(question, TITLES[title], "", api_name="/ask")
            assert past.count("<details>") == number, "history is one's own"
            assert "SELECT" in sql
        return title

    titles = ["finance", "retail"]
    with ThreadPoolExecutor(2) as visitors:
        assert list(visitors.map(visit, titles)) == titles


def pasted_databases(databases):
    with psycopg.connect(databases._server.dsn()) as connection:
        query = "SELECT datname FROM pg_database WHERE datname LIKE 'pasted%'"
        return {name for (name,) in connection.execute(query)}


@pytest.fixture
def few_kept(monkeypatch):
    """So few pasted schemas are kept that a test can paste more."""
    monkeypatch.setattr("app.databases.PASTED", 4)
    return 4


def test_many_pasted_schemas_leave_few_databases(databases, few_kept):
    pasted = [databases.pasted(f"create table t{i} (a int);") for i in range(few_kept + 3)]
    assert databases.execute(pasted[-1], "select a from t6").error is None
    again = databases.pasted("create table t0 (a int);")
    assert databases.execute(again, "select a from t0").error is None
    assert len(pasted_databases(databases)) == few_kept
    with psycopg.connect(databases._server.dsn()) as connection:
        roles = connection.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sandbox%'").fetchone()[0]
    assert roles <= few_kept + len(TITLES)


UNUSUAL = {
    "types of extensions": "CREATE TABLE t (a citext, b hstore, c geography(Point, 4326), d vector(3), e ltree);",
    "an unknown type": "CREATE TABLE t (id int, a frobnicate(3));",
    "a column twice": "CREATE TABLE t (id int, id int);",
    "long names": f"CREATE TABLE {'t' * 80} (id int, {'c' * 70} text, {'c' * 70}x text);",
    "a table twice": "CREATE TABLE t (id int); CREATE TABLE t (id int);",
    "many tables": "".join(f"CREATE TABLE t{i} (id int primary key);\n" for i in range(MOST_TABLES + 1)),
    "thousands of columns": f"CREATE TABLE t ({', '.join(f'c{i} int' for i in range(2000))});",
    "a key to a unique column": "CREATE TABLE a (code text UNIQUE); CREATE TABLE b (c text REFERENCES a (code));",
    "a key to nothing": "CREATE TABLE t (a int REFERENCES nowhere (id));",
    "arrays of enums": "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (m mood[], i interval(6)); CREATE TABLE e ();",
    "odd names": 'CREATE TABLE "a""b" ("c;d" int, "e\n" text);',
    "no text": "CREATE TABLE t (id int, \ud800 text);",
    "a NUL": "CREATE TABLE t (id int, \0 text);",
    "nesting": f"CREATE TABLE t (id int DEFAULT {'(' * 5000}1{')' * 5000});",
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_an_unusual_schema_is_a_database_or_a_sentence_and_leaves_nothing(databases, text):
    before = pasted_databases(databases)
    for _ in range(2):
        try:
            pasted = databases.pasted(text)
        except UserError:
            assert pasted_databases(databases) == before
        else:
            assert databases.execute(pasted, "SELECT 1").rows == [(1,)]


def test_a_query_that_cannot_be_cancelled_keeps_nobody_waiting(databases, few_kept):
    own = databases.pasted("create table lonely (a int);")
    endless = "select repeat('a', 4000000) like '%' || repeat('a', 2000000) || 'b'"
    with ThreadPoolExecutor(1) as visitor:
        hanging = visitor.submit(databases.execute, own, endless)
        time.sleep(0.5)
        others = [databases.pasted(f"create table other{i} (a int);") for i in range(few_kept + 1)]  # drops `own`
        assert databases.execute(databases.domains["retail"], "select 1").rows == [(1,)]
        assert hanging.result(timeout=30).error in ("timeout", "lost")
    assert own.name not in pasted_databases(databases)
    assert others[-1].name in pasted_databases(databases)


# --- what listens ---


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/gradio_api/upload", lambda largest: {"files": {"files": ("a.bin", b"x" * 10)}}, 403),
        ("/gradio_api/queue/join", lambda largest: {"content": b"x" * (largest + 1)}, 413),
        ("/gradio_api/queue/join", lambda largest: {"content": iter([b"x"])}, 411),
    ],
)
def test_what_no_page_sends_is_refused(address, path, content, status):
    import httpx

    from app.demo import LARGEST_REQUEST

    assert httpx.post(address + path, **content(LARGEST_REQUEST)).status_code == status


def test_a_port_in_use_is_said_before_the_model_is_loaded():
    from app.demo import run_demo

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"in use(.|\n)*--port"):
            run_demo("models/none", port=taken.getsockname()[1])
