"""`text2sql serve`: answers for other programs, from one process that keeps the model loaded.

Questions that arrive together are answered in one batch. They wait in a queue of limited length (429 when it is full)
and for a limited time (504); a client that hangs up gives its place away. The server listens on loopback; beyond it
only with a bearer token, which is taken from the environment so that no process list shows it. The log has path, status
and milliseconds of each request, no text.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import ipaddress
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from text2sql.ask.dsn import PARAMETERS
from text2sql.ask.engine import Answer, AskedPrompt, Engine, result_dict
from text2sql.ask.fit import with_real_names
from text2sql.ask.place import Place, PlaceType, open_place, row_count
from text2sql.ask.question import STATEMENT
from text2sql.errors import UserError
from text2sql.postgres.compare import Result

if TYPE_CHECKING:
    from mcp.server.fastmcp import FastMCP

    from text2sql.model.generation import Generation

TOKEN = "TEXT2SQL_TOKEN"
PREFIX = "text2sql/"
#: questions that are answered in one batch at most
BATCH = 16
#: of a batch's queries, those that run at the same time
RUNNING = 4
#: seconds after which a client may try again where too many wait: about a batch
RETRY_SECONDS = 5
#: seconds for requests that run when the server is to end, and then for the batch: less than Kubernetes' 30 in all
GRACE_SECONDS, BATCH_SECONDS = 20, 5
#: bytes of a request's body
LARGEST_BODY = 1_000_000
#: endings of names that no public server has: RFC 6761, RFC 6762, and ICANN's for private use
LOCAL_ENDINGS = (".localhost", ".local", ".internal")
#: rows in a table of an answer
SHOWN_ROWS = 50
log = logging.getLogger("text2sql.serve")


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """The options of `text2sql serve`; `places` by the name after `text2sql/`."""

    places: Mapping[str, tuple[str, PlaceType]] = dataclasses.field(repr=False)  # a DSN may have a password
    model: str
    run: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 64
    timeout: float = 60.0
    trusted: Sequence[str] = ()


def named_places(given: Mapping[PlaceType, Sequence[str]]) -> dict[str, tuple[str, PlaceType]]:
    """The databases by name: `NAME=PLACE`, or `default` for the one without a name.

    Raises:
        UserError: there is none, or two have one name.
    """
    places: dict[str, tuple[str, PlaceType]] = {}
    for place_type, values in given.items():
        for value in values:
            name, _, place = value.partition("=")
            if not re.fullmatch(r"[\w-]+=.*", value, re.DOTALL) or (place_type == "dsn" and name in PARAMETERS):
                name, place = "default", value
            if name in places:
                raise UserError(f"two databases are called {name}", "name them: --sqlite shop=shop.sqlite")
            places[name] = (place, place_type)
    if not places:
        raise UserError("which database?", "give --schema FILE, --sqlite FILE or --dsn postgresql://...")
    return places


@dataclasses.dataclass
class Waiting:
    """A question in the queue."""

    question: str
    place: Place
    answer: Future[Answer] = dataclasses.field(default_factory=Future)
    started: float = dataclasses.field(default_factory=time.perf_counter)


@contextmanager
def reported_to(questions: Iterable[Waiting]) -> Iterator[None]:
    """What goes wrong in the block is told to those who asked, and the thread at the model goes on."""
    try:
        yield
    except Exception as error:
        for waiting in questions:
            waiting.answer.set_exception(error)


class Busy(UserError):
    """Too many questions wait."""


class Batcher:
    """Answers questions of several threads by one thread at the model, all that wait in one batch."""

    def __init__(self, engine: Engine, options: ServeOptions) -> None:
        self.engine, self.options = engine, options
        self._waiting: list[Waiting] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, question: str, place: Place) -> Future[Answer]:
        """The answer to come.

        Raises:
            Busy: too many wait, beside those whose clients have hung up or waited too long.
        """
        waiting = Waiting(question, place)
        with self._changed:
            self._waiting = [w for w in self._waiting if not w.answer.cancelled()]
            if len(self._waiting) >= self.options.queue:
                raise Busy("too many questions wait", "try again")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.answer

    async def answer(self, question: str, place: Place) -> Answer:
        """The answer, in time; if it is not waited for any more, the question leaves the queue.

        Raises:
            UserError: too many wait (`Busy`), the question is none, or its schema is too large.
            TimeoutError: the answer took longer than it may.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.submit(question, place)), self.options.timeout)
        except TimeoutError:
            raise TimeoutError(f"no answer within {self.options.timeout:.0f} s") from None

    def close(self) -> None:
        """End the thread, after the batch that it answers; questions behind it are not answered any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=BATCH_SECONDS)

    def _work(self) -> None:
        while batch := self._next_batch():
            self._answer([waiting for waiting in batch if waiting.answer.set_running_or_notify_cancel()])

    def _next_batch(self) -> list[Waiting]:
        """The first questions, once there are any; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            return [] if self._closed else batch

    def _answer(self, batch: Iterable[Waiting]) -> None:
        """Answer a batch; an error of one question is told to its client alone."""
        prompts: list[tuple[Waiting, AskedPrompt]] = []
        for waiting in batch:
            with reported_to([waiting]):
                prompts.append((waiting, self.engine.prepare(waiting.question, waiting.place)))
        if not prompts:
            return
        with reported_to([waiting for waiting, _ in prompts]), ThreadPoolExecutor(RUNNING) as pool:
            pool.map(self._finish, prompts, self.engine.generate_batch([prompt for _, prompt in prompts]))

    def _finish(self, asked: tuple[Waiting, AskedPrompt], written: Sequence[Generation]) -> None:
        waiting, prompt = asked
        execute = waiting.place.execute if self.options.run else None
        with reported_to([waiting]):
            if time.perf_counter() - waiting.started > self.options.timeout:
                raise TimeoutError  # behind queries that took too long: its client has been told
            answer = self.engine.finish(prompt, written, waiting.started, execute, self.options.run)
            waiting.answer.set_result(answer)


