"""`text2sql serve`: OpenAI's client and MCP's, what is sent wrongly, and what the server refuses to be."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import uvicorn
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.ask.pooler import away
from tests.schemas import parse
from tests.scripted import Scripted
from text2sql.ask.catalog import Target
from text2sql.ask.place import Place, open_place
from text2sql.ask.serve import (
    Batcher,
    Busy,
    ServeOptions,
    answer_text,
    build_app,
    build_mcp,
    check_address,
    named_places,
)
from text2sql.cli import app
from text2sql.errors import UserError
from text2sql.postgres.compare import Result
from text2sql.postgres.server import server

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "geheim"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTTP = httpx.Client()  # each new one would read the certificates again
QUESTION = "How many customers are there?"
OPTIONS = ServeOptions({}, "a script", run=True, timeout=5.0, queue=4)


def fail(sql):
    raise ConnectionError("the password is geheim")


class Limited(Scripted):
    """A model that has no room for the table `too_large`."""

    def prompt(self, question, schema, target=None):
        if schema.table("too_large"):
            raise UserError("the schema takes 9,000 tokens; the model reads 4,096", "name the tables")
        return super().prompt(question, schema, target)


@contextmanager
def listening(batcher, places, grace=5):
    """The address of a server; it is told to end with the block, and gives what runs `grace` seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(
        uvicorn.Config(
            build_app(batcher, places, TOKEN), port=port, log_level="warning", timeout_graceful_shutdown=grace
        )
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join()
        batcher.close()


@pytest.fixture(scope="module")
def address():
    schema = parse("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    places = {
        "shop": Place(schema, lambda sql: Result(("count",), [(3,)]), True),
        "broken": Place(schema, lambda sql: Result(error="lost", message="the server is gone"), True),
    }
    # The table has a name of its own so that a schema over the model's limit can be told from the others
    large = parse("CREATE TABLE too_large (id int)")
    places |= {"failing": Place(schema, fail, True), "large": Place(large, fail, True)}
    batcher = Batcher(Limited({QUESTION: "select count(*) from customers"}), OPTIONS)
    with listening(batcher, places) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)


def messages(text):
    return [{"role": "user", "content": text}]


def test_chat(client):
    assert "text2sql/shop" in [model.id for model in client.models.list()]
    done = client.chat.completions.create(model="text2sql/shop", messages=messages(QUESTION))
    assert done.choices[0].message.content == (
        "```sql\nSELECT\n  COUNT(*)\nFROM customers;\n```\n\n| count |\n| --- |\n| 3 |"
    )
    # the script's prompt is the question, its answer the end alone
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(QUESTION), 1)
    assert done.model_extra["text2sql"]["confidence"] == 0.881
    parts = list(client.chat.completions.create(model="text2sql/shop", messages=messages(QUESTION), stream=True))
    assert "".join(p.choices[0].delta.content or "" for p in parts) == done.choices[0].message.content
    assert parts[-1].usage == done.usage


def test_a_long_result_shows_its_first_rows():
    place = Place(parse("CREATE TABLE a (x int)"), lambda sql: Result(), True)
    rows = [(number,) for number in range(1000)]
    engine = Scripted({QUESTION: "select 1"})
    for error, count in ((None, "1,000 rows"), ("too_many_rows", "more than 1,000 rows")):
        result = Result(("x",), rows, error, "only the first 1,000 rows are shown" if error else "")
        answer = engine.ask(QUESTION, place, execute=lambda sql, result=result: result, run=True)
        text = answer_text(answer)
        assert "\n\n| x |\n| --- |\n| 0 |\n" in text
        assert f"| 49 |\n\n{count}, the first 50 shown\n" in text


def test_warnings(client):
    question = "Delete every customer there is"
    done = client.chat.completions.create(model="text2sql/shop", messages=messages(question))
    (warning,) = done.model_extra["text2sql"]["warnings"]
    assert "nothing will be changed" in warning
    assert f"warning: {warning}" in done.choices[0].message.content


