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
from text2sql.ask.catalog import Target
from text2sql.ask.doubts import doubts
from text2sql.ask.fit import fit_query
from text2sql.ask.question import check_question
from text2sql.ask.unknown import query_scopes, unknown_names
from text2sql.errors import UserError
from text2sql.model.fitted_prompt import PromptWriter
from text2sql.model.prompt import VALUES_KEPT
from text2sql.postgres.alternatives import Execute
from text2sql.postgres.compare import Result
from text2sql.postgres.outcome import finds_nothing
from text2sql.schema import Schema, Table
from text2sql.sql import parse, shallow

if TYPE_CHECKING:
    from text2sql.ask.models import Located
    from text2sql.ask.place import Place
    from text2sql.model.candidates import Outcome
    from text2sql.model.constraint import Constraint
    from text2sql.model.generation import Generation
    from text2sql.model.shared_prefix import KeptPrefixes

#: of sampled candidates, as in conf/predict/execution_guided.yaml
TEMPERATURE = 1.0
#: candidates where the server refuses a query, or the model gives it less than this probability, as in
#: conf/predict/second_try.yaml
SECOND_TRY, LEAST_PROBABILITY = 8, 0.3
#: classes of SQLSTATE in which the server refuses the query itself: names and types, values, rows of a subquery
REFUSALS = ("42", "22", "21")
#: answers of less confidence are more probably wrong than right
UNSURE = 0.5


@dataclasses.dataclass(frozen=True)
class Answer:
    """A formatted query for a question. `result` is there if it was executed; `seconds` are those of the model.

    `confidence` is the probability (0 to 1) that the query is right, where the release was calibrated: 0 if the server
    refused it. It is calibrated on greedy answers, and near enough for the queries of a second try.
    """

    question: str
    sql: str
    warnings: tuple[str, ...] = ()
    result: Result | None = None
    seconds: float = 0.0
    #: all that the model wrote, the greedy one first
    generations: tuple[Generation, ...] = ()
    confidence: float | None = None
    #: read by the model
    prompt_tokens: int = 0
    #: why the database hardly has the answer, judged by the question's words; None for most questions
    unanswerable: str | None = None

    @property
    def candidates(self) -> int:
        """How many queries the model wrote, of which this is one."""
        return len(self.generations)

    @property
    def completion_tokens(self) -> int:
        """Tokens that the model wrote, those of all candidates."""
        return sum(map(written_tokens, self.generations))

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
class AskedPrompt:
    """A question's token ids, the database it is about, and the tables of `schema` that the model is shown."""

    ids: list[int]
    question: str
    schema: Schema
    shown: Schema
    target: Target = dataclasses.field(default_factory=Target)
    #: to be said with the answer
    notes: tuple[str, ...] = ()

    def held_schema(self) -> Schema:
        """What the answer is held to: the shown tables, without the values of those that were not read to the end:
        other texts may be values too."""

        def held(table: Table) -> Table:
            if table.name in self.target.read:
                return table
            return dataclasses.replace(table, columns=tuple(dataclasses.replace(c, samples=()) for c in table.columns))

        return dataclasses.replace(self.shown, tables=tuple(map(held, self.shown.tables)))