def serve_places(options: ServeOptions, standard_streams: bool = False) -> None:
    """Load the model, open the databases, and serve until SIGTERM or SIGINT.

    Raises:
        UserError: beyond loopback without a token, a port in use, a model or database that is not to be had.
    """
    token = os.environ.get(TOKEN) or None
    if not standard_streams:
        check_address(options, token)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # uvicorn ends on SIGTERM and then raises it again, which by default kills the process before anything is closed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        engine = Engine.load(options.model, log.info)
        if engine.located.notice:
            print(f"notice: {engine.located.notice}", file=sys.stderr)
        places = {
            name: stack.enter_context(open_place(place, trusted=options.trusted, expected=place_type))
            for name, (place, place_type) in options.places.items()
        }
        for note in (f"{name}: {note}" for name, place in places.items() for note in place.schema.notes):
            print(f"notice: {note}", file=sys.stderr)
        batcher = Batcher(engine, options)
        stack.callback(batcher.close)
        if standard_streams:

            def end(*_: object) -> None:
                stack.close()
                os._exit(0)  # MCP's thread waits for the standard input, and cannot be cancelled

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)
            build_mcp(batcher, places).run("stdio")
            return
        import uvicorn

        app = build_app(batcher, places, token)
        uvicorn.run(app, host=options.host, port=options.port, access_log=False, log_level="warning",
                    timeout_graceful_shutdown=GRACE_SECONDS)  # fmt: skip


def check_address(options: ServeOptions, token: str | None) -> None:
    """Refuse an address that is open to others without a token, or in use.

    Raises:
        UserError: as said.
    """
    if not token and not is_loopback(options.host):
        raise UserError(f"{options.host} is open to other machines", f"set {TOKEN}, which clients must then send")
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        socket.create_server((options.host, options.port), family=family).close()
    except OSError as error:
        what = f"{options.host}:{options.port} cannot be listened on: {error.strerror}"
        raise UserError(what, "name another with --port") from None


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Whether a request's Host header names this machine: a page in a browser may give loopback a name of its own
    (DNS rebinding), but none of the endings that are reserved for local use."""
    name = re.sub(r":\d*\Z", "", host).lower()
    return is_loopback(name.removeprefix("[").removesuffix("]")) or name.endswith(LOCAL_ENDINGS)


def failure(
    status: int, message: str, type_: str = "invalid_request_error", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as OpenAI's API words it."""
    return JSONResponse({"error": {"message": message, "type": type_, "code": None}}, status, headers)


