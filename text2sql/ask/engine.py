"""Questions to SQL, as a person asks them: the Python API, `text2sql ask` and the demo.

    from text2sql.ask import Engine
    engine = Engine.load("models/release")
    print(engine.ask("How many customers are there?", schema("shop.sql")).sql)

An `Engine` holds a model and the prompt form it was trained with. What it writes is shown, formatted, with a warning
where it names what the schema does not have; it is executed only by the function that the caller hands in.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.ask.answerable import cannot_answer
from text2sql.ask.doubts import doubts
from text2sql.ask.fit import Target, fit_query
from text2sql.ask.question import check_question
from text2sql.ask.unknown import unknown_names
from text2sql.errors import UserError
from text2sql.model.prompt import VALUES_KEPT, ddl, encode_prompt, render
from text2sql.model.relevant_tables import choose_tables
from text2sql.postgres.compare import Result
from text2sql.schema import Schema, Table
from text2sql.sql import parse, shallow

if TYPE_CHECKING:
    from text2sql.ask.models import Located
    from text2sql.model.constraint import Constraint
    from text2sql.model.generation import Generation

Execute = Callable[[str], Result]
#: of sampled candidates, as in conf/predict/execution_guided.yaml
TEMPERATURE = 1.0
#: classes of SQLSTATE in which the server refuses the query itself: names and types, values, rows of a subquery
REFUSALS = ("42", "22", "21")
#: answers of less confidence are more probably wrong than right
UNSURE = 0.5


@dataclasses.dataclass(frozen=True)
class Answer:
    """A formatted query for a question. `result` is there if it was executed; `seconds` are those of the model.

    `confidence` is the probability (0 to 1) that the query is right, where the release was calibrated.
    """

    question: str
    sql: str
    warnings: tuple[str, ...] = ()
    result: Result | None = None
    seconds: float = 0.0
    candidates: int = 1
    confidence: float | None = None
    #: read by the model, and written by it, those of all candidates
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: why the database hardly has the answer, judged by the question's words; None for most questions
    unanswerable: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON has it; values that JSON does not know as text."""
        value = {"question": self.question, "sql": self.sql, "warnings": list(self.warnings)}
        value |= {"seconds": round(self.seconds, 3), "candidates": self.candidates}
        value |= {} if self.confidence is None else {"confidence": round(self.confidence, 3)}
        value |= {} if self.unanswerable is None else {"unanswerable": self.unanswerable}
        return value if self.result is None else value | result_dict(self.result)


def result_dict(result: Result) -> dict[str, Any]:
    """Columns and rows of a result as JSON has them, and its error."""
    rows = [[json_cell(cell) for cell in row] for row in result.rows]
    return {"columns": list(result.columns), "rows": rows, "error": result.error, "message": result.message}


def json_cell(value: Any) -> Any:
    """A cell as JSON knows it: NaN and infinity, which it does not know, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt's token ids, and what its answer is held to: `read` has the tables whose values are all in `schema`."""

    ids: list[int]
    question: str
    schema: Schema
    read: frozenset[str] = frozenset()

    def held_schema(self) -> Schema:
        """The schema without the values of tables that were not read to the end: other texts may be values too."""
        if all(table.name in self.read for table in self.schema.tables):
            return self.schema
        return dataclasses.replace(self.schema, tables=tuple(map(self._held, self.schema.tables)))

    def _held(self, table: Table) -> Table:
        if table.name in self.read:
            return table
        return dataclasses.replace(table, columns=tuple(dataclasses.replace(c, samples=()) for c in table.columns))


