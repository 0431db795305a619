"""The demo in the browser: pick a domain or paste a schema, ask, see the SQL and its rows. `make demo` starts it.

`build_page` builds the page around an engine and the databases, so that a test can hand in a scripted model. What the
model writes, and what a visitor makes of it in the editor, runs in the sandbox and nowhere else.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import html
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported: nothing is sent anywhere
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gradio as gr
import typer
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.databases import LARGEST, TITLES, Database, Databases
from app.views import History, answer_html, history_html, notice_html, result_html, tables_html
from text2sql.ask import Engine
from text2sql.errors import UserError

OWN = "Your schema"
STYLE = Path(__file__).with_name("style.css")
#: questions worked on at a time; the model answers them one by one, while PostgreSQL runs another's
USERS = 2
HISTORY = 20
#: bytes of a request: a pasted schema in JSON and as much again
LARGEST_REQUEST = 8 * LARGEST
EXAMPLE = """CREATE TABLE authors (id int PRIMARY KEY, name text, born int);
CREATE TABLE books (id int PRIMARY KEY, title text, author_id int REFERENCES authors (id), year int);"""


class Guard:
    """Refuses what no page of ours sends: files, and requests that are large or do not say how large they are."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            length = dict(scope["headers"]).get(b"content-length", b"")
            if scope["path"].endswith("/upload"):
                return await PlainTextResponse("files are not taken", 403)(scope, receive, send)
            if not length.isdigit():
                return await PlainTextResponse("the length is missing", 411)(scope, receive, send)
            if int(length) > LARGEST_REQUEST:
                return await PlainTextResponse("the request is too large", 413)(scope, receive, send)
        return await self.app(scope, receive, send)


class Handlers:
    """What the page's buttons do."""

    def __init__(self, engine: Engine, databases: Databases) -> None:
        self.engine, self.databases = engine, databases
        self.domains = {title: databases.domains[key] for key, title in TITLES.items()}

    def chosen(self, title: str, pasted: str) -> Database:
        return self.domains[title] if title in self.domains else self.databases.pasted(pasted)

    def pick(self, title: str) -> list[Any]:
        """Show a domain, or the field for a schema of one's own, and empty the rest."""
        domain = self.domains.get(title)
        questions = [[html.escape(question)] for question in domain.questions] if domain else []
        return [
            gr.update(visible=domain is None),
            gr.update(samples=questions, visible=domain is not None),
            gr.update(visible=domain is not None),
            tables_html(domain) if domain else "",
            *[""] * 4,
        ]

    def ask(self, question: str, title: str, pasted: str, history: History) -> Iterator[list[Any]]:
        """The query as soon as the model has written it, then its rows."""
        sql = ""  # the editor's query is never another question's
        try:
            database = self.chosen(title, pasted)
            answer = self.engine.ask(question, database.schema, target=database.target)
            sql = answer.sql
            yield [sql, answer_html(answer, 0), "", history, history_html(history)]
            result = self.databases.execute(database, sql)
            execute = functools.partial(self.databases.execute, database)
            answer = self.engine.second_try(answer, result, database.schema, execute, database.target)
            result = answer.result or result
            if not database.rows:  # a pasted schema: what of it was not read, or was added
                answer = dataclasses.replace(answer, warnings=(*answer.warnings, *database.schema.notes))
        except UserError as error:
            yield [sql, notice_html(error), "", history, history_html(history)]
            return
        history = [(question.strip(), title, answer.sql), *history][:HISTORY]
        shown = answer_html(answer, len(history)), result_html(result, database)
        yield [answer.sql, *shown, history, history_html(history)]

    def run(self, query: str, title: str, pasted: str) -> list[str]:
        """The rows of the query in the editor."""
        if not query.strip():
            return ["", notice_html(UserError("there is no query yet", "ask a question first"))]
        try:
            database = self.chosen(title, pasted)
            return ["", result_html(self.databases.execute(database, query), database)]
        except UserError as error:
            return [notice_html(error), ""]


def build_page(engine: Engine, databases: Databases) -> gr.Blocks:
    """The page."""
    handlers = Handlers(engine, databases)
    with gr.Blocks(title="Text to SQL for PostgreSQL", analytics_enabled=False, fill_width=True) as page:
        parts = lay_out_page(handlers)
        connect_page(page, handlers, parts)
    return page


