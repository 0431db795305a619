"""What the page shows, as HTML without scripts: everything that a model or a visitor wrote is escaped."""

from __future__ import annotations

import html
import math
from decimal import Decimal
from typing import Any

from app.databases import Database
from app.explain import explain
from text2sql.ask import Answer
from text2sql.ask.place import row_count
from text2sql.errors import UserError
from text2sql.postgres.compare import Result

SHOWN_ROWS = 100
#: rows of a result that is drawn: one bar is no comparison, and more than these no picture
BARS = range(2, 31)
History = list[tuple[str, str, str]]


def answer_html(answer: Answer, number: int) -> str:
    """The query in words, warnings, how sure the model is and how long it took.

    `number` counts this visit's answers, 0: not run yet.
    """
    sentence = explain(answer.sql)
    explained = f'<p class="explained">{html.escape(sentence)}</p>' if sentence else ""
    warnings = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in answer.warnings)
    mark = f'data-answer="{number}"' if number else ""
    running = "" if number else "; running the query"
    return (
        f"{explained}{warnings}{confidence_html(answer.confidence)}"
        f'<p class="quiet" {mark}>written in {answer.seconds:.1f} s{running}</p>'
    )


def confidence_html(confidence: float | None) -> str:
    """How probably the query is right, as a meter; nothing if the release was not calibrated."""
    if confidence is None:
        return ""
    meter = f'<meter min="0" max="1" low="0.5" high="0.8" optimum="1" value="{confidence:.2f}"></meter>'
    return f'<p class="quiet confidence">{meter} {confidence:.0%} sure</p>'


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
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    count = row_count(result, SHOWN_ROWS)
    return f'{bars_html(result)}{table}<p class="quiet">{count} in {result.milliseconds:.0f} ms</p>'


def bars_html(result: Result) -> str:
    """Bars for a result with one label and one number in each row; nothing for any other."""
    if len(result.columns) != 2 or len(result.rows) not in BARS:
        return ""
    columns = list(zip(*result.rows, strict=True))
    places = [i for i, column in enumerate(columns) if all(map(is_drawn, column))]
    if not places:
        return ""
    drawn = places[-1]  # of two numbers the first is the label: a year, an id
    numbers = [float(value) for value in columns[drawn]]
    least, most = min(0.0, *numbers), max(0.0, *numbers)
    span = (most - least) or 1.0
    bars = []
    for label, value, number in zip(columns[1 - drawn], columns[drawn], numbers, strict=True):
        left, width = (min(number, 0.0) - least) / span, abs(number) / span
        name = html.escape("NULL" if label is None else str(label))
        bars.append(
            f'<tr><th scope="row" title="{name}">{name}</th><td><i style="margin-left:{100 * left:.2f}%;'
            f'width:{100 * width:.2f}%"></i></td><td class="number">{html.escape(str(value))}</td></tr>'
        )
    title = html.escape(f"{result.columns[drawn]} by {result.columns[1 - drawn]}")
    return f'<table class="bars"><caption>{title}</caption>{"".join(bars)}</table>'


def is_drawn(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)


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