class Engine:
    """A model that answers questions; usable from several threads, which take turns at the model."""

    def __init__(self, located: Located, model: Any, tokenizer: Any) -> None:
        self.located, self.model, self.tokenizer = located, model, tokenizer
        self._lock = threading.Lock()
        #: the tokenizer keeps between two calls whether texts may name special tokens, see `encode_prompt`
        self._tokenizing = threading.Lock()
        self._kept: KeptPrefixes | None = None
        self._prompts = PromptWriter(tokenizer, located.options.prompt, located.options.template)
        self._constraints = None
        if located.options.constrained:
            from text2sql.model.constraint import Constraints

            self._constraints = Constraints(tokenizer)

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
        schema: Schema | Place,
        *,
        candidates: int = 1,
        execute: Execute | None = None,
        run: bool = False,
        target: Target | None = None,
    ) -> Answer:
        """A query for `question` on `schema`.

        Args:
            schema: what `ask.schema` or `ask.place.open_place` gives: it knows its `target`.
            candidates: with more than one, the others are sampled and the likeliest wins; those that fail are dropped
                where `execute` can tell.
            execute: runs a query safely, see `text2sql.postgres.sandbox`. An answer that was executed and is refused,
                finds nothing, or is improbable gets a second try.
            run: execute the answer in any case, and attach its result.
            target: the server that the SQL is for, if `schema` does not say; texts are held to the values of the tables
                that it says were read.

        Raises:
            UserError: the question is empty, endless or SQL, the schema has no table or is too large for the model.
        """
        started = time.perf_counter()
        prompt = self.prepare(question, schema, target)
        return self.finish(prompt, self.generate_batch([prompt], candidates)[0], started, execute, run)

    def prepare(self, question: str, schema: Schema | Place, target: Target | None = None) -> AskedPrompt:
        """The prompt of a question as a person asks it.

        Raises:
            UserError: see `ask`.
        """
        target = target or getattr(schema, "target", None)
        schema = schema if isinstance(schema, Schema) else schema.schema
        warnings = check_question(question, schema)
        prompt = self.prompt(question, schema, target)
        return dataclasses.replace(prompt, notes=(*warnings, *prompt.notes))

    def finish(
        self,
        prompt: AskedPrompt,
        generations: Sequence[Generation],
        started: float,
        execute: Execute | None = None,
        run: bool = False,
    ) -> Answer:
        """The answer out of what the model wrote: chosen, made to fit the server, formatted, and run if it is to be.

        There may be a second try.

        Args:
            started: when the question came, by `time.perf_counter`.
        """
        unanswerable = cannot_answer(prompt.question, prompt.schema)
        answer = self._choose(prompt, generations, execute, run, unanswerable)
        if execute is not None and answer.result is not None:
            answer = self.second_try(answer, answer.result, prompt.schema, execute, prompt.target)
        return dataclasses.replace(
            answer,
            result=answer.result if run else None,
            seconds=time.perf_counter() - started,
            prompt_tokens=len(prompt.ids),
        )

    def second_try(
        self, answer: Answer, result: Result, schema: Schema, execute: Execute, target: Target | None = None
    ) -> Answer:
        """The likeliest of several candidates that runs, in place of an answer that needs it; or `answer`.

        `answer`'s candidates are among them: they are not drawn again, nor is its query executed again.

        Args:
            result: of `answer`'s query.
        """
        first = outcome(result, answer.sql, execute)
        if not needs_second_try(answer, result, first):
            return answer
        started, prompt = time.perf_counter(), self.prepare(answer.question, schema, target)
        others = self.generate_batch([prompt], SECOND_TRY, answer.candidates)[0]

        def execute_others(sql: str) -> Result:
            return result if format_sql(sql) == answer.sql else execute(sql)

        second = self._choose(prompt, [*answer.generations, *others], execute_others, True, answer.unanswerable)
        better = second.result is not None and runs(second.result) and second.sql != answer.sql
        seconds = answer.seconds + time.perf_counter() - started
        if not better:
            return dataclasses.replace(answer, generations=second.generations, seconds=seconds)
        why = "the model was not sure" if runs(result) else f"the server refused a first query ({result.message})"
        said = f"{why}; this is the likeliest of {SECOND_TRY} that runs"
        if first == "nothing" != outcome(second.result, second.sql, execute):
            said = f"a first query finds nothing; this is the likeliest of {SECOND_TRY} that finds rows"
        return dataclasses.replace(second, warnings=(said, *second.warnings), seconds=seconds)

    def _choose(
        self,
        prompt: AskedPrompt,
        generations: Sequence[Generation],
        execute: Execute | None,
        run: bool,
        unanswerable: str | None,
    ) -> Answer:
        """`finish` without a second round; the result is there whenever the query was executed."""
        fitted = {g.text: fit_query(g.text, prompt.schema, prompt.target) for g in generations}
        chosen, result = choose_generation(generations, execute, lambda text: fitted[text][0])
        sql, changes = fitted[chosen.text]
        warnings = [*prompt.notes, *([unanswerable] if unanswerable else [])]
        warnings += [*query_warnings(chosen.text, prompt.question, prompt.schema), *changes]
        if result is not None and not runs(result):
            warnings.append(f"none of the {len(generations)} candidates runs: {result.message or result.error}")
        if run and execute is not None and result is None:
            result = execute(sql)
        calibration = self.located.calibration
        confidence = None
        if calibration is not None:
            confidence = calibration.confidence(chosen.score, written_tokens(chosen))
            confidence = 0.0 if result is not None and is_refused(result) else confidence
        if confidence is not None and 0.0 < confidence < UNSURE:  # that the server refused it is said
            warnings.append(f"the query is more probably wrong than right: confidence {confidence:.0%}")
        return Answer(
            prompt.question,
            format_sql(sql),
            tuple(warnings),
            result,
            generations=tuple(generations),
            confidence=confidence,
            unanswerable=unanswerable,
        )

    def prompt(self, question: str, schema: Schema, target: Target | None = None) -> AskedPrompt:
        """The prompt of a question.

        Where the schema is longer than any prompt in training, the tables that the question is about are shown.

        Raises:
            UserError: the schema is empty, or not even one table fits the model.
        """
        if not schema.tables:
            raise UserError("the schema has no table", "give one with at least one CREATE TABLE")
        located, positions = self.located.options, self.model.config.max_position_embeddings
        longest = min(located.max_length, positions - located.max_new_tokens)
        with self._tokenizing:
            fitted = self._prompts.write(question, schema, longest)
        shown = fitted.shown.tables
        if len(fitted.ids) > longest:
            raise UserError(
                f"table {shown[0].name} alone takes {len(fitted.ids):,} tokens; the model reads {longest:,}",
                "ask about a view with the columns that matter",
            )
        notes = []
        if len(shown) < len(schema.tables):
            of, names = f"{len(shown)} of the schema's {len(schema.tables):,} tables", ", ".join(t.name for t in shown)
            notes = [f"the model was shown {of}, those that the question seems to be about: {names}"]
        return AskedPrompt(fitted.ids, question, schema, fitted.shown, target or Target(), tuple(notes))

    def generate_batch(
        self, prompts: Sequence[AskedPrompt], candidates: int = 1, drawn: int = 0
    ) -> list[list[Generation]]:
        """For each prompt the most likely answer and `candidates - 1` sampled ones, all prompts in one batch.

        They are constrained as the model's predictions were. The first `drawn` of them are left out.
        """
        from text2sql.model.generation import GenerationOptions, generate
        from text2sql.model.shared_prefix import KeptPrefixes

        options = self.located.options
        lacking = range(drawn, candidates)
        rows = len(prompts) * len(lacking)
        decoding = GenerationOptions(batch_size=rows, max_new_tokens=options.max_new_tokens, temperature=TEMPERATURE)
        seeds = [f"{i}" if i else None for i in lacking] * len(prompts)
        repeated = [prompt.ids for prompt in prompts for _ in lacking]
        with self._lock:
            constraints = [self._constraint(prompt) for prompt in prompts for _ in lacking]
            self._kept = self._kept or KeptPrefixes()
            generations = generate(self.model, self.tokenizer, repeated, decoding, seeds, constraints, self._kept)
        return [generations[i : i + len(lacking)] for i in range(0, rows, len(lacking))]

    def _constraint(self, prompt: AskedPrompt) -> Constraint | None:
        if self._constraints is None:
            return None
        return self._constraints.of(prompt.held_schema(), prompt.question, VALUES_KEPT)