def watch(app: Starlette, token: str | None) -> None:
    """Let `app` ask for the token, refuse large bodies and foreign names, and count and time requests at /metrics."""
    registry = CollectorRegistry()
    requests = Counter("text2sql_requests", "Requests by path and status", ["path", "status"], registry=registry)
    seconds = Histogram("text2sql_request_seconds", "Seconds to the answer", ["path"], registry=registry)

    def refusal(request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), str(token).encode())
        if token and request.url.path != "/health" and not is_known:
            remedy = {"WWW-Authenticate": "Bearer"}
            return failure(401, "the bearer token is missing or wrong", "authentication_error", remedy)
        if not token and not is_local(request.headers.get("host", "")):
            return failure(421, f"the name of this server is localhost; for others set {TOKEN}")
        if request.method == "POST" and "content-length" not in request.headers:
            return failure(411, "the length of the body is missing")
        if int(request.headers.get("content-length") or 0) > LARGEST_BODY:
            return failure(413, f"more than {LARGEST_BODY:,} bytes")
        return None

    def watched(inner: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await inner(scope, receive, send)
            started, request = time.perf_counter(), Request(scope, receive)
            path = request.url.path if request.url.path in PATHS else "other"

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    elapsed = time.perf_counter() - started
                    requests.labels(path, message["status"]).inc()
                    seconds.labels(path).observe(elapsed)
                    log.info("%s %d %.0f ms", path, message["status"], 1000 * elapsed)
                await send(message)

            await (refusal(request) or inner)(scope, receive, counted)

        return call

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")

    app.add_middleware(watched)
    app.add_route("/metrics", metrics)


def build_app(batcher: Batcher, places: Mapping[str, Place], token: str | None) -> Starlette:
    """The HTTP server: /v1/chat/completions, /v1/models, /mcp, /health, /metrics."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "model": batcher.engine.located.title})

    async def models(_: Request) -> Response:
        listed = [{"id": PREFIX + n, "object": "model", "created": 0, "owned_by": "text2sql"} for n in places]
        return JSONResponse({"object": "list", "data": listed})

    async def complete(request: Request) -> Response:
        try:
            body = ChatRequest.model_validate_json(await request.body())
            question, model = last_question(body), body.model or ""
            place = places.get(model.removeprefix(PREFIX))
            if place is None and (len(places) > 1 or model not in ("", "text2sql")):
                return failure(404, f"there is no model {model}: see /v1/models")
            place = place or next(iter(places.values()))
            answer = await unless_gone(request, batcher.answer(question, place))
        except ValidationError as error:
            first = error.errors()[0]
            return failure(400, f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}")
        except Busy as error:
            return failure(429, str(error), "rate_limit_error", {"Retry-After": str(RETRY_SECONDS)})
        except UserError as error:
            return failure(400, str(error))
        except TimeoutError as error:
            return failure(504, str(error), "timeout_error")
        except ClientDisconnect:
            return failure(499, "the client has hung up")  # nginx's number; nobody gets it, it is counted
        except asyncio.CancelledError:  # by uvicorn, whose patience with running requests is at its end
            return failure(503, "the server ends", "server_error")
        except Exception as error:
            log.error("%s while answering", type(error).__name__)  # its message may have values
            return failure(500, f"the server failed: {type(error).__name__}", "server_error")
        if body.stream:
            return StreamingResponse(chunks(answer, model), media_type="text/event-stream")
        return JSONResponse(completion_of(answer, model))

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return failure(error.status_code, error.detail, headers=error.headers)

    app = build_mcp(batcher, places).streamable_http_app()  # it answers at /mcp
    app.add_exception_handler(HTTPException, refused)
    app.add_route("/health", health)
    app.add_route("/v1/models", models)
    app.add_route("/v1/chat/completions", complete, methods=["POST"])
    watch(app, token)
    return app


async def unless_gone(request: Request, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer, unless the client hangs up before there is one.

    Raises:
        ClientDisconnect: it has; `answering` is cancelled.
    """

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.create_task(answering), asyncio.create_task(hung_up())
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


PATHS = {"/v1/chat/completions", "/v1/models", "/health", "/metrics", "/mcp"}


class ContentPart(BaseModel):
    """A part of a message: a text, or another type without one."""

    type: str = ""
    text: str = ""


class ChatMessage(BaseModel):
    """A message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None


class ChatRequest(BaseModel):
    """What of a chat request counts here; other fields are passed over."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = False


def last_question(body: ChatRequest) -> str:
    """The text of the user's last message.

    Raises:
        UserError: there is none.
    """
    contents = [message.content for message in body.messages if message.role == "user"]
    if not contents or contents[-1] is None:
        raise UserError("messages has no message of role user with a text", "send the question as the last one")
    content = contents[-1]
    return content if isinstance(content, str) else " ".join(part.text for part in content if part.type == "text")


def answer_text(answer: Answer) -> str:
    """The SQL as a code block, its rows as a table, and warnings."""
    parts = [f"```sql\n{answer.sql};\n```"]
    if (result := answer.result) is not None:
        refused = result.error and not result.rows  # one with too many rows has the first of them
        parts.append(f"{result.error}: {result.message}" if refused else "\n".join(markdown_rows(result)))
    parts += [f"warning: {warning}" for warning in answer.warnings]
    return "\n\n".join(parts)


def markdown_rows(result: Result) -> Iterator[str]:
    """The rows of a result as lines of a Markdown table."""

    def line(cells: Sequence[object]) -> str:
        texts = ("" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(texts)} |"

    yield line(result.columns)
    yield line(["---"] * len(result.columns))
    yield from map(line, result.rows[:SHOWN_ROWS])
    if len(result.rows) > SHOWN_ROWS:
        yield f"\n{row_count(result, SHOWN_ROWS)}"


def completion_of(answer: Answer, model: str) -> dict[str, Any]:
    """A chat completion as OpenAI's API has it; `text2sql` holds the answer in parts, warnings and confidence too."""
    message = {"role": "assistant", "content": answer_text(answer)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return envelope("chat.completion", model) | {"choices": [choice]} | parts_of(answer)


def envelope(object_: str, model: str) -> dict[str, Any]:
    """What every response and chunk begins with."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": object_, "created": int(time.time()), "model": model}


def parts_of(answer: Answer) -> dict[str, Any]:
    """The answer in parts, and its tokens as OpenAI's API counts them."""
    read, written = answer.prompt_tokens, answer.completion_tokens
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return {"usage": usage, "text2sql": answer.to_dict()}


def chunks(answer: Answer, model: str) -> Iterator[str]:
    """A chat completion as server-sent events, line by line: SQL is formatted as a whole before it is sent.

    The last chunk has the answer in parts and the tokens, as `completion_of` has them.
    """
    head = envelope("chat.completion.chunk", model)

    def event(delta: dict[str, str], end: str | None = None, **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": end}]
        return f"data: {json.dumps(head | {'choices': choices} | more)}\n\n"

    yield event({"role": "assistant", "content": ""})
    for line in answer_text(answer).splitlines(keepends=True):
        yield event({"content": line})
    yield event({}, "stop", **parts_of(answer))
    yield "data: [DONE]\n\n"


def build_mcp(batcher: Batcher, places: Mapping[str, Place]) -> FastMCP:
    """The MCP server: tools schema, ask and run."""
    from mcp.server.fastmcp import FastMCP
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp.types import ToolAnnotations

    # `watch` looks at token and Host header; MCP's own check knows no server beyond loopback.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    protocol = FastMCP("text2sql", stateless_http=True, json_response=True, transport_security=security)
    reading = ToolAnnotations(readOnlyHint=True)

    def place_of(database: str) -> Place:
        name = database or next(iter(places))
        if name not in places:
            raise UserError(f"there is no database {name}", f"one of: {', '.join(places)}")
        return places[name]

    @protocol.tool(annotations=reading)
    def schema(database: str = "") -> str:
        """Tables, columns and keys of a database, as CREATE TABLE statements."""
        from text2sql.ask.loading import definitions_of

        return "\n".join(definitions_of(place_of(database).schema))

    @protocol.tool(annotations=reading)
    async def ask(question: str, database: str = "") -> str:
        """Write the PostgreSQL query that answers a question in English."""
        answer = await batcher.answer(question, place_of(database))
        return json.dumps(answer.to_dict(), ensure_ascii=False)

    @protocol.tool(annotations=reading)
    async def run(sql: str, database: str = "") -> str:
        """Run one query that only reads; columns and rows as JSON."""
        if STATEMENT.match(sql):
            raise UserError("only queries are run, and this is none", "send one SELECT")
        place = place_of(database)
        result = await asyncio.to_thread(place.execute, with_real_names(sql, place.target.relations))
        return json.dumps(result_dict(result), ensure_ascii=False)

    return protocol
