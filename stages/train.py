"""QLoRA training of the base model on the prompts; a training that was interrupted goes on where it was.

Reads data/prompts/, models/base, the preflight's verdict and, where `train.init` names one, the adapter to go on from.
With `train.choose_every` it also answers validation questions now and then (data/splits/, data/postgres/), and the
adapter that answers best is the result, instead of the last. Writes models/adapter/ (the same bytes for the same
configuration, data and machine type), metrics/plots/loss.csv (the curves), metrics/train.json (with seconds and bytes,
so different each time) and metrics/brief/train.json (what `dvc exp show` shows of it).
"""

from __future__ import annotations

import csv
import functools
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import read_params
from text2sql.errors import UserError
from text2sql.files import digest, read_json, repository_root, write_json, write_text
from text2sql.model import checkpoint, checkpoint_copies
from text2sql.model.adapter import WEIGHTS
from text2sql.model.initial import checksums, initial_adapter
from text2sql.model.launch import is_first, launch
from text2sql.model.process import prepare
from text2sql.model.prompt import encode_prompt, evenly_taken, read_questions
from text2sql.model.recipe import Recipe, read_recipe
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.schema import read_index
from text2sql.scoring.judge import judge
from text2sql.stage import run
from text2sql.track import training_run
from text2sql.workspace import ADAPTER, BASE, BRIEF, DUMPS, INDEX, LOSS_CSV, METRICS, PROMPTS, SPLITS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from text2sql.model.training import PackedTrainer

REPORT = METRICS / "train.json"
PREFLIGHT = METRICS / "preflight.json"
#: the trainer's names of the curves, and the columns of loss.csv; the last one is there if it was measured
COLUMNS = {"loss": "train_loss", "eval_loss": "val_loss", "eval_execution_accuracy": "val_execution_accuracy"}
#: queries executed at a time, to choose the best checkpoint
WORKERS = 2
#: the code and the libraries that decide an adapter's bytes
CODE = Path(__file__).resolve().parents[1] / "text2sql" / "model"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class TrainStageOptions:
    """All that decides the adapter. `kept`: values of each column that the schema index has at most; they constrain the
    answers by which the best checkpoint is chosen."""

    recipe: Recipe
    kept: int


def read_options(params: dict[str, Any]) -> TrainStageOptions:
    return TrainStageOptions(read_recipe(params), params["data"]["databases"]["samples"])


def training_fingerprint(options: TrainStageOptions, dtype: str, initial: dict[str, str]) -> str:
    """A hash of all that decides the adapter; `initial`: the checksums of the one that it goes on from."""
    from text2sql.model.device import pick_device

    parts = {
        "options": asdict(options),
        "asked": [digest(path) for path in (SPLITS, INDEX, DUMPS)] if options.recipe.train.choose_every else None,
        "data": digest(PROMPTS),
        "base": digest(BASE),
        "initial": initial,
        "code": digest(CODE),
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": pick_device().partition(":")[0],
        "dtype": dtype,
    }
    return checkpoint.fingerprint(parts)


def curves(history: list[dict[str, float]]) -> str:
    """The curves as CSV: step, train_loss, val_loss, and val_execution_accuracy if it was measured; empty where not."""
    points: dict[int, dict[str, float]] = {}
    for entry in history:
        point = {COLUMNS[name]: round(value, 4) for name, value in entry.items() if name in COLUMNS}
        points.setdefault(int(entry["step"]), {}).update(point)
    *losses, accuracy = COLUMNS.values()
    measured = any(accuracy in point for point in points.values())
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", *losses, *([accuracy] if measured else [])], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"step": step, **points[step]} for step in sorted(points) if points[step])
    return text.getvalue()


def figures(trainer: PackedTrainer, val_loss: float | None, dtype: str) -> dict[str, Any]:
    """metrics/train.json."""
    from text2sql.model.device import describe_device, peak_memory_bytes

    seconds, examples, tokens = trainer.seconds(), trainer.planned.examples, trainer.planned.tokens
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainable, total = trainer.model.get_nb_trainable_parameters()
    hours = seconds / 3600 * trainer.args.world_size
    chooser = trainer.chooser
    training = seconds - (chooser.seconds if chooser else 0.0)
    chosen: dict[str, float] = {}
    if chooser:
        chosen = {"val_execution_accuracy": chooser.accuracy, "chosen_step": chooser.step}
        chosen["choose_seconds"] = chooser.seconds
    return {
        "train_loss": sum(losses[-10:]) / len(losses[-10:]),
        "val_loss": val_loss,
        "steps": trainer.state.global_step,
        "examples": examples,
        "tokens": tokens,
        "examples_per_second": examples / training,
        "tokens_per_second": tokens / training,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": seconds,
        "device": describe_device(),
        "dtype": dtype,
        "processes": trainer.args.world_size,
        "device_hours": hours,
        "cost": hours * trainer.recipe.train.price_per_hour,
        **chosen,
    }


