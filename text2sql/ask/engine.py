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
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.ask.unknown import unknown_names
from text2sql.errors import UserError
from text2sql.postgres.compare import Result
from text2sql.schema import Schema
from text2sql.sql import parse, parse_one, shallow

if TYPE_CHECKING:
    from text2sql.ask.locate import Located
    from text2sql.model.generation import Generation

Execute = Callable[[str], Result]
LONGEST_QUESTION = 1000
#: of sampled candidates, as in conf/predict/execution_guided.yaml
TEMPERATURE = 1.0
STATEMENTS = (exp.Insert, exp.Update, exp.Delete, exp.Create, exp.Drop, exp.TruncateTable, exp.Alter)
#: first words of a wish to change data; the answer to it is a query all the same
WISHES = set("add alter change delete drop grant insert remove set truncate update create rename".split())  # noqa: SIM905
#: words that hold sentences together, to tell English from its neighbours
ENGLISH = set(
    """the of is are was what which who how many much list show find give me all each every for with and or in by to on
    have has that than from there do does did not more most least number name names average total""".split()  # noqa: SIM905
)
FOREIGN = set(
    """wie viele welche welcher der die das und ist sind von mit nicht haben zeige alle combien quels quelles quel les
    des est sont avec dans pour montre cuántos cuantos cuáles cuales qué los las del con por muestra todos quanti quali
    gli della sono mostra quantos quais dos mostre hoeveel welke het een zijn toon""".split()  # noqa: SIM905
)


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

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON has it; values that JSON does not know as text."""
        value = {"question": self.question, "sql": self.sql, "warnings": list(self.warnings)}
        value |= {"seconds": round(self.seconds, 3), "candidates": self.candidates}
        value |= {} if self.confidence is None else {"confidence": round(self.confidence, 3)}
        if self.result is not None:
            rows = [[plain(cell) for cell in row] for row in self.result.rows]
            value |= {"columns": list(self.result.columns), "rows": rows}
            value |= {"error": self.result.error, "message": self.result.message}
        return value


def plain(value: Any) -> Any:
    """A cell as JSON knows it."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class Engine:
    """A model that answers questions; usable from several threads, one answer at a time."""

    def __init__(self, located: Located, model: Any, tokenizer: Any) -> None:
        self.located, self.model, self.tokenizer = located, model, tokenizer
        self._lock = threading.Lock()
        self._constraints = None
        if located.recipe.constrained:
            from text2sql.model.constraint import Constraints

            self._constraints = Constraints(tokenizer)

    @property
    def title(self) -> str:
        """What the model was called by."""
        return self.located.title

    @property
    def samples(self) -> int:
        """Values of each column that the model's prompts need; 0: none."""
        return self.located.recipe.prompt.kept

    @classmethod
    def load(cls, name: str = "models/release", say: Callable[[str], None] = lambda text: None) -> Engine:
        """The model called `name`: a folder, git revision, MLflow model or hub repository (`model.locate`).

        Args:
            say: is told what is being done, as this takes seconds.

        Raises:
            UserError: there is no such model, or adapter and base model do not fit.
        """
        from text2sql.ask.locate import locate

        say(f"finding {name}")
        located = locate(name)
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
    ) -> Answer:
        """A query for `question` on `schema`.

        Args:
            candidates: with more than one, the others are sampled and the likeliest wins; those that fail are dropped
                where `execute` can tell.
            execute: runs a query safely, see `text2sql.postgres.sandbox`.
            run: attach the result of the answer.

        Raises:
            UserError: the question is empty, endless or SQL, the schema has no table or is too large for the model.
        """
        warnings = check_question(question)
        started = time.perf_counter()
        prompt, notes = self.encode(question, schema)
        generations = self.generate(prompt, candidates, schema)
        chosen, result = choose(generations, execute)
        seconds = time.perf_counter() - started
        sql, problems = tidy(chosen, schema)
        if run and execute is not None and result is None:
            result = execute(chosen)
        confidence = self.confidence(next(each for each in generations if each.text == chosen))
        warnings = [*warnings, *notes, *problems]
        return Answer(question, sql, tuple(warnings), result if run else None, seconds, candidates, confidence)

    def confidence(self, generation: Generation) -> float | None:
        """How probably an answer is right, by how likely the model found it; None if the release is not calibrated."""
        calibration = self.located.calibration
        tokens = len(generation.token_ids) + generation.finished
        return None if calibration is None else calibration.confidence(generation.score, tokens)

    def encode(self, question: str, schema: Schema) -> tuple[list[int], list[str]]:
        """The prompt's token ids, and a warning if it is longer than any in training.

        Raises:
            UserError: the schema is empty, or does not fit the model.
        """
        from text2sql.model.prompt import encode_prompt, render

        if not schema.tables:
            raise UserError("the schema has no table", "give one with at least one CREATE TABLE")
        recipe = self.located.recipe
        ids = encode_prompt(self.tokenizer, render(schema, question, recipe.prompt, recipe.template))
        positions = self.model.config.max_position_embeddings - recipe.max_new_tokens
        if len(ids) > positions:
            raise UserError(
                f"the schema of {len(schema.tables):,} tables takes {len(ids):,} tokens; the model reads {positions:,}",
                "name the tables that the question is about: --tables customers,orders",
            )
        if len(ids) > recipe.max_length:
            longer = f"the schema takes {len(ids):,} tokens; in training none took more than {recipe.max_length:,}"
            return ids, [f"{longer}: expect worse answers, or name the tables that matter"]
        return ids, []

    def generate(self, prompt: list[int], candidates: int, schema: Schema) -> list[Generation]:
        """The most likely answer and `candidates - 1` sampled ones, constrained as the model's predictions were."""
        from text2sql.model.generation import GenerationOptions, generate

        recipe = self.located.recipe
        options = GenerationOptions(
            batch_size=candidates, max_new_tokens=recipe.max_new_tokens, temperature=TEMPERATURE
        )
        seeds = [None, *(f"{i}" for i in range(1, candidates))]
        with self._lock:
            held, form = self._constraints, self.located.recipe.prompt.qualifiers
            constraints = [held.of(schema, form) if held else None for _ in seeds]
            return generate(self.model, self.tokenizer, [prompt] * candidates, options, seeds, constraints)