class Engine:
    """A model that answers questions; usable from several threads, which take turns at the model."""

    def __init__(self, located: Located, model: Any, tokenizer: Any) -> None:
        self.located, self.model, self.tokenizer = located, model, tokenizer
        self._lock = threading.Lock()
        self._constraints = None
        if located.options.constrained:
            from text2sql.model.constraint import Constraints

            self._constraints = Constraints(tokenizer)

    @property
    def title(self) -> str:
        """What the model was called by."""
        return self.located.title

    @classmethod
    def load(cls, name: str = "models/release", say: Callable[[str], None] = lambda text: None) -> Engine:
        """The model called `name`: a folder, git revision, MLflow model or hub repository (`ask.models`).

        Args:
            say: is told what is being done, as this takes seconds.

        Raises:
            UserError: there is no such model, or adapter and base model do not fit.
        """
        from text2sql.ask.models import locate_model

        say(f"finding {name}")
        located = locate_model(name)
        say(f"loading {located.title}")
        return cls(located, *located.load())

    def ask(
        self,
        question: str,
        schema: Schema,
        *,
        candidates: int = 1,
        execute: Execute | None = None,
        run: bool = False,
        target: Target | None = None,
    ) -> Answer:
        """A query for `question` on `schema`.

        Args:
            candidates: with more than one, the others are sampled and the likeliest wins; those that fail are dropped
                where `execute` can tell.
            execute: runs a query safely, see `text2sql.postgres.sandbox`; a query that it refuses is written once more.
            run: attach the result of the answer.
            target: the server that the SQL is for; texts are held to the values of the tables that it says were read.

        Raises:
            UserError: the question is empty, endless or SQL, the schema has no table or is too large for the model.
        """
        warnings = check_question(question)
        started = time.perf_counter()
        prompt, notes = self.prompt(question, schema, target)
        generations = self.generate_batch([prompt], candidates)[0]
        answer = self.finish(question, schema, generations, execute=execute, run=run, target=target)
        notices, seconds = (*warnings, *notes, *answer.warnings), time.perf_counter() - started
        return dataclasses.replace(answer, warnings=notices, seconds=seconds, prompt_tokens=len(prompt.ids))

    def finish(
        self,
        question: str,
        schema: Schema,
        generations: Sequence[Generation],
        *,
        execute: Execute | None = None,
        run: bool = False,
        target: Target | None = None,
    ) -> Answer:
        """The answer out of what the model wrote: chosen, made to fit the server, formatted, and run if it is to be.

        Where the server refuses it, the model is asked once more (`repair`).
        """
        answer = self._choose(question, schema, generations, execute, run, target)
        if execute is not None and answer.result is not None and answer.result.error:
            answer = self.repair(answer, answer.result, schema, execute, target)
        return answer if run else dataclasses.replace(answer, result=None)

    def repair(
        self, answer: Answer, refusal: Result, schema: Schema, execute: Execute, target: Target | None = None
    ) -> Answer:
        """A query that runs in place of one that the server refuses, or `answer` itself.

        The model is asked once more, the refused query and the server's message behind the question as an SQL comment:
        a form that no adapter was trained on.
        """
        if (refusal.sqlstate or "")[:2] not in REFUSALS:
            return answer
        started = time.perf_counter()
        refused = " ".join(f"-- {answer.sql} -- {refusal.message}".split())
        try:
            prompt, _ = self.prompt(f"{answer.question} {refused}", schema, target)
        except UserError:  # no room for the query beside the schema
            return answer
        generations = self.generate_batch([dataclasses.replace(prompt, question=answer.question)])[0]
        second = self._choose(answer.question, schema, generations, execute, True, target)
        if second.result is None or second.result.error:
            return answer
        said = f"the server refused a first query ({refusal.message}); this one was written after that"
        return dataclasses.replace(
            second,
            warnings=(said, *second.warnings),
            seconds=answer.seconds + time.perf_counter() - started,
            candidates=answer.candidates + 1,
            completion_tokens=answer.completion_tokens + second.completion_tokens,
        )

    def _choose(
        self,
        question: str,
        schema: Schema,
        generations: Sequence[Generation],
        execute: Execute | None,
        run: bool,
        target: Target | None,
    ) -> Answer:
        """`finish` without a second round; the result is there whenever the query was executed."""
        fitted = {g.text: fit_query(g.text, schema, target or Target()) for g in generations}
        execute_fitted = None if execute is None else lambda text: execute(fitted[text][0])
        text, result = choose_text(generations, execute_fitted)
        sql, changes = fitted[text]
        unanswerable = cannot_answer(question, schema)
        warnings = [unanswerable] if unanswerable else []
        warnings += [*query_problems(text, schema), *doubts(text, question, schema), *changes]
        if result is not None and result.error:
            warnings.append(f"none of the {len(generations)} candidates runs: {result.message or result.error}")
        if run and execute is not None and result is None:
            result = execute(sql)
        confidence = self.confidence(next(each for each in generations if each.text == text))
        if confidence is not None and confidence < UNSURE:
            warnings.append(f"the query is more probably wrong than right: confidence {confidence:.0%}")
        written = sum(len(generation.token_ids) + generation.finished for generation in generations)
        return Answer(
            question,
            format_sql(sql),
            tuple(warnings),
            result,
            candidates=len(generations),
            confidence=confidence,
            completion_tokens=written,
            unanswerable=unanswerable,
        )

    def confidence(self, generation: Generation) -> float | None:
        """How probably an answer is right, by how likely the model found it; None if the release is not calibrated."""
        calibration = self.located.calibration
        tokens = len(generation.token_ids) + generation.finished
        return None if calibration is None else calibration.confidence(generation.score, tokens)

    def prompt(self, question: str, schema: Schema, target: Target | None = None) -> tuple[Prompt, list[str]]:
        """The prompt of a question, and notes on it.

        Where the schema is longer than any prompt in training, the tables that the question is about are shown.

        Raises:
            UserError: the schema is empty, or not even one table fits the model.
        """
        if not schema.tables:
            raise UserError("the schema has no table", "give one with at least one CREATE TABLE")
        read = target.read if target else frozenset()
        whole = Prompt(self._encode(question, schema), question, schema, read)
        longest, positions = self.located.options.max_length, self.model.config.max_position_embeddings
        longest = min(longest, positions - self.located.options.max_new_tokens)
        if len(whole.ids) <= longest:
            return whole, []
        sizes = {table.name: self._tokens_of(table) for table in schema.tables}
        empty = self._encode(question, dataclasses.replace(schema, tables=()))
        part = choose_tables(question, schema, sizes, longest - len(empty))
        prompt = Prompt(self._encode(question, part), question, part, read)
        if len(prompt.ids) > longest:
            raise UserError(
                f"table {part.tables[0].name} alone takes {len(prompt.ids):,} tokens; the model reads {longest:,}",
                "ask about a view with the columns that matter",
            )
        names = ", ".join(table.name for table in part.tables)
        of = f"{len(part.tables)} of the schema's {len(schema.tables):,} tables"
        return prompt, [f"the model was shown {of}, those that the question seems to be about: {names}"]

    def _encode(self, question: str, schema: Schema) -> list[int]:
        options = self.located.options
        return encode_prompt(self.tokenizer, render(schema, question, options.prompt, options.template))

    def _tokens_of(self, table: Table) -> int:
        """The tokens of a table in a prompt, with its line break."""
        return len(self.tokenizer(ddl(table, self.located.options.prompt) + "\n", add_special_tokens=False).input_ids)

    def generate_batch(self, prompts: Sequence[Prompt], candidates: int = 1) -> list[list[Generation]]:
        """For each prompt the most likely answer and `candidates - 1` sampled ones, all prompts in one batch.

        They are constrained as the model's predictions were.
        """
        from text2sql.model.generation import GenerationOptions, generate

        options = self.located.options
        rows = len(prompts) * candidates
        decoding = GenerationOptions(batch_size=rows, max_new_tokens=options.max_new_tokens, temperature=TEMPERATURE)
        seeds = [None, *(f"{i}" for i in range(1, candidates))] * len(prompts)
        repeated = [prompt.ids for prompt in prompts for _ in range(candidates)]
        with self._lock:
            constraints = [self._constraint(prompt) for prompt in prompts for _ in range(candidates)]
            generations = generate(self.model, self.tokenizer, repeated, decoding, seeds, constraints)
        return [generations[i : i + candidates] for i in range(0, rows, candidates)]

    def _constraint(self, prompt: Prompt) -> Constraint | None:
        if self._constraints is None:
            return None
        qualifiers = self.located.options.prompt.qualifiers
        return self._constraints.of(prompt.held_schema(), qualifiers, prompt.question, VALUES_KEPT)


