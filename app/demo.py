"""The demo in the browser: pick a domain or paste a schema, ask, see the SQL and its rows. `make demo` starts it.

`build_page` builds the page around an engine and the databases, so that a test can hand in a scripted model. What the
model writes, and what a visitor makes of it in the editor, runs in the sandbox and nowhere else.
"""

from __future__ import annotations

import html
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported: nothing is sent anywhere
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gradio as gr
import typer

from app.databases import TITLES, Database, Databases
from text2sql.ask import Answer, Engine
from text2sql.errors import UserError
from text2sql.postgres.compare import Result

OWN = "Your schema"
STYLE = Path(__file__).with_name("style.css")
#: questions worked on at a time; the model answers them one by one, while PostgreSQL runs another's
USERS = 2
SHOWN_ROWS = 100
HISTORY = 20
EXAMPLE = """CREATE TABLE authors (id int PRIMARY KEY, name text, born int);
CREATE TABLE books (id int PRIMARY KEY, title text, author_id int REFERENCES authors (id), year int);"""
History = list[tuple[str, str, str]]


def build_page(engine: Engine, databases: Databases) -> gr.Blocks:
    """The page."""
    names = {title: databases.domains[key] for key, title in TITLES.items()}
    first = next(iter(names))

    def chosen(title: str, pasted: str) -> Database:
        return names[title] if title in names else databases.pasted(pasted)

    def pick(title: str) -> list[Any]:
        own = title not in names
        asked = [] if own else [[html.escape(q)] for q in names[title].questions]
        return [
            gr.update(visible=own),
            gr.update(samples=asked, visible=not own),
            gr.update(visible=not own),
            "" if own else tables_html(names[title]),
            "",
            "",
            "",
            "",
        ]

    def ask(question: str, title: str, pasted: str, history: History) -> list[Any]:
        try:
            database = chosen(title, pasted)
            answer = engine.ask(question, database.schema)
            result = databases.execute(database, answer.sql)
        except UserError as error:
            return [gr.update(), notice_html(error), "", history, history_html(history)]
        history = [(question.strip(), title, answer.sql), *history][:HISTORY]
        return [
            answer.sql,
            answer_html(answer, len(history)),
            result_html(result, database),
            history,
            history_html(history),
        ]

    def run(query: str, title: str, pasted: str) -> list[str]:
        if not query.strip():
            return ["", notice_html(UserError("there is no query yet", "ask a question first"))]
        try:
            database = chosen(title, pasted)
            return ["", result_html(databases.execute(database, query), database)]
        except UserError as error:
            return [notice_html(error), ""]

    with gr.Blocks(title="Text to SQL for PostgreSQL", analytics_enabled=False, fill_width=True) as page:
        history = gr.State([])
        gr.HTML(
            "<h1>Ask a database in English</h1>"
            f"<p>A small model writes PostgreSQL; the query runs on a real server, where it can only read. "
            f"Model: <code>{html.escape(engine.title)}</code></p>",
            elem_id="head",
        )
        domain = gr.Radio([*names, OWN], value=first, show_label=False, container=False, elem_id="domain")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=5, min_width=320):
                pasted = gr.Textbox(
                    EXAMPLE, label="CREATE TABLE statements", lines=6, max_lines=14, visible=False, elem_id="pasted"
                )
                with gr.Group(elem_id="asking"):
                    question = gr.Textbox(
                        show_label=False, placeholder="How many ... ? Which ... ?", lines=2, max_lines=4,
                        max_length=1000, elem_id="question", container=False,
                    )  # fmt: skip
                    send = gr.Button("Ask", variant="primary", elem_id="ask")
                samples = gr.Dataset(
                    components=[gr.HTML(visible=False)],  # a Textbox would cut questions at 60 characters
                    samples=[[html.escape(q)] for q in names[first].questions],
                    label="Sample questions",
                    layout="gallery",
                    elem_id="samples",
                )
                with gr.Accordion("Tables", open=False, elem_id="tables") as tables_box:
                    tables = gr.HTML(tables_html(names[first]))
            with gr.Column(scale=6, min_width=320):
                query = gr.Code(
                    label="SQL (edit it, if you like)", language="sql-pgSQL", lines=6, max_lines=18, interactive=True,
                    wrap_lines=True, show_line_numbers=False, buttons=["copy"], elem_id="sql",
                )  # fmt: skip
                again = gr.Button("Run", size="sm", elem_id="run")
                notice = gr.HTML(elem_id="notice")
                rows = gr.HTML(elem_id="rows")
                with gr.Accordion("History", open=False, elem_id="history"):
                    past = gr.HTML(history_html([]))

        domain.change(
            pick, domain, [pasted, samples, tables_box, tables, query, notice, rows, question], show_progress="hidden"
        )
        asking = {
            "fn": ask,
            "inputs": [question, domain, pasted, history],
            "outputs": [query, notice, rows, history, past],
            "concurrency_limit": USERS,
            "concurrency_id": "ask",
        }
        send.click(**asking, api_name="ask")
        question.submit(**asking, api_name=False)
        samples.click(lambda row: html.unescape(row[0]), samples, question, show_progress="hidden").then(
            **asking, api_name=False
        )
        again.click(run, [query, domain, pasted], [notice, rows], concurrency_limit=USERS, api_name="run")
    return page


