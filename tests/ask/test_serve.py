"""`text2sql serve`: OpenAI's client and MCP's, what is sent wrongly, and what the server refuses to be."""

import asyncio
import json
import socket
import threading
import time

import openai
import pytest
import uvicorn
from schemas import parse
from scripted import Scripted

from text2sql.ask.place import Place
from text2sql.ask.serve import Batcher, QueueFull, ServeOptions, build_app, check_address, named_places
from text2sql.errors import UserError
from text2sql.postgres.compare import Result

TOKEN = "geheim"
QUESTION = "How many customers are there?"
OPTIONS = ServeOptions({}, "a script", run=True, timeout=5.0)


@pytest.fixture(scope="module")
def address():
    schema = parse("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    places = {
        "shop": Place(schema, lambda sql: Result(("count",), [(3,)]), True),
        "broken": Place(schema, lambda sql: Result(error="lost", message="the server is gone"), True),
    }
    batcher = Batcher(Scripted({QUESTION: "select count(*) from customers"}), 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(build_app(batcher, places, OPTIONS, TOKEN), port=port, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()
    batcher.close()


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)


def messages(text):
    return [{"role": "user", "content": text}]


def test_chat(client):
    assert [model.id for model in client.models.list()] == ["text2sql/shop", "text2sql/broken"]
    done = client.chat.completions.create(model="text2sql/shop", messages=messages(QUESTION))
    assert done.choices[0].message.content == (
        "```sql\nSELECT\n  COUNT(*)\nFROM customers;\n```\n\n| count |\n| --- |\n| 3 |"
    )
    parts = client.chat.completions.create(model="text2sql/shop", messages=messages(QUESTION), stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in parts) == done.choices[0].message.content


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
        (b"{}", {"Authorization": "Bearer wrong"}, 401),
    ],
)
def test_bad_requests(address, body, headers, status):
    import httpx

    headers = {"Authorization": f"Bearer {TOKEN}", **headers}
    answer = httpx.post(f"{address}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert (
        "text2sql_requests_total" in httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    )


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
            shown = await session.call_tool("schema", {})
            wrong = await session.call_tool("ask", {"question": QUESTION, "database": "nope"})
            return tools, asked.content[0].text, ran.content[0].text, shown.content[0].text, wrong.isError

    tools, asked, ran, shown, wrong = asyncio.run(talk())
    assert tools == {"schema", "ask", "run"}
    assert json.loads(asked)["rows"] == json.loads(ran)["rows"] == [[3]]
    assert shown.startswith("CREATE TABLE customers")
    assert wrong


def test_the_queue_has_an_end():
    batcher = Batcher(Scripted({}, seconds=0.5), 2)
    place = Place(parse("CREATE TABLE a (x int)"), lambda sql: Result(), False)
    with pytest.raises(QueueFull):
        [batcher.submit(QUESTION, place, False) for _ in range(20)]
    batcher.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_beyond_loopback_only_with_a_token(host):
    with pytest.raises(UserError, match="open to other machines"):
        check_address(ServeOptions({}, "m", host=host), None)


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="--port"):
            check_address(ServeOptions({}, "m", port=taken.getsockname()[1]), None)


def test_names():
    given = {"sqlite": ["shop=a.sqlite"], "dsn": ["postgresql://u:p=x@h/d"], "schema": []}
    assert named_places(given) == {"shop": ("a.sqlite", "sqlite"), "default": ("postgresql://u:p=x@h/d", "dsn")}
    with pytest.raises(UserError, match="which database"):
        named_places({})