def schema(place: str | Path) -> Schema:
    """The schema of a file of CREATE TABLE statements, an SQLite database or a DSN (`text2sql.ask.place`)."""
    from text2sql.ask.place import open_place

    with open_place(str(place)) as opened:
        return opened.schema


def choose_text(candidates: Sequence[Generation], execute: Execute | None) -> tuple[str, Result | None]:
    """The text of the likeliest candidate that runs and, if it was executed to find that out, its result.

    Without a database to execute them on, of those that are queries.
    """
    if len(candidates) == 1:
        return candidates[0].text, None
    from text2sql.model.candidates import likeliest_that_runs

    if execute is None:
        return candidates[likeliest_that_runs(candidates, lambda sql: not query_problems(sql))].text, None
    run = functools.cache(execute)
    text = candidates[likeliest_that_runs(candidates, lambda sql: run(sql).error is None)].text
    return text, run(text)


def query_problems(sql: str, schema: Schema | None = None) -> list[str]:
    """Warnings: the answer is no SQL, is no query, or names what `schema` does not have."""
    try:
        with shallow():
            trees = parse(sql)
    except SqlglotError:
        return ["this is not valid SQL"]
    if not trees:
        return ["the model gave no SQL"]
    if not all(isinstance(tree, exp.Query) for tree in trees):
        return ["this is not a query that reads data: it is not run"]
    return [] if schema is None else unknown_names(sql, schema)


def format_sql(sql: str) -> str:
    """`sql` over several lines; unchanged where it cannot be parsed."""
    try:
        with shallow():
            return ";\n".join(tree.sql("postgres", pretty=True) for tree in parse(sql)) or sql
    except SqlglotError:
        return sql