def test_a_client_that_hangs_up_gives_its_place_away():
    """The first question is at the model, two wait: no place is left, until one of their clients hangs up."""
    asked = []

    class Noting(Scripted):
        def generate_batch(self, prompts, candidates=1, drawn=0):
            asked.extend(prompt.question for prompt in prompts)
            return super().generate_batch(prompts, candidates, drawn)

    schema = parse("CREATE TABLE customers (id int)")
    options = ServeOptions({}, "a script", timeout=50.0, queue=2)
    batcher = Batcher(Noting({}, seconds=3.0), options)
    places = {"shop": Place(schema, lambda sql: Result(), False)}
    with listening(batcher, places) as address, ThreadPoolExecutor() as pool:

        def ask(question):
            return HTTP.post(
                f"{address}/v1/chat/completions", json={"messages": messages(question)}, headers=BEARER, timeout=60
            )

        first = pool.submit(ask, "How many in the batch?")
        wait_for(lambda: asked)
        waiting = [open_question(address, f"How many wait {number}?") for number in range(2)]
        wait_for(lambda: len(batcher._waiting) == 2)
        full = ask("How many more?")
        assert (full.status_code, full.headers["retry-after"]) == (429, "5")
        waiting[0].close()
        wait_for(lambda: any(w.answer.cancelled() for w in batcher._waiting))
        last = pool.submit(ask, "How many instead?")
        assert (first.result().status_code, last.result().status_code) == (200, 200)
        waiting[1].close()
        counts = HTTP.get(f"{address}/metrics", headers=BEARER).text
    assert sorted(asked) == ["How many in the batch?", "How many instead?", "How many wait 1?"]
    assert 'text2sql_requests_total{path="/v1/chat/completions",status="499"} 1.0' in counts
    assert 'text2sql_requests_total{path="/v1/chat/completions",status="429"} 1.0' in counts


@pytest.mark.parametrize(("seconds", "grace", "status"), [(1.0, 20, 200), (8.0, 1, 503)])
def test_the_end_of_the_server_while_it_answers(caplog, seconds, grace, status):
    place = Place(parse("CREATE TABLE customers (id int)"), lambda sql: Result(), False)
    batcher = Batcher(Scripted({}, seconds), OPTIONS)
    with ThreadPoolExecutor() as pool:
        with listening(batcher, {"shop": place}, grace) as address:
            url, body = f"{address}/v1/chat/completions", {"messages": messages(QUESTION)}
            asked = [pool.submit(HTTP.post, url, json=body, headers=BEARER, timeout=60) for _ in range(2)]
            time.sleep(0.7)
        assert [done.result().status_code for done in asked] == [status] * 2
        assert all(bool(done.result().json().get("error")) == (status != 200) for done in asked)
    assert "Exception in ASGI application" not in caplog.text


def wait_for(condition):
    while not condition():
        time.sleep(0.01)


def open_question(address, question):
    """A connection on which a question was asked."""
    host, _, port = address.removeprefix("http://").partition(":")
    body = json.dumps({"messages": messages(question), "model": "text2sql/shop"})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def test_a_server_that_is_away_and_comes_back():
    with server() as running:
        with running.connect() as owner:
            owner.execute("create table customers (id int); insert into customers values (1), (2)")
        batcher = Batcher(Scripted({QUESTION: "select count(*) from customers"}), OPTIONS)
        with open_place(running.dsn()) as place, listening(batcher, {"shop": place}) as address:

            def ask():
                done = HTTP.post(
                    f"{address}/v1/chat/completions", json={"messages": messages(QUESTION)}, headers=BEARER
                )
                return done.json()["text2sql"]

            with away(running):
                lost = ask()
            assert (lost["error"], "cannot be reached" in lost["message"]) == ("lost", True)
            assert lost["sql"], "what the model wrote is there all the same"
            assert ask()["rows"] == [[2]]


def test_slow_queries_of_a_batch_do_not_stand_in_a_row():
    schema = parse("CREATE TABLE customers (id int)")
    batcher = Batcher(Scripted({}), ServeOptions({}, "a script", run=True, timeout=2.0))
    place = Place(schema, lambda sql: time.sleep(1.2) or Result(), True)
    answers = [batcher.submit(QUESTION, place) for _ in range(13)]
    ends = [answer.exception() for answer in answers]
    assert ends[:4] == [None] * 4
    assert isinstance(ends[-1], TimeoutError), "nobody waits for it any more"
    batcher.close()


def test_a_client_that_hangs_up_stops_nobody_else(address, client):
    port = int(address.rpartition(":")[2])
    body = json.dumps({"messages": messages(QUESTION), "model": "text2sql/shop"})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    for sent in (f"{head}Content-Length: {len(body)}\r\n\r\n{body}", f"{head}Content-Length: 999\r\n\r\n{body}", head):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent.encode())
    assert client.chat.completions.create(model="text2sql/shop", messages=messages(QUESTION)).choices


def chat(**changed):
    return json.dumps({"messages": messages(QUESTION), "model": "text2sql/shop", **changed}).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"n": 3, "stop": ["a"], "max_tokens": 1, "temperature": 2, "tools": [], "user": "x"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image_url"}]}]},
        {"messages": [{"role": "system", "content": None}, *messages("x"), {"role": "assistant"}, *messages(QUESTION)]},
        {"stream": None},
    ],
)
def test_what_does_not_count_is_passed_over(address, changed):
    answer = HTTP.post(f"{address}/v1/chat/completions", content=chat(**changed), headers=BEARER)
    assert answer.json()["text2sql"]["rows"] == [[3]]
    assert len(answer.json()["choices"]) == 1


