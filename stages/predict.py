"""Stage predict: the model's SQL for the test questions.

Apart from scoring, so that scoring again needs no model. `predict=greedy` takes the likeliest token at each step;
`predict=execution_guided` samples several queries and takes the likeliest one that runs in the sandbox. With
`constrained` the model can write nothing but queries on the schema's own names.

Reads data/prompts/test.jsonl, data/splits/test.jsonl, models/base, models/adapter (to execute candidates also
data/postgres/databases, to constrain data/postgres/schema_index.json). Writes data/predictions/test.jsonl, a line for
each question of the split, in its order: `id`, `db_id`, `question`, `gold`, `predicted`, `finished` (false: cut by
max_new_tokens, or the prompt is too long for the model, and then `predicted` is empty), and metrics/predict.json.

    python -m stages.predict --zero-shot    the base model without the adapter, to data/predictions/zero_shot.jsonl

An interrupted prediction goes on where it was: see `Partial`.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from text2sql.config import read_params, read_seed, require, section
from text2sql.errors import UserError
from text2sql.files import read_jsonl, repository_root, sha256, sha256_tree, write_json, write_jsonl
from text2sql.model.base import QuantizationOptions
from text2sql.model.process import prepare
from text2sql.model.prompt import PromptOptions, Qualifiers
from text2sql.progress import progress
from text2sql.stage import run
from text2sql.track import adapter_sha256

if TYPE_CHECKING:
    from text2sql.model.constraint import Constraint
    from text2sql.model.generation import Generation, GenerationOptions
    from text2sql.model.inference import Engine
    from text2sql.postgres.sandbox import Sandbox

PROMPTS = Path("data/prompts/test.jsonl")
SPLIT = Path("data/splits/test.jsonl")
INDEX = Path("data/postgres/schema_index.json")
DUMPS = Path("data/postgres/databases")
BASE = Path("models/base")
ADAPTER = Path("models/adapter")
TARGET = Path("data/predictions/test.jsonl")
ZERO_SHOT = Path("data/predictions/zero_shot.jsonl")
METRICS = Path("metrics/predict.json")
#: code that decides what is predicted
CODE = (
    "base",
    "prompt",
    "inference",
    "generation",
    "shared_prefix",
    "packed",
    "candidates",
    "constraint",
    "references",
)
#: batches after which a prediction that depends on its neighbours (`Engine.exact` false) is saved
BATCHES_SAVED = 4
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GuidedOptions:
    """conf/predict/execution_guided.yaml."""

    candidates: int
    temperature: float
    timeout_seconds: float
    max_rows: int
    workers: int

    def __post_init__(self) -> None:
        require(self.candidates > 1, f"candidates must be at least 2, not {self.candidates}")
        for name in ("temperature", "timeout_seconds", "max_rows", "workers"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """conf/predict."""

    method: Literal["greedy", "execution_guided"]
    engine: Literal["shared_prefix", "plain", "vllm"]
    zero_shot: bool
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    batch_size: int
    max_new_tokens: int
    cache_tokens: int
    constrained: bool
    guided: GuidedOptions | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "cache_tokens"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        guided = self.method == "execution_guided"
        require(guided == (self.guided is not None), f"method is {self.method}: choose with predict={self.method}")
        require(not guided or self.engine != "plain", "engine plain does not sample: execution_guided wants another")
        require(not self.constrained or self.engine == "shared_prefix", f"engine {self.engine} does not constrain")

    def generation(self) -> GenerationOptions:
        from text2sql.model.generation import GenerationOptions

        temperature = self.guided.temperature if self.guided else 1.0
        return GenerationOptions(self.batch_size, self.max_new_tokens, self.cache_tokens, temperature)


def read_options(params: dict[str, Any]) -> tuple[PredictOptions, QuantizationOptions, Qualifiers, int]:
    """predict, quantization, the form of the answers and the seed."""
    options = section(PredictOptions, "predict", params)
    qualifiers = section(PromptOptions, "prompt", params).qualifiers
    return options, section(QuantizationOptions, "quantization", params), qualifiers, read_seed(params)


def read_questions() -> list[Row]:
    """The questions of the test split with their prompts, in the split's order.

    Raises:
        UserError: split and prompts are not of the same questions.
    """
    prompts = {row["id"]: row["prompt"] for row in read_jsonl(PROMPTS)}
    rows = list(read_jsonl(SPLIT))
    if set(prompts) != {row["id"] for row in rows}:
        raise UserError(f"{PROMPTS} and {SPLIT} are not of the same questions", "run `dvc repro prompts`")
    return [{**row, "prompt": prompts[row["id"]]} for row in rows]


class Partial:
    """The predictions made so far, a line each, appended as they are made.

    The file lies in checkpoints/ of the repository's main folder, outside of DVC's outputs, and is named by a
    fingerprint of all that decides a prediction, so that no other configuration goes on from it. It is deleted once
    the whole is written. A line that a kill left unfinished is dropped.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / f"predict-{fingerprint[:16]}.jsonl"
        self.done: dict[str, Row] = {}
        self.file: IO[str]

    def __enter__(self) -> Partial:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another process makes the same predictions", "wait for it, or end it") from None
        self.file.seek(0)
        whole = ""
        for line in self.file.read().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if not line.endswith("\n"):
                break
            whole += line
            self.done[row["id"]] = row
        self.file.truncate(len(whole.encode()))
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, rows: Sequence[Row]) -> None:
        self.file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.file.flush()
        self.done.update((row["id"], row) for row in rows)


