"""Predictions for many questions: greedy or execution-guided, saved as they are made, resumed after an interruption.

Executing a candidate is the caller's (`choose`), so that this module, like all of text2sql.model, knows nothing of
servers. A question is a row with `id`, `db_id`, `question` and `tokens` (of its prompt); a prediction is a row with
`id`, `predicted` (SQL), `finished` (False: cut by the limit of tokens), `tokens`, `log_probability` (of the tokens;
None: nothing was generated), `checked` (False: at some step no name could be right, see `Constraint.released`) and,
where several were drawn, `candidates`, each with the first four.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Any

import torch

from text2sql.errors import UserError
from text2sql.model.base import QuantizationOptions, load_tokenizer
from text2sql.model.constraint import Constraint, Constraints
from text2sql.model.generation import Decoder, Generation, GenerationOptions
from text2sql.model.inference import load_for_inference
from text2sql.progress import progress
from text2sql.schema import Schema

#: batches after which predictions are saved that depend on what is generated beside them (`Predictor.exact` is False)
BATCHES_SAVED = 4
Row = dict[str, Any]
#: of a question's candidates the one to take
Choose = Callable[[Row, Sequence[Generation]], Generation]
#: what may follow a question's prompt; None: anything
Constrain = Callable[[Row], Constraint | None]


def unconstrained(question: Row) -> None:
    """Anything may follow the prompt."""


def constrain_to(schemas: dict[str, Schema], tokenizer: Any, kept: int) -> Constrain:
    """Queries on the schema of the question's database. `kept`: values of a column that a schema has at most."""
    constraints = Constraints(tokenizer)
    return lambda row: constraints.of(schemas[row["db_id"]], row["question"], kept)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How many candidates each question gets, the greedy one first, and which of them to take.

    `choose` and `suffices` run in `workers` threads while the next candidates are generated.
    """

    candidates: int = 1
    seed: int = 0
    choose: Choose = lambda _, candidates: candidates[0]
    workers: int = 1
    #: whether a question's greedy answer is taken as it is, without further candidates; None: never
    suffices: Callable[[Row, Generation], bool] | None = None


#: the likeliest token at each step, once
GREEDY = Decoding()


class Predictor:
    """A model that continues prompts, and how."""

    def __init__(self, model: Any, tokenizer: Any, options: GenerationOptions) -> None:
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.device, self.dtype = str(weight.device), str(weight.dtype).removeprefix("torch.")
        #: whether a text is the same whatever is generated beside it
        self.exact = weight.dtype == torch.float32
        #: tokens of the longest prompt that leaves room for an answer
        self.longest = model.config.max_position_embeddings - options.max_new_tokens

    @classmethod
    def load(
        cls, base: Path, quantization: QuantizationOptions, adapter: Path | None, dtype: str, options: GenerationOptions
    ) -> Predictor:
        """The model in `base`, with `adapter` where one is given (`load_for_inference`)."""
        return cls(load_for_inference(base, quantization, adapter, dtype), load_tokenizer(base), options)

    def answers(
        self, questions: Sequence[Row], constrain: Constrain = unconstrained, decoding: Decoding = GREEDY
    ) -> Iterator[Row]:
        """The predictions, as they are chosen."""
        if decoding.suffices is None:
            yield from self._drawn(questions, constrain, decoding)
            return
        refused: dict[str, Generation] = {}

        def first(question: Row, drawn: Sequence[Generation]) -> Generation:
            if not decoding.suffices(question, drawn[0]):
                refused[question["id"]] = drawn[0]
            return drawn[0]

        greedy = dataclasses.replace(decoding, candidates=1, choose=first)
        yield from (row for row in self._drawn(questions, constrain, greedy) if row["id"] not in refused)
        yield from self._drawn([row for row in questions if row["id"] in refused], constrain, decoding, refused)

    def _drawn(
        self, questions: Sequence[Row], constrain: Constrain, decoding: Decoding, greedy: Mapping[str, Generation] = {}
    ) -> Iterator[Row]:
        """All candidates of every question, and of them the chosen ones. `greedy`: those that are drawn already."""
        count = decoding.candidates
        drawn = {i: {0: greedy[row["id"]]} if row["id"] in greedy else {} for i, row in enumerate(questions)}
        lacking = [(i, k) for i in drawn for k in range(count) if k not in drawn[i]]
        rows = [questions[i] for i, _ in lacking]
        seeds = [f"{decoding.seed}/{questions[i]['id']}/{k}" if k else None for i, k in lacking]
        prompts, constraints = [row["tokens"] for row in rows], [constrain(row) for row in rows]
        with ThreadPoolExecutor(decoding.workers) as pool:
            running: dict[Future[Row], int] = {}
            for index, generation in Decoder(self.model, self.tokenizer, prompts, self.options, seeds, constraints):
                place, k = lacking[index]
                drawn[place][k] = generation
                if len(drawn[place]) == count:
                    candidates = [drawn[place][k] for k in range(count)]
                    running[pool.submit(_predict, decoding.choose, questions[place], candidates)] = place
                for future in [future for future in running if future.done()]:
                    del drawn[running.pop(future)]
                    yield future.result()
            for future in as_completed(running):
                yield future.result()


def _predict(choose: Choose, question: Row, candidates: Sequence[Generation]) -> Row:
    chosen = choose(question, candidates)
    row = {"id": question["id"], **_described(chosen), "checked": chosen.checked}
    return row | ({"candidates": list(map(_described, candidates))} if len(candidates) > 1 else {})


def _described(generation: Generation) -> Row:
    return {
        "predicted": generation.text.strip(),
        "finished": generation.finished,
        "tokens": len(generation.token_ids) + generation.finished,
        # Rounded: the last bits depend on what is generated beside it.
        "log_probability": round(generation.score, 3),
    }


class Partial:
    """The predictions so far in a file, one line each, appended as they are made.

    A line that a kill left unfinished is dropped. `done` has the predictions by the questions' ids.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Row] = {}
        self._file: IO[str]

    def __enter__(self) -> Partial:
        """
        Raises:
            UserError: another process writes the same predictions.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError("another process makes the same predictions", "wait for it, or end it") from None
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")  # what is unfinished may end within a character
        self.done = {row["id"]: row for row in map(json.loads, filter(None, whole.split(b"\n")))}
        self._file.truncate(len(whole) + bool(whole))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Sequence[Row]) -> None:
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()
        self.done.update((row["id"], row) for row in rows)


def complete(
    partial: Partial,
    predictor: Predictor,
    questions: Sequence[Row],
    constrain: Constrain = unconstrained,
    decoding: Decoding = GREEDY,
) -> None:
    """Fill `partial` with a prediction for every question; an empty one where the prompt is too long for the model."""
    too_long = [row for row in questions if len(row["tokens"]) > predictor.longest and row["id"] not in partial.done]
    nothing = {"predicted": "", "finished": False, "tokens": 0, "log_probability": None, "checked": True}
    partial.add([{"id": row["id"], **nothing} for row in too_long])
    fitting = [row for row in questions if len(row["tokens"]) <= predictor.longest]
    # Where a greedy answer may do, few questions get more: those of a larger part are drawn together.
    drawn = 1 if decoding.suffices else decoding.candidates
    batches = max(1, BATCHES_SAVED * predictor.options.batch_size // drawn)
    size = len(questions) if predictor.exact else batches
    with progress("predicting", len(questions)) as advance:
        advance(len(questions) - len(fitting))
        for part in _parts(fitting, size):
            waiting = [row for row in part if row["id"] not in partial.done]
            advance(len(part) - len(waiting))
            if not waiting:
                continue
            # What is generated together decides the last bits of numbers that are not exact: all of the part again.
            rows = predictor.answers(waiting if predictor.exact else part, constrain, decoding)
            for saved in ([row] for row in rows) if predictor.exact else [list(rows)]:
                partial.add(saved)
                advance(1 if predictor.exact else len(waiting))


def _parts(questions: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """`size` questions at a time, those of a database together."""
    first = {row["db_id"]: i for i, row in reversed(list(enumerate(questions)))}
    ordered = sorted(questions, key=lambda row: first[row["db_id"]])
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