def test_a_database_that_goes_away_is_an_answer(client):
    done = client.chat.completions.create(model="text2sql/broken", messages=messages(QUESTION))
    assert "lost: the server is gone" in done.choices[0].message.content


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"messages": []}', {}, 400),
        (b'{"messages": [{"role": "user", "content": ""}], "model": "text2sql/shop"}', {}, 400),
        (json.dumps({"messages": messages("select * from customers"), "model": "text2sql/shop"}).encode(), {}, 400),
        (json.dumps({"messages": messages("x" * 1001), "model": "text2sql/shop"}).encode(), {}, 400),
        (json.dumps({"messages": messages(QUESTION), "model": "gpt"}).encode(), {}, 404),
        (b" " * 1_000_001, {}, 413),
        (b"[" * 100_000, {}, 400),
        (b"\xff", {}, 400),
        (iter([b"{}"]), {}, 411),  # in pieces, without a length
        (json.dumps({"messages": messages(QUESTION), "model": "text2sql/large"}).encode(), {}, 400),
        (json.dumps({"messages": messages(QUESTION), "model": "text2sql/failing"}).encode(), {}, 500),
        (b"{}", {"Authorization": "Bearer wrong"}, 401),
        (b"{}", {"Authorization": f"Basic {TOKEN}"}, 401),
        (b"{}", {"Authorization": "Bearer"}, 401),
        (b"{}", {"Authorization": "Bearer ge\u00fc".encode()}, 401),
        (b"", {}, 400),
        (b" " * 50_000_000, {}, 413),
        (chat(messages="x"), {}, 400),
        (chat(messages=None), {}, 400),
        (chat(messages=[{"content": QUESTION}]), {}, 400),
        (chat(messages=[{"role": 5, "content": QUESTION}]), {}, 400),
        (chat(messages=[{"role": "user"}]), {}, 400),
        (chat(messages=[{"role": "user", "content": 5}]), {}, 400),
        (chat(messages=[{"role": "user", "content": [5]}]), {}, 400),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), {}, 400),
        (chat(messages=[{"role": "system", "content": QUESTION}]), {}, 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', {}, 400),
        (chat(model=5), {}, 400),
        (chat(model="text2sql/"), {}, 404),
        (chat(model="x" * 10_000), {}, 404),
        (chat(stream="maybe"), {}, 400),
    ],
)
def test_bad_requests(address, body, headers, status):
    headers = {"Authorization": f"Bearer {TOKEN}", **headers}
    answer = HTTP.post(f"{address}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert answer.json()["error"]["message"]
    assert "geheim" not in answer.text
    assert HTTP.get(f"{address}/health").json()["status"] == "ok"
    counted = f'text2sql_requests_total{{path="/v1/chat/completions",status="{status}"}}'
    assert counted in HTTP.get(f"{address}/metrics", headers={"Authorization": f"bearer {TOKEN}"}).text


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("HEAD", "/v1/chat/completions", 405, "POST"),
        ("POST", "/v1/models", 405, "GET, HEAD"),
        ("DELETE", "/metrics", 405, "GET, HEAD"),
        ("GET", "/v2", 404, ""),
        ("HEAD", "/v2", 404, ""),
    ],
)
def test_no_such_address(address, method, path, status, allowed):
    answer = HTTP.request(method, f"{address}{path}", headers=BEARER)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert ", ".join(sorted(answer.headers.get("allow", "").split(", "))) == allowed
    assert method == "HEAD" or answer.json()["error"]["message"]


def test_mcp(address):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            streamablehttp_client(f"{address}/mcp", headers=headers) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            asked = await session.call_tool("ask", {"question": QUESTION, "database": "shop"})
            ran = await session.call_tool("run", {"sql": "select 1"})
            deleted = await session.call_tool("run", {"sql": "DELETE FROM customers"})
            shown = await session.call_tool("schema", {})
            wrong = await session.call_tool("ask", {"question": QUESTION, "database": "nope"})
            assert deleted.isError
            assert "only queries are run" in deleted.content[0].text
            return tools, asked.content[0].text, ran.content[0].text, shown.content[0].text, wrong.isError

    tools, asked, ran, shown, wrong = asyncio.run(talk())
    assert tools == {"schema", "ask", "run"}
    assert json.loads(asked)["rows"] == json.loads(ran)["rows"] == [[3]]
    assert shown.startswith("CREATE TABLE customers")
    assert wrong