def answer_html(answer: Answer, number: int) -> str:
    """Warnings, and how long the model took; `number` counts this visit's answers."""
    warnings = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in answer.warnings)
    return f'{warnings}<p class="quiet" data-answer="{number}">written in {answer.seconds:.1f} s</p>'


def notice_html(error: UserError) -> str:
    """What is wrong and what to do about it."""
    remedy = f"<br><span>{html.escape(error.remedy)}</span>" if error.remedy else ""
    return f'<p class="error">{html.escape(error.what)}{remedy}</p>'


def result_html(result: Result, database: Database) -> str:
    """The rows as a table, or the error."""
    if result.error and not result.rows:
        return notice_html(UserError(result.error.replace("_", " "), result.message))
    if not database.rows:
        return '<p class="good">PostgreSQL accepts the query. Your tables have no rows here.</p>'
    shown = result.rows[:SHOWN_ROWS]
    numeric = [all(map(may_be_numeric, column)) for column in zip(*shown, strict=True)] or [False] * len(result.columns)
    classes = [" class=number" if n else "" for n in numeric]
    head = "".join(f"<th{c}>{html.escape(name)}</th>" for name, c in zip(result.columns, classes, strict=True))
    body = "".join(f"<tr>{''.join(map(cell_html, row, classes))}</tr>" for row in shown)
    n = len(result.rows)
    count = f"{n:,} row{'s' if n != 1 else ''}" + (f", the first {SHOWN_ROWS} shown" if n > SHOWN_ROWS else "")
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f'{table}<p class="quiet">{count} in {result.milliseconds:.0f} ms</p>'


def cell_html(value: Any, attribute: str) -> str:
    """A cell of the table; `attribute` puts a column of numbers to the right."""
    if value is None:
        return "<td class=null>NULL</td>"
    return f"<td{attribute}>{html.escape(str(value))}</td>"


def may_be_numeric(value: Any) -> bool:
    """Whether a cell may stand in a column of numbers."""
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def tables_html(database: Database) -> str:
    """The schema in short: each table with its columns, keys marked."""
    blocks = []
    for table in database.schema.tables:
        references = {name: key.referred_table for key in table.foreign_keys for name in key.columns}
        items = [
            f"<li><b>{html.escape(c.name)}</b> {html.escape(c.type)}"
            + (" <i>key</i>" if c.name in table.primary_key else "")
            + (f" <i>→ {html.escape(references[c.name])}</i>" if c.name in references else "")
            + "</li>"
            for c in table.columns
        ]
        blocks.append(f"<section><h4>{html.escape(table.name)}</h4><ul>{''.join(items)}</ul></section>")
    return f'<div class="tables">{"".join(blocks)}</div>'


def history_html(history: History) -> str:
    """Questions of this visit, the last one first."""
    if not history:
        return '<p class="quiet">Nothing asked yet.</p>'
    items = (
        f"<details><summary>{html.escape(question)} <i>{html.escape(title)}</i></summary>"
        f"<pre>{html.escape(sql)}</pre></details>"
        for question, title, sql in history
    )
    return "".join(items)


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
    started = time.perf_counter()
    engine = Engine.load(model, lambda text: print(text, flush=True))
    with Databases() as databases:
        print(f"ready after {time.perf_counter() - started:.1f} s", flush=True)
        serve(build_page(engine, databases), port, public)


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
        quiet=not block,
        prevent_thread_lock=not block,
    )[1]
    return address


def main(
    model: Annotated[str, typer.Option(help="As `text2sql ask --model`.")] = "models/release",
    port: Annotated[int, typer.Option(help="Of the address http://127.0.0.1:PORT.")] = 7860,
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
