"""`text2sql ask` on a terminal: progress while the model loads, then answers as SQL, tables or JSON.

Answers go to the output, everything else to the error stream, so that both `--json` and plain SQL can be piped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from text2sql.ask import Answer, Engine
from text2sql.ask.models import Located, locate_model
from text2sql.ask.place import PlaceType, open_place, row_count
from text2sql.errors import UserError
from text2sql.model.process import prepare
from text2sql.postgres.compare import Result

#: rows of a result shown on a terminal; JSON has them all
SHOWN_ROWS = 50
#: columns of a table that is piped: no cell is broken
PIPED_WIDTH = 10_000
#: what moves a terminal's cursor or changes its colours, as it is shown
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


@dataclasses.dataclass(frozen=True)
class AskOptions:
    """The options of `text2sql ask`."""

    place: str = dataclasses.field(repr=False)  # a DSN may have a password
    place_type: PlaceType
    model: str
    run: bool
    candidates: int
    tables: Sequence[str]
    trusted: Sequence[str]
    as_json: bool
    min_confidence: float = 0.0
    more: bool = False


def converse(question: str | None, options: AskOptions) -> None:
    """Answer `question`, or each line of the input; a question that fails does not end the conversation.

    Raises:
        UserError: the database or the model is not to be had, or the one question cannot be answered.
    """
    said = Console(stderr=True, soft_wrap=True)
    with said.status(verbatim(f"finding {options.model}")):
        located = locate_model(options.model)
    if options.min_confidence and located.calibration is None:
        raise UserError("this model has no confidence", "ask a release whose answers were calibrated (`make repro`)")
    if located.notice:
        said.print(verbatim(f"notice: {located.notice}", "yellow"))
    # Seconds of one core, in which PostgreSQL starts on another one.
    importing = threading.Thread(target=import_libraries)
    importing.start()
    opened = open_place(options.place, trusted=options.trusted, expected=options.place_type)
    with opened as place:
        place = place.only(options.tables) if options.tables else place
        for note in place.schema.notes:
            said.print(verbatim(f"notice: {note}", "yellow"))
        if options.run and not place.rows:
            said.print("notice: a schema has no rows: queries are only tried out", style="yellow")
        importing.join()  # two threads that import a package at once can see it half imported
        engine = load_engine_of(located, said)
        # the database is touched only if it has to be
        execute = place.execute if options.run or (options.candidates > 1 and place.rows) else None
        asking = {"candidates": options.candidates, "execute": execute, "run": options.run}
        if question is not None:
            print_answer(engine.ask(question, place, **asking), options)
            if not options.more:
                return
        for line in read_lines(said):
            try:
                print_answer(engine.ask(line, place, **asking), options)
            except UserError as error:
                said.print(verbatim(str(error), "red"))


def import_libraries() -> None:
    """Import what a model is loaded with."""
    prepare()
    with contextlib.suppress(ImportError):  # loading the model says so
        importlib.import_module("peft")


def load_engine_of(located: Located, said: Console) -> Engine:
    """The engine, with a line that says what takes so long."""
    started = time.perf_counter()
    with said.status(verbatim(f"loading {located.title}")):
        engine = Engine(located, *located.load())
    said.print(verbatim(f"{located.title} loaded in {time.perf_counter() - started:.1f} s", "dim"))
    return engine


def verbatim(text: str, style: str = "") -> Text:
    """A text as it is: what rich would read as markup (`[bold]`, `:apple:`) or a terminal as a command is shown."""
    return Text(text.translate(CONTROLS), style)


def read_lines(said: Console) -> Iterator[str]:
    """Lines of the input until its end, with a prompt on a terminal."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are refused with their question
    is_dialogue = sys.stdin.isatty()
    if is_dialogue:
        said.print("Ask; an empty line or Ctrl-D ends.", style="dim")
    while True:
        try:
            line = said.input("[bold]? [/]" if is_dialogue else "").strip()
        except EOFError:
            return
        if line:
            yield line
        elif is_dialogue:
            return


def print_answer(answer: Answer, options: AskOptions) -> None:
    """Print an answer."""
    if options.min_confidence:
        check_confidence(answer, options.min_confidence)
    if options.as_json:
        print(json.dumps(answer.to_dict(), ensure_ascii=False), flush=True)
        return
    out, said = Console(), Console(stderr=True, soft_wrap=True)
    if out.is_terminal:
        sql = f"{answer.sql};".translate(CONTROLS)
        out.print(Syntax(sql, "sql", background_color="default", word_wrap=True))
    else:
        print(f"{answer.sql};")
        out.width = PIPED_WIDTH
    for warning in answer.warnings:
        said.print(verbatim(f"warning: {warning}", "yellow"))
    if answer.result is not None and answer.result.columns:
        out.print(rows_table(answer.result))
    if answer.result is not None and answer.result.error and not answer.result.rows:
        said.print(verbatim(f"{answer.result.error}: {answer.result.message}", "red"))
    sure = "" if answer.confidence is None else f", confidence {answer.confidence:.0%}"
    said.print(f"{answer.seconds:.1f} s{sure}", style="dim")


def check_confidence(answer: Answer, least: float) -> None:
    """Decline an answer.

    Raises:
        UserError: its confidence is below `least`, or the database hardly has the answer.
    """
    confidence = answer.confidence or 0.0
    low = f"its confidence is {confidence:.0%}, and {least:.0%} is asked for"
    if reason := low if confidence < least else answer.unanswerable:
        remedy = "name tables or columns as the schema does, or lower or leave out --min-confidence"
        raise UserError(f"no answer: {reason}", remedy)


def rows_table(result: Result) -> Table:
    """A result as a table, cut to `SHOWN_ROWS`."""
    table = Table(header_style="bold")
    for name in result.columns:
        table.add_column(verbatim(name))
    for row in result.rows[:SHOWN_ROWS]:
        table.add_row(*("" if cell is None else verbatim(str(cell)) for cell in row))
    table.caption = row_count(result, SHOWN_ROWS)
    return table