def lay_out_page(handlers: Handlers) -> dict[str, Any]:
    """The page's components by name."""
    first = next(iter(handlers.domains))
    parts: dict[str, Any] = {"history": gr.State([])}
    # Survives a reload; the visitor's own browser holds it, and nobody else.
    parts["kept"] = gr.BrowserState([], storage_key="text2sql-history", secret="text2sql")
    gr.HTML(
        "<h1>Ask a database in English</h1>"
        f"<p>A small model writes PostgreSQL; the query runs on a real server, where it can only read. "
        f"Model: <code>{html.escape(handlers.engine.located.title)}</code></p>",
        elem_id="head",
    )
    parts["domain"] = gr.Radio(
        [*handlers.domains, OWN], value=first, show_label=False, container=False, elem_id="domain"
    )
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=5, min_width=320):
            parts["pasted"] = gr.Textbox(
                EXAMPLE, label="CREATE TABLE statements", lines=6, max_lines=14, visible=False, elem_id="pasted"
            )
            with gr.Group(elem_id="asking"):
                parts["question"] = gr.Textbox(
                    show_label=False, placeholder="How many ... ? Which ... ?", lines=2, max_lines=4,
                    max_length=1000, elem_id="question", container=False,
                )  # fmt: skip
                parts["send"] = gr.Button("Ask", variant="primary", elem_id="ask")
            parts["samples"] = gr.Dataset(
                components=[gr.HTML(visible=False)],  # a Textbox would cut questions at 60 characters
                samples=[[html.escape(question)] for question in handlers.domains[first].questions],
                label="Sample questions",
                layout="gallery",
                elem_id="samples",
            )
            with gr.Accordion("Tables", open=False, elem_id="tables") as parts["tables_box"]:
                parts["tables"] = gr.HTML(tables_html(handlers.domains[first]))
        with gr.Column(scale=6, min_width=320):
            parts["query"] = gr.Code(
                label="SQL (edit it, if you like)", language="sql-pgSQL", lines=6, max_lines=18, interactive=True,
                wrap_lines=True, show_line_numbers=False, buttons=["copy"], elem_id="sql",
            )  # fmt: skip
            parts["again"] = gr.Button("Run", size="sm", elem_id="run")
            parts["notice"] = gr.HTML(elem_id="notice")
            parts["rows"] = gr.HTML(elem_id="rows")
            with gr.Accordion("History", open=False, elem_id="history"):
                parts["past"] = gr.HTML(history_html([]))
    return parts


def connect_page(page: gr.Blocks, handlers: Handlers, parts: dict[str, Any]) -> None:
    """Let the components call the handlers."""

    def named(names: str) -> list[Any]:
        return [parts[name] for name in names.split()]

    picked = named("pasted samples tables_box tables query notice rows question")
    parts["domain"].change(handlers.pick, parts["domain"], picked, show_progress="hidden")
    asking = {
        "fn": handlers.ask,
        "inputs": named("question domain pasted history"),
        "outputs": named("query notice rows history past"),
        "concurrency_limit": USERS,
        "concurrency_id": "ask",
    }
    parts["send"].click(**asking, api_name="ask")
    parts["question"].submit(**asking, api_name=False)
    parts["samples"].click(
        lambda row: html.unescape(row[0]), parts["samples"], parts["question"], show_progress="hidden"
    ).then(**asking, api_name=False)
    parts["again"].click(
        handlers.run, named("query domain pasted"), named("notice rows"), concurrency_limit=USERS, api_name="run"
    )
    parts["history"].change(lambda history: history, parts["history"], parts["kept"], api_name=False)
    page.load(lambda kept: (kept, history_html(kept)), parts["kept"], named("history past"), api_name=False)


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own system: nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    )


def run_demo(model: str = "models/release", port: int = 7860, public: bool = False) -> None:
    """Load the model and serve the page until interrupted.

    Args:
        public: listen on all addresses (a Space, a container); otherwise on loopback only.
    """
    host = "0.0.0.0" if public else "127.0.0.1"
    check_port(host, port)
    started = time.perf_counter()
    engine = Engine.load(model, lambda text: print(text, flush=True))
    with Databases() as databases:
        print(f"ready after {time.perf_counter() - started:.1f} s", flush=True)
        serve(build_page(engine, databases), port, public)


def check_port(host: str, port: int) -> None:
    """Before the model is loaded, which takes seconds.

    Raises:
        UserError: another program listens on the port, or it may not be used.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        why = "in use" if error.errno == errno.EADDRINUSE else f"not to be had: {error.strerror}"
        raise UserError(f"port {port} is {why}", "give another one: --port 8080, say") from None


def serve(page: gr.Blocks, port: int, public: bool = False, block: bool = True) -> str:
    """Serve a page; returns its address, at once if not `block`."""
    page.queue(max_size=32)
    address = page.launch(
        server_name="0.0.0.0" if public else "127.0.0.1",
        server_port=port,
        theme=theme(),
        css_paths=STYLE,
        footer_links=[],
        ssr_mode=False,
        share=False,
        enable_monitoring=False,
        max_file_size=0,
        app_kwargs={"middleware": [Middleware(Guard)]},
        quiet=not block,
        prevent_thread_lock=not block,
    )[1]
    return address


def main(
    model: Annotated[str, typer.Option(help="As `text2sql ask --model`.")] = "models/release",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the address http://127.0.0.1:PORT.")] = 7860,
    public: Annotated[
        bool, typer.Option("--public", help="Listen on all addresses, not on this machine only.")
    ] = False,
) -> None:
    """Serve the demo."""
    try:
        run_demo(model, port, public)
    except UserError as error:
        raise SystemExit(f"demo: {error}") from None


if __name__ == "__main__":
    typer.run(main)
