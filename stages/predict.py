"""Stage predict: the model's SQL for the test questions.

Apart from scoring, so that scoring again needs no model. `predict=greedy` takes the likeliest token at each step;
`predict=execution_guided` samples several queries and takes the likeliest one that runs in the sandbox;
`predict=second_try` does so where the greedy query does not run or is improbable. With `constrained` the model can
write nothing but queries on the schema's own names.

Reads data/prompts/, data/splits/, models/base, models/adapter (to execute candidates also
data/postgres/databases, to constrain data/postgres/schema_index.json). Writes data/predictions/test.jsonl, a line for
each question of the split, in its order: `id`, `db_id`, `question`, `gold`, `predicted`, `finished` (false: cut by
max_new_tokens, or the prompt is too long for the model, and then `predicted` is empty), `tokens`, `log_probability`
and, where several were drawn, `candidates` (each with `predicted` and the three keys after it);
data/predictions/val.jsonl, the same of the first validation questions, by which the stage score learns how far a
likelihood is to be trusted; and metrics/predict.json.

An interrupted prediction is resumed from checkpoints/predict-<fingerprint>.jsonl in the repository's main folder.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from text2sql.config import Seconds, read_params, read_seed, require, section
from text2sql.files import digest, repository_root, write_json, write_jsonl
from text2sql.model.base import QuantizationOptions
from text2sql.model.checkpoint import fingerprint
from text2sql.model.process import prepare
from text2sql.model.prompt import encode_prompt, read_questions
from text2sql.schema import read_index
from text2sql.stage import run
from text2sql.workspace import (
    ADAPTER,
    BASE,
    DUMPS,
    INDEX,
    METRICS,
    PREDICTIONS,
    PROMPTS,
    SPLITS,
    VALIDATION_PREDICTIONS,
    adapter_sha256,
)

if TYPE_CHECKING:
    from text2sql.model.candidates import Outcome
    from text2sql.model.generation import Generation, GenerationOptions
    from text2sql.model.prediction import Choose, Constrain, Decoding, Predictor
    from text2sql.postgres.sandbox import Sandbox

REPORT = METRICS / "predict.json"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GuidedOptions:
    """conf/predict/execution_guided.yaml."""

    candidates: Annotated[int, Gt(1)]
    temperature: Annotated[float, Gt(0)]
    timeout_seconds: Seconds
    max_rows: Annotated[int, Gt(0)]
    workers: Annotated[int, Gt(0)]
    least_probability: Annotated[float, Ge(0), Lt(1)] = 0.0


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """conf/predict."""

    method: Literal["greedy", "second_try", "execution_guided"]
    zero_shot: bool
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    batch_size: Annotated[int, Gt(0)]
    max_new_tokens: Annotated[int, Gt(0)]
    cache_tokens: Annotated[int, Gt(0)]
    constrained: bool
    validation: Annotated[int, Ge(0)]
    guided: GuidedOptions | None = None

    def __post_init__(self) -> None:
        sampled = self.method != "greedy"
        require(sampled == (self.guided is not None), f"method is {self.method}: choose with predict={self.method}")

    def generation(self) -> GenerationOptions:
        from text2sql.model.generation import GenerationOptions

        temperature = self.guided.temperature if self.guided else 1.0
        return GenerationOptions(self.batch_size, self.max_new_tokens, self.cache_tokens, temperature)


@dataclasses.dataclass(frozen=True)
class PredictionRecipe:
    """All that decides the predictions. `kept`: values of each column that the schema index has at most."""

    predict: PredictOptions
    quantization: QuantizationOptions
    kept: int
    seed: int


def read_options(params: dict[str, Any]) -> PredictionRecipe:
    return PredictionRecipe(
        predict=section(PredictOptions, "predict", params),
        quantization=section(QuantizationOptions, "quantization", params),
        kept=params["data"]["databases"]["samples"],
        seed=read_seed(params),
    )


def load_predictor(options: PredictionRecipe) -> tuple[Predictor, Constrain]:
    """The model, with its adapter unless it is to be seen without, and what may follow a question's prompt."""
    from text2sql.model.prediction import Predictor, constrain_to, unconstrained

    predict = options.predict
    adapter = None if predict.zero_shot else ADAPTER
    predictor = Predictor.load(BASE, options.quantization, adapter, predict.dtype, predict.generation())
    if not predict.constrained:
        return predictor, unconstrained
    return predictor, constrain_to(read_index(INDEX), predictor.tokenizer, options.kept)


@contextmanager
def decoding_of(options: PredictionRecipe, questions: Sequence[Row]) -> Iterator[Decoding]:
    """Greedy, or execution-guided with a sandbox for the questions' databases."""
    from text2sql.model.candidates import is_sure
    from text2sql.model.prediction import GREEDY, Decoding

    guided = options.predict.guided
    if guided is None:
        yield GREEDY
        return
    with open_sandbox(guided, questions) as sandbox:
        outcome = outcomes_in(sandbox)

        def suffices(row: Row, answer: Generation) -> bool:
            sure = is_sure(answer, guided.least_probability)
            return sure and answer.finished and outcome(row["db_id"], answer.text) == "rows"

        greedy_first = suffices if options.predict.method == "second_try" else None
        yield Decoding(guided.candidates, options.seed, candidate_chooser(outcome), guided.workers, greedy_first)