def validation_questions(count: int, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """At most `count` validation questions, evenly over the split, with the tokens of their prompts."""
    rows = evenly_taken(read_questions("val"), count)
    return [{**row, "tokens": encode_prompt(tokenizer, row["prompt"])} for row in rows]


def validation_accuracy(options: TrainStageOptions, tokenizer: PreTrainedTokenizerBase, model: Any) -> float:
    """The share of validation questions that `model` answers right: greedy, held to the schema, in the sandbox.

    Raises:
        UserError: no gold query gives a result.
    """
    from text2sql.model.generation import GenerationOptions
    from text2sql.model.prediction import Predictor, constrain_to

    questions = validation_questions(options.recipe.train.choose_questions, tokenizer)
    predictor = Predictor(model, tokenizer, GenerationOptions())
    constrain = constrain_to(read_index(INDEX), tokenizer, options.kept)
    fitting = [question for question in questions if len(question["tokens"]) <= predictor.longest]
    answers = {row["id"]: row["predicted"] for row in predictor.answers(fitting, constrain)}
    rows = [{**question, "predicted": answers.get(question["id"], "")} for question in questions]
    databases = sorted({row["db_id"] for row in rows})
    with loaded_sandbox(databases, DUMPS, Limits(), WORKERS) as sandbox, ThreadPoolExecutor(WORKERS) as pool:
        judged = list(pool.map(lambda row: judge(sandbox, row["db_id"], row["sql"], row["predicted"]), rows))
    right = [judgement.suite.correct for judgement in judged if not judgement.excluded]
    if not right:
        raise UserError("no gold query of the validation questions gives a result", "train.choose_every=0")
    return sum(right) / len(right)


def packs_are_plain() -> bool:
    """Whether the preflight found a GPU's kernels for packs wrong; without a preflight it is not known, and False.

    Raises:
        UserError: the preflight's verdict is of another device.
    """
    from text2sql.model.device import device_name

    verdict = read_json(PREFLIGHT) if PREFLIGHT.exists() else {}
    if (tried := verdict.get("device", device_name())) != device_name():
        what = f"{PREFLIGHT} is of another device, {tried}; this one is {device_name()}"
        raise UserError(what, "`dvc repro --single-item --force preflight` tries this one")
    return verdict.get("packs") == "plain"


def main() -> str:
    prepare()
    options = read_options(read_params())
    launch("stages.train", options.recipe.train.processes)
    with initial_adapter(options.recipe.train.init, BASE) as initial:
        return train_and_save(options, initial)


def train_and_save(options: TrainStageOptions, initial: Path | None) -> str:
    """Train, and write adapter, curves and figures; returns what the stage says at its end."""
    from text2sql.model.base import load_tokenizer
    from text2sql.model.device import peak_memory_bytes, pick_device, pick_dtype
    from text2sql.model.training import read_examples, train

    recipe, tokenizer, plain = options.recipe, load_tokenizer(BASE), packs_are_plain()
    dtype = str(pick_dtype(recipe.quantization, pick_device())).removeprefix("torch.")
    begun = checksums(initial)
    if recipe.train.init and is_first():
        said = f"goes on from the weights {begun[WEIGHTS][:12]}" if begun else "none is there, a fresh one is trained"
        print(f"notice: train.init={recipe.train.init}: {said}", flush=True)
    fingerprint = training_fingerprint(options, dtype, begun)
    checkpoints = checkpoint.folder(repository_root(), fingerprint)
    with training_run(fingerprint) as record:
        examples = read_examples(PROMPTS / "train.jsonl", tokenizer)
        validation = read_examples(PROMPTS / "val.jsonl", tokenizer)
        callbacks = [record.callback(round(recipe.train.epochs * len(examples)), peak_memory_bytes)]
        measure = functools.partial(validation_accuracy, options, tokenizer)
        trainer = train(recipe, BASE, examples, validation, checkpoints, callbacks, initial, plain, measure)
        val_loss = trainer.evaluate()["eval_loss"] if trainer.validation and not trainer.chooser else None
        weights = trainer.adapter_weights()
        if not is_first():
            return f"process {os.environ['RANK']} is done"
        metrics = save(trainer, weights, val_loss, dtype) | {"fingerprint": fingerprint}
        write_json(REPORT, metrics | ({"initial_adapter": begun} if begun else {}))
    shutil.rmtree(checkpoints, ignore_errors=True)
    if recipe.train.checkpoint_copy:
        checkpoint_copies.forget_copies(checkpoints, recipe.train.checkpoint_copy)
    return (
        f"{metrics['examples']:,} examples in {metrics['steps']} steps, "
        f"{metrics['examples_per_second']:.2f} examples/s, "
        f"loss {metrics['train_loss']:.3f}"
        + (f", validation {metrics['val_loss']:.3f}" if metrics["val_loss"] is not None else "")
        + (f", {trainer.chooser.accuracy:.1%} answered right at step {trainer.chooser.step}" if trainer.chooser else "")
    )


def save(
    trainer: PackedTrainer, weights: dict[str, torch.Tensor], val_loss: float | None, dtype: str
) -> dict[str, Any]:
    """Write adapter (the best, where that was measured, or the last), curves and brief figures; returns all figures."""
    from text2sql.model.lora import save_adapter

    if chooser := trainer.chooser:
        shutil.rmtree(ADAPTER, ignore_errors=True)
        shutil.copytree(chooser.adapter, ADAPTER)
        val_loss = chooser.val_loss
    else:
        save_adapter(trainer.model, ADAPTER, weights)
    write_text(LOSS_CSV, curves(trainer.state.log_history))
    metrics = figures(trainer, val_loss, dtype)
    write_json(
        BRIEF / "train.json",
        {"val_loss": val_loss and round(val_loss, 4), "minutes": round(metrics["seconds"] / 60, 2)},
    )
    return metrics


if __name__ == "__main__":
    run(main)