def test_mcp_runs_a_query_on_the_names_that_it_shows():
    ran = []

    def execute(sql):
        ran.append(sql)
        return Result(("n",), [(3,)])

    place = Place(
        parse("create table orders (id int)"), execute, True, Target(relations={"orders": ("sales", "orders")})
    )
    tools = build_mcp(Batcher(Scripted({}), OPTIONS), {"shop": place})
    asyncio.run(tools.call_tool("run", {"sql": "select count(*) from orders"}))
    assert ran == ["SELECT COUNT(*) FROM sales.orders"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("host.docker.internal:8000", 200),
        ("", 421),
        ("[", 421),
        ("evil.example:8000", 421),  # a page's own name for 127.0.0.1
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:8000", 421),
        ("192.168.1.7:8000", 421),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_without_a_token_only_this_machine_s_names_are_answered(host, status, path):
    batcher = Batcher(Scripted({}), OPTIONS)
    client = TestClient(build_app(batcher, {}, None), raise_server_exceptions=False)
    assert client.get(path, headers={"Host": host}).status_code == status
    batcher.close()


@pytest.mark.parametrize("path", ["/mcp", "/v1/chat/completions"])
def test_with_a_token_a_server_may_have_any_name(address, path):
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    body |= {"model": "text2sql/shop", "messages": messages(QUESTION)}
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "sql.example.org", "Accept": "application/json"}
    assert HTTP.post(f"{address}{path}", json=body, headers=headers).status_code == 200


#: `text2sql serve` on the example's database
SERVE_COMMAND = [
    sys.executable, "-m", "tests.ask.scripted_serve", "--run", "--sqlite", f"shop={EXAMPLES / 'shop.sqlite'}",
]  # fmt: skip


def test_the_process_answers_and_ends_on_sigterm():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*SERVE_COMMAND, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        wait_until_open(port, process)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        done = client.chat.completions.create(model="text2sql/shop", messages=messages(QUESTION))
        assert "SELECT" in done.choices[0].message.content
        servers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.kill()
    log = process.communicate()[1]
    assert "text2sql.serve loading models/release\n" in log
    assert "/v1/chat/completions 200" in log
    assert QUESTION not in log
    assert "Traceback" not in log
    assert not psutil.wait_procs(servers, timeout=300)[1], "PostgreSQL is still there"


def wait_until_open(port, process):
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(process.communicate()[1])


def test_mcp_on_the_standard_streams():
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def talk():
        server = StdioServerParameters(
            command=SERVE_COMMAND[0], args=[*SERVE_COMMAND[1:], "--mcp"], env=dict(os.environ)
        )
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            asked = await session.call_tool("ask", {"question": QUESTION})
            ran = await session.call_tool("run", {"sql": "select count(*) from customers"})
            return json.loads(asked.content[0].text), json.loads(ran.content[0].text)

    asked, ran = asyncio.run(talk())
    assert {"sql", "warnings"} <= asked.keys()
    assert ran["rows"] == [[10]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_mcp_on_the_standard_streams_ends_on_a_signal(number):
    hello = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*SERVE_COMMAND, "--mcp"], **pipes) as process:
        first = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
        print(json.dumps(first), file=process.stdin, flush=True)
        assert process.stdout.readline()
        process.send_signal(number)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_queue_has_an_end():
    batcher = Batcher(Scripted({}, seconds=0.5), ServeOptions({}, "a script", queue=2))
    place = Place(parse("CREATE TABLE a (x int)"), lambda sql: Result(), False)
    with pytest.raises(Busy):
        [batcher.submit(QUESTION, place) for _ in range(20)]
    batcher.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_beyond_loopback_only_with_a_token(host):
    with pytest.raises(UserError, match="open to other machines"):
        check_address(ServeOptions({}, "m", host=host), None)


def test_a_port_in_use_is_said_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--model", "models/none", "--sqlite", str(EXAMPLES / "shop.sqlite")]
        done = CliRunner().invoke(app, ["serve", *words, "--port", str(taken.getsockname()[1])])
    assert isinstance(done.exception, UserError)
    assert "--port" in str(done.exception)


@pytest.mark.parametrize("dsn", ["user=reader host=db dbname=shop", "port=5433 dbname=shop", "hostaddr=127.0.0.1"])
def test_a_dsn_of_pairs_has_no_name(dsn):
    assert named_places({"dsn": [dsn]}) == {"default": (dsn, "dsn")}


def test_names():
    given = {"sqlite": ["shop=a.sqlite"], "dsn": ["postgresql://u:p=x@h/d"], "schema": []}
    assert named_places(given) == {"shop": ("a.sqlite", "sqlite"), "default": ("postgresql://u:p=x@h/d", "dsn")}
    with pytest.raises(UserError, match="which database"):
        named_places({})