def open_sandbox(guided: GuidedOptions, questions: Sequence[Row]) -> AbstractContextManager[Sandbox]:
    """A sandbox with the questions' databases."""
    from text2sql.postgres.load import loaded_sandbox
    from text2sql.postgres.sandbox import Limits

    limits = Limits(timeout_seconds=guided.timeout_seconds, max_rows=guided.max_rows)
    return loaded_sandbox(sorted({row["db_id"] for row in questions}), DUMPS, limits, guided.workers)


def outcomes_in(sandbox: Sandbox) -> Callable[[str, str], Outcome]:
    """What a query shows on a database (`db_id`, SQL): a query is executed once, also where it is drawn again."""
    from text2sql.postgres.outcome import finds_nothing

    def outcome(db_id: str, sql: str) -> Outcome:
        execute = functools.partial(sandbox.execute, db_id)
        result = execute(sql)
        return "fails" if result.error else "nothing" if finds_nothing(result, sql, execute) else "rows"

    return functools.cache(outcome)


def candidate_chooser(outcome: Callable[[str, str], Outcome]) -> Choose:
    """Takes the likeliest of a question's candidates that finds rows on its database, or at least runs."""
    from text2sql.model.candidates import likeliest_that_runs

    return lambda row, candidates: candidates[likeliest_that_runs(candidates, functools.partial(outcome, row["db_id"]))]


def prediction_fingerprint(predictor: Predictor, options: PredictionRecipe) -> str:
    """A hash of all that decides the predictions: another configuration does not resume what this one began."""
    import torch

    predict = options.predict
    files = [PROMPTS, SPLITS, BASE, Path(__file__).parent.parent / "text2sql/model"]
    files += [] if predict.zero_shot else [ADAPTER]
    files += [DUMPS] if predict.guided else []
    files += [INDEX] if predict.constrained else []
    processor = [predictor.device, predictor.dtype, torch.__version__]
    return fingerprint({"options": dataclasses.asdict(options), "files": list(map(digest, files)), "on": processor})


def main() -> str:
    options = read_options(read_params())
    wanted = options.predict.validation
    tested, validation = read_questions(), read_questions("val")[:wanted] if wanted else []

    prepare()
    from text2sql.model.prediction import Partial, complete

    predictor, constrain = load_predictor(options)
    questions = [{**row, "tokens": encode_prompt(predictor.tokenizer, row["prompt"])} for row in tested + validation]
    path = repository_root() / f"checkpoints/predict-{prediction_fingerprint(predictor, options)[:16]}.jsonl"
    with Partial(path) as partial, decoding_of(options, questions) as decoding:
        resumed, started = len(partial.done), time.perf_counter()
        complete(partial, predictor, questions, constrain, decoding)
        seconds = time.perf_counter() - started
        predictions = [partial.done[row["id"]] for row in questions]
        write_jsonl(PREDICTIONS, map(output_row, tested, predictions))
        write_jsonl(VALIDATION_PREDICTIONS, map(output_row, validation, predictions[len(tested) :]))
        partial.path.unlink()
    figures = figures_of(predictions, resumed, seconds)
    method = {"method": options.predict.method, "zero_shot": options.predict.zero_shot}
    device = {"device": predictor.device, "dtype": predictor.dtype}
    # By it text2sql/track.py finds the MLflow run that these predictions belong to.
    adapter = {"adapter_sha256": None if options.predict.zero_shot else adapter_sha256(ADAPTER)}
    write_json(REPORT, {**figures, **method, **device, **adapter})
    if figures["unchecked"]:
        print(
            f"warning: {figures['unchecked']} answers came to a word after which no name could be right; "
            "the rest of them is held to the grammar only",
            flush=True,
        )
    speed = f", {figures['questions_per_second']:.2f} questions/s" if figures["questions_per_second"] else ""
    cut = len(questions) - figures["finished"]
    return f"{len(tested):,} predictions in {PREDICTIONS} ({resumed:,} from before){speed}; {cut:,} cut"


def figures_of(predictions: Sequence[Row], resumed: int, seconds: float) -> dict[str, Any]:
    """The counts and times of metrics/predict.json."""
    new = len(predictions) - resumed
    return {
        "questions": len(predictions),
        "finished": sum(row["finished"] for row in predictions),
        "unchecked": sum(not row["checked"] for row in predictions),
        "tokens": sum(row["tokens"] for row in predictions),
        "resumed": resumed,
        "seconds": round(seconds, 2),
        "questions_per_second": round(new / seconds, 3) if new else None,
    }


def output_row(question: Row, prediction: Row) -> Row:
    """A line of data/predictions/test.jsonl or val.jsonl."""
    row = {key: question[key] for key in ("id", "db_id", "question")}
    kept = ("predicted", "finished", "tokens", "log_probability", "candidates")
    return {**row, "gold": question["sql"], **{key: prediction[key] for key in kept if key in prediction}}


if __name__ == "__main__":
    run(main)