@dataclasses.dataclass(frozen=True)
class PlacedSchema(Schema):
    """A schema that knows the server that its SQL is for, and the tables all of whose values it has."""

    target: Target = dataclasses.field(default=Target(), compare=False)


def schema(place: str | Path) -> PlacedSchema:
    """The schema of a file of CREATE TABLE statements, an SQLite database or a DSN (`text2sql.ask.place`)."""
    from text2sql.ask.place import open_place

    with open_place(str(place)) as opened:
        return PlacedSchema(**vars(opened.schema), target=opened.target)


def choose_generation(
    candidates: Sequence[Generation], execute: Execute | None, fit: Callable[[str], str] = str
) -> tuple[Generation, Result | None]:
    """The likeliest candidate that finds rows, or at least runs, and, if it was executed to find that out, its result.

    Without a database to execute them on, of those that are queries.

    Args:
        fit: turns a candidate's text into the query that is executed.
    """
    if len(candidates) == 1:
        return candidates[0], None
    from text2sql.model.candidates import likeliest_that_runs

    if execute is None:
        return candidates[likeliest_that_runs(candidates, lambda sql: "fails" if query_problems(sql) else "rows")], None
    run = functools.cache(lambda text: execute(fit(text)))
    chosen = candidates[likeliest_that_runs(candidates, lambda text: outcome(run(text), fit(text), execute))]
    return chosen, run(chosen.text)


def runs(result: Result) -> bool:
    """Whether a query ran; one with more rows than are shown did."""
    return result.error in (None, "too_many_rows")


def outcome(result: Result, sql: str, execute: Execute) -> Outcome:
    """What the query `sql` showed with its result."""
    return "fails" if not runs(result) else "nothing" if finds_nothing(result, sql, execute) else "rows"


def is_refused(result: Result) -> bool:
    """Whether the server refused the query itself; it may also be away, or take too long."""
    return (result.sqlstate or "")[:2] in REFUSALS


def needs_second_try(answer: Answer, result: Result, shown: Outcome) -> bool:
    """Whether the server refuses the answer's query, or the only one written finds nothing or is improbable."""
    from text2sql.model.candidates import is_sure

    unsure = answer.candidates == 1 and not (shown == "rows" and is_sure(answer.generations[0], LEAST_PROBABILITY))
    return answer.candidates < SECOND_TRY and (is_refused(result) or (unsure and runs(result)))


def written_tokens(generation: Generation) -> int:
    """The tokens of an answer, its end included."""
    return len(generation.token_ids) + generation.finished


def query_problems(sql: str) -> list[str]:
    """Warnings: the answer is no SQL, or is no query."""
    try:
        trees = parse(sql)
    except SqlglotError:
        return ["this is not valid SQL"]
    if not trees:
        return ["the model gave no SQL"]
    if not all(isinstance(tree, exp.Query) for tree in trees):
        return ["this is not a query that reads data: it is not run"]
    return []


def query_warnings(sql: str, question: str, schema: Schema) -> list[str]:
    """`query_problems`, or what a query names that `schema` does not have, and what is to be doubted in it."""
    if problems := query_problems(sql):
        return problems
    scopes = query_scopes(sql)
    return [*unknown_names(scopes, schema), *doubts(scopes, question, schema)]


def format_sql(sql: str) -> str:
    """`sql` over several lines; unchanged where it cannot be parsed."""
    try:
        with shallow():
            return ";\n".join(tree.sql("postgres", pretty=True) for tree in parse(sql)) or sql
    except SqlglotError:
        return sql