def schema(place: str | Path, samples: int = 0) -> Schema:
    """The schema of a file of CREATE TABLE statements, an SQLite database or a DSN (`text2sql.ask.place`).

    Args:
        samples: values kept of each column, for a model whose prompts show some: `Engine.samples`.
    """
    from text2sql.ask.place import open_place

    with open_place(str(place), samples) as opened:
        return opened.schema


def choose(candidates: Sequence[Generation], execute: Execute | None) -> tuple[str, Result | None]:
    """The text of the likeliest candidate that runs and, if it was executed to find that out, its result.

    Without a database to execute them on, of those that are queries.
    """
    if len(candidates) == 1:
        return candidates[0].text, None
    from text2sql.model.candidates import likeliest_that_runs

    if execute is None:
        return candidates[likeliest_that_runs(candidates, lambda sql: not tidy(sql)[1])].text, None
    run = functools.cache(execute)
    chosen = candidates[likeliest_that_runs(candidates, lambda sql: not failed(run(sql)))].text
    return chosen, run(chosen)


def failed(result: Result) -> bool:
    """Whether a query ended in an error."""
    return result.error is not None


def tidy(sql: str, schema: Schema | None = None) -> tuple[str, list[str]]:
    """`sql` formatted, and warnings: it is no SQL, it is no query, it names what `schema` does not have."""
    try:
        with shallow():
            trees = parse(sql)
            formatted = ";\n".join(tree.sql("postgres", pretty=True) for tree in trees)
    except SqlglotError:
        return sql, ["this is not valid SQL"]
    if not trees:
        return sql, ["the model gave no SQL"]
    if not all(isinstance(tree, exp.Query) for tree in trees):
        return formatted, ["this is not a query that reads data: it is not run"]
    return formatted, [] if schema is None else unknown_names(sql, schema)


def check_question(question: str) -> list[str]:
    """Warnings about a question that will hardly be understood.

    Raises:
        UserError: it is empty, longer than a question, no text, or SQL.
    """
    words = [word.strip("?!.,;:'\"()").lower() for word in question.split()]
    if not any(words):
        raise UserError("the question is empty", 'ask something: text2sql ask "How many customers are there?" ...')
    if len(question) > LONGEST_QUESTION:
        raise UserError(f"the question has {len(question):,} characters", f"ask in at most {LONGEST_QUESTION:,}")
    if any("\ud800" <= c <= "\udfff" for c in question):
        raise UserError("the question has bytes that are no text", "write it in UTF-8")
    if is_sql(question):
        raise UserError("that is SQL already", "ask in English what you want to know; nothing else is run here")
    warnings = []
    if words[0] in WISHES:
        warnings.append("only queries that read data are written: nothing will be changed")
    letters = [c for c in question if c.isalpha()]
    strange = sum(ord(c) > 0x24F for c in letters) > 0.3 * len(letters)  # beyond the Latin alphabets
    foreign, english = (sum(word in known for word in words) for known in (FOREIGN, ENGLISH))
    if strange or (foreign >= 2 and foreign > english):
        warnings.append("the model was trained on questions in English: expect a worse answer")
    return warnings


def is_sql(text: str) -> bool:
    """Whether a text is a statement rather than a sentence that begins like one ("Select all customers ...")."""
    try:
        tree = parse_one(text)
    except SqlglotError:
        return False
    if isinstance(tree, exp.Query):
        return tree.find(exp.From) is not None
    return isinstance(
        tree, exp.Insert | exp.Update | exp.Delete | exp.Create | exp.Drop | exp.TruncateTable | exp.Alter
    )
