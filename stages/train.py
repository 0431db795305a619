"""QLoRA training of the base model on the prompts; a training that was interrupted goes on where it was.

Reads data/prompts/, models/base, the preflight's verdict and, where `train.init` names one, the adapter to go on from.
Writes models/adapter/ (the same bytes for the same configuration, data and machine type), metrics/plots/loss.csv (the
loss curves), metrics/train.json (with seconds and bytes, so different each time) and metrics/brief/train.json (what
`dvc exp show` shows of it).
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import read_params
from text2sql.files import digest, read_json, repository_root, write_json, write_text
from text2sql.model import checkpoint
from text2sql.model.adapter import WEIGHTS
from text2sql.model.initial import checksums, initial_adapter
from text2sql.model.launch import is_first, launch
from text2sql.model.process import prepare
from text2sql.model.recipe import Recipe, read_recipe
from text2sql.stage import run
from text2sql.track import training_run

if TYPE_CHECKING:
    from text2sql.model.training import PackedTrainer

PROMPTS = Path("data/prompts")
BASE = Path("models/base")
ADAPTER = Path("models/adapter")
METRICS = Path("metrics/train.json")
PREFLIGHT = Path("metrics/preflight.json")
BRIEF = Path("metrics/brief/train.json")
CURVES = Path("metrics/plots/loss.csv")
#: the modules of text2sql.model that decide an adapter's bytes (dvc.yaml names the same), and the libraries that do
MODULES = (
    "adapter", "base", "checkpoint", "device", "flash", "fused", "initial", "launch", "lora", "loss", "memory",
    "packing", "process", "prompt", "qualifiers", "recipe", "training", "value_linking",
)  # fmt: skip
CODE = Path(__file__).resolve().parents[1] / "text2sql" / "model"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


def read_options(params: dict[str, Any]) -> Recipe:
    """All sections that decide the adapter."""
    return read_recipe(params)


def training_fingerprint(recipe: Recipe, dtype: str, initial: dict[str, str]) -> str:
    """A hash of all that decides the adapter; `initial`: the checksums of the one that it goes on from."""
    from text2sql.model.device import pick_device

    parts = {
        "recipe": asdict(recipe),
        "data": digest(PROMPTS),
        "base": digest(BASE),
        "initial": initial,
        "code": {name: digest(CODE / f"{name}.py") for name in MODULES},
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": pick_device().partition(":")[0],
        "dtype": dtype,
    }
    return checkpoint.fingerprint(parts)


def curves(history: list[dict[str, float]]) -> str:
    """The loss curves as CSV: step, train_loss, val_loss (empty where there was no validation)."""
    points: dict[int, dict[str, float]] = {}
    for entry in history:
        point = points.setdefault(int(entry["step"]), {})
        point |= {"train_loss": entry["loss"]} if "loss" in entry else {}
        point |= {"val_loss": entry["eval_loss"]} if "eval_loss" in entry else {}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", "train_loss", "val_loss"], lineterminator="\n")
    writer.writeheader()
    for step in sorted(points):
        if points[step]:
            writer.writerow({"step": step, **{name: round(value, 4) for name, value in points[step].items()}})
    return text.getvalue()


def figures(trainer: PackedTrainer, val_loss: float | None, dtype: str) -> dict[str, Any]:
    """metrics/train.json."""
    from text2sql.model.device import describe_device, peak_memory_bytes

    seconds, examples, tokens = trainer.seconds(), trainer.planned.examples, trainer.planned.tokens
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainable, total = trainer.model.get_nb_trainable_parameters()
    hours = seconds / 3600 * trainer.args.world_size
    return {
        "train_loss": sum(losses[-10:]) / len(losses[-10:]),
        "val_loss": val_loss,
        "steps": trainer.state.global_step,
        "examples": examples,
        "tokens": tokens,
        "examples_per_second": examples / seconds,
        "tokens_per_second": tokens / seconds,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": seconds,
        "device": describe_device(),
        "dtype": dtype,
        "processes": trainer.args.world_size,
        "device_hours": hours,
        "cost": hours * trainer.recipe.train.price_per_hour,
    }


def main() -> str:
    prepare()
    recipe = read_options(read_params())
    launch("stages.train", recipe.train.processes)
    with initial_adapter(recipe.train.init, BASE) as initial:
        return train_and_save(recipe, initial)


def train_and_save(recipe: Recipe, initial: Path | None) -> str:
    """Train, and write adapter, curves and figures; returns what the stage says at its end."""
    from text2sql.model.base import load_tokenizer
    from text2sql.model.device import peak_memory_bytes, pick_device, pick_dtype
    from text2sql.model.lora import save_adapter
    from text2sql.model.training import read_examples, train

    tokenizer = load_tokenizer(BASE)
    dtype = str(pick_dtype(recipe.quantization, pick_device())).removeprefix("torch.")
    begun = checksums(initial)
    if recipe.train.init and is_first():
        said = f"goes on from the weights {begun[WEIGHTS][:12]}" if begun else "none is there, a fresh one is trained"
        print(f"notice: train.init={recipe.train.init}: {said}", flush=True)
    print_ = training_fingerprint(recipe, dtype, begun)
    checkpoints = checkpoint.folder(repository_root(), print_)
    with training_run(print_) as record:
        examples = read_examples(PROMPTS / "train.jsonl", tokenizer)
        validation = read_examples(PROMPTS / "val.jsonl", tokenizer)
        primer = []
        if (path := PROMPTS / "primer.jsonl").exists():
            primer = read_examples(path, tokenizer)
        plain = PREFLIGHT.exists() and read_json(PREFLIGHT).get("packs") == "plain"
        callbacks = [record.callback(round(recipe.train.epochs * len([*primer, *examples])), peak_memory_bytes)]
        trainer = train(recipe, BASE, examples, validation, checkpoints, callbacks, primer, initial, plain)
        val_loss = trainer.evaluate()["eval_loss"] if trainer.validation else None
        weights = trainer.adapter_weights()
        if not is_first():
            return f"process {os.environ['RANK']} is done"
        save_adapter(trainer.model, ADAPTER, weights)
        write_text(CURVES, curves(trainer.state.log_history))
        metrics = {**figures(trainer, val_loss, dtype), "fingerprint": print_} | (
            {"initial_adapter": begun} if begun else {}
        )
        write_json(METRICS, metrics)
        write_json(BRIEF, {"val_loss": val_loss and round(val_loss, 4), "minutes": round(metrics["seconds"] / 60, 2)})
    checkpoint.prune(checkpoints, keep=0)
    if recipe.train.checkpoint_copy:
        checkpoint.forget_copies(checkpoints, recipe.train.checkpoint_copy)
    return (
        f"{metrics['examples']:,} examples in {metrics['steps']} steps, "
        f"{metrics['examples_per_second']:.2f} examples/s, "
        f"loss {metrics['train_loss']:.3f}" + (f", validation {val_loss:.3f}" if val_loss is not None else "")
    )


if __name__ == "__main__":
    run(main)