def fingerprint(
    engine: Engine, options: PredictOptions, quantization: QuantizationOptions, qualifiers: Qualifiers, seed: int
) -> str:
    """One hash of all that decides the predictions."""
    import torch

    models = Path(__file__).parent.parent / "text2sql/model"
    parts = {
        "options": dataclasses.asdict(options),
        "quantization": dataclasses.asdict(quantization),
        "qualifiers": qualifiers,
        "seed": seed,
        "prompts": sha256(PROMPTS),
        "split": sha256(SPLIT),
        "base": sha256_tree(BASE),
        "adapter": None if options.zero_shot else sha256_tree(ADAPTER),
        "databases": sha256_tree(DUMPS) if options.guided else None,
        "schemas": sha256(INDEX) if options.constrained else None,
        "code": [sha256(models / f"{name}.py") for name in CODE],
        "torch": torch.__version__,
        "engine": [engine.device, engine.dtype],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


Choose = Callable[[Row, Sequence["Generation"]], "Generation"]


Constrain = Callable[[Row], "Constraint | None"]


def constrainer(engine: Engine, constrained: bool, qualifiers: Qualifiers) -> Constrain:
    """What may follow a question's prompt: anything, or queries on its database's schema."""
    if not constrained:
        return lambda _: None
    from text2sql.model.constraint import Constraints
    from text2sql.schema import read_index

    constraints, schemas = Constraints(engine.tokenizer), read_index(INDEX)
    return lambda row: constraints.of(schemas[row["db_id"]], qualifiers)


def generate(
    engine: Engine, questions: Sequence[Row], options: GenerationOptions, constrain: Constrain
) -> Iterator[Row]:
    """Greedy predictions, as they are made."""
    prompts = [row["tokens"] for row in questions]
    for index, made in engine.stream(prompts, options, None, [constrain(row) for row in questions]):
        yield prediction(questions[index], made)


def generate_guided(
    engine: Engine,
    questions: Sequence[Row],
    options: GenerationOptions,
    constrain: Constrain,
    guided: GuidedOptions,
    seed: int,
    choose: Choose,
) -> Iterator[Row]:
    """Predictions by several candidates each, which other threads execute while the next ones are generated."""
    candidates = guided.candidates
    prompts = [row["tokens"] for row in questions for _ in range(candidates)]
    seeds = [f"{seed}/{row['id']}/{k}" if k else None for row in questions for k in range(candidates)]
    made: dict[int, dict[int, Generation]] = {}
    with ThreadPoolExecutor(guided.workers) as pool:
        running: dict[Future[Generation], Row] = {}
        constraints = [constrain(row) for row in questions for _ in range(candidates)]
        for index, generation in engine.stream(prompts, options, seeds, constraints):
            question, k = divmod(index, candidates)
            made.setdefault(question, {})[k] = generation
            if len(made[question]) == candidates:
                whole = made.pop(question)
                chosen = pool.submit(choose, questions[question], [whole[k] for k in range(candidates)])
                running[chosen] = questions[question]
            for chosen in [future for future in running if future.done()]:
                yield prediction(running.pop(chosen), chosen.result())
        for chosen in as_completed(running):
            yield prediction(running[chosen], chosen.result())


def chooser(sandbox: Sandbox) -> Choose:
    """Of a question's candidates the likeliest that runs."""
    from text2sql.model.candidates import choose

    def chosen(row: Row, candidates: Sequence[Generation]) -> Generation:
        index = choose(
            candidates,
            execute=lambda sql: sandbox.execute(row["db_id"], sql),
            failed=lambda result: result.error is not None,
        )
        return candidates[index]

    return chosen


def prediction(row: Row, made: Generation) -> Row:
    """What is kept of a generation."""
    return {
        "id": row["id"],
        "predicted": made.text.strip(),
        "finished": made.finished,
        "tokens": len(made.token_ids) + made.finished,
    }


def predict(
    engine: Engine, questions: list[Row], options: PredictOptions, qualifiers: Qualifiers, seed: int, partial: Partial
) -> None:
    """Fill `partial` with a prediction for every question."""
    from text2sql.model.prompt import encode_prompt

    generation = options.generation()
    questions = [{**row, "tokens": encode_prompt(engine.tokenizer, row["prompt"])} for row in questions]
    fitting = [row for row in questions if len(row["tokens"]) + generation.max_new_tokens <= engine.positions]
    too_long = [row for row in questions if len(row["tokens"]) + generation.max_new_tokens > engine.positions]
    nothing = {"predicted": "", "finished": False, "tokens": 0}
    partial.add([{"id": row["id"], **nothing} for row in too_long if row["id"] not in partial.done])
    with ExitStack() as stack:
        constrain = constrainer(engine, options.constrained, qualifiers)
        make: Callable[[Sequence[Row]], Iterator[Row]] = functools.partial(
            generate, engine, options=generation, constrain=constrain
        )
        if options.guided:
            sandbox = stack.enter_context(open_sandbox(questions, options.guided))
            make = functools.partial(
                generate_guided,
                engine,
                options=generation,
                constrain=constrain,
                guided=options.guided,
                seed=seed,
                choose=chooser(sandbox),
            )
        advance = stack.enter_context(progress("predicting", len(questions)))
        for part in parts(fitting, engine.exact, options):
            waiting = [row for row in part if row["id"] not in partial.done]
            advance(len(part) - len(waiting))
            if engine.exact:
                for row in make(waiting):
                    partial.add([row])
                    advance(1)
            elif waiting:
                # All of the part again: what is generated together decides the last bits.
                partial.add(list(make(part)))
                advance(len(waiting))


def parts(questions: Sequence[Row], exact: bool, options: PredictOptions) -> list[Sequence[Row]]:
    """The questions, those of a database together, in parts after which the predictions are saved."""
    databases = {row["db_id"]: i for i, row in reversed(list(enumerate(questions)))}
    ordered = sorted(questions, key=lambda row: databases[row["db_id"]])
    rows = options.guided.candidates if options.guided else 1
    size = max(1, len(ordered) if exact else BATCHES_SAVED * options.batch_size // rows)
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


def open_sandbox(questions: Sequence[Row], options: GuidedOptions) -> Any:
    """A sandbox with the questions' databases, as a context."""
    from text2sql.postgres.load import loaded_sandbox
    from text2sql.postgres.sandbox import Limits

    limits = Limits(timeout_seconds=options.timeout_seconds, max_rows=options.max_rows)
    return loaded_sandbox(sorted({row["db_id"] for row in questions}), DUMPS, limits, options.workers)


def main(zero_shot: bool = False) -> str:
    options, quantization, qualifiers, seed = read_options(read_params())
    options = dataclasses.replace(options, zero_shot=options.zero_shot or zero_shot)
    questions = read_questions()

    prepare()
    from text2sql.model.inference import load_engine

    adapter = None if options.zero_shot else ADAPTER
    engine = load_engine(options.engine, BASE, quantization, adapter, options.dtype)
    with Partial(
        repository_root() / "checkpoints", fingerprint(engine, options, quantization, qualifiers, seed)
    ) as partial:
        resumed, started = len(partial.done), time.perf_counter()
        predict(engine, questions, options, qualifiers, seed, partial)
        seconds = time.perf_counter() - started
        made = [partial.done[row["id"]] for row in questions]
        target = ZERO_SHOT if zero_shot else TARGET
        write_jsonl(target, (prediction_row(row, done) for row, done in zip(questions, made, strict=True)))
        partial.path.unlink()
    new = len(questions) - resumed
    figures = {
        "questions": len(questions),
        "finished": sum(row["finished"] for row in made),
        "tokens": sum(row["tokens"] for row in made),
        "resumed": resumed,
        "seconds": round(seconds, 2),
        "questions_per_second": round(new / seconds, 3) if new else None,
        "method": options.method,
        "zero_shot": options.zero_shot,
        "engine": options.engine,
        "device": engine.device,
        "dtype": engine.dtype,
        # By it text2sql/track.py finds the MLflow run that these predictions belong to.
        "adapter_sha256": adapter and adapter_sha256(adapter),
    }
    if not zero_shot:
        write_json(METRICS, figures)
    cut = len(questions) - figures["finished"]
    speed = f", {figures['questions_per_second']:.2f} questions/s" if new else ""
    return f"{len(questions):,} predictions in {target} ({resumed:,} from before){speed}; {cut:,} cut"


def prediction_row(question: Row, made: Row) -> Row:
    """A line of data/predictions/test.jsonl."""
    row = {key: question[key] for key in ("id", "db_id", "question")}
    return {**row, "gold": question["sql"], "predicted": made["predicted"], "finished": made["finished"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description="The model's SQL for the test split.")
    parser.add_argument("--zero-shot", action="store_true", help=f"the base model without the adapter, to {ZERO_SHOT}")
    run(functools.partial(main, parser.parse_args().zero_shot), arguments=True)
