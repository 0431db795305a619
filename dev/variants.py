"""Other ways to train on the same examples, beside the recipe: validation loss, and accuracy on the test split.

    python -m dev.variants                    # where the pipeline has run: params.yaml is the recipe
    python -m dev.variants recipe full-1e-4   # these only

This says what each would be worth before it is an option of the pipeline. All train on the examples of data/prompts/
from the same seed, and are predicted and scored by the same stages in a
scratch folder. A sub-sample will do to compare:
`dvc exp run -S experiment=spider-135m -S data.split.train_limit=1200 -S data.split.test_limit=256 -S train.epochs=1`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.scratch import run, workspace
from text2sql.config import read_params
from text2sql.files import read_jsonl
from text2sql.model.base import load_tokenizer
from text2sql.model.device import pick_device
from text2sql.model.lora import save_adapter
from text2sql.model.packing import Plan, TrainingExample, plan
from text2sql.model.process import prepare
from text2sql.model.recipe import Recipe, read_recipe
from text2sql.model.training import PackedTrainer, build_trainer, memory_budget, read_examples
from text2sql.workspace import BASE, PROMPTS, SPLITS

LEVELS = ("easy", "medium", "hard", "extra")
Row = dict[str, Any]


class Setting:
    """What all variants share: recipe and examples."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.recipe = read_recipe(params)
        tokenizer = load_tokenizer(BASE)
        paths = (PROMPTS / f"{name}.jsonl" for name in ("train", "val"))
        self.train, self.validation = (read_examples(path, tokenizer) for path in paths)

    def hardness(self) -> list[str]:
        """Of each training example."""
        levels = {row["id"]: row["hardness"] for row in read_jsonl(SPLITS / "train.jsonl")}
        return [levels[row["id"]] for row in read_jsonl(PROMPTS / "train.jsonl")]

    def plan(self, examples: Sequence[TrainingExample], recipe: Recipe | None = None) -> Plan:
        recipe = recipe or self.recipe
        t = recipe.train
        tokens = memory_budget(recipe, BASE, pick_device()).tokens
        return plan(examples, t.pack_size, tokens, t.batch_size, t.epochs, recipe.seed)

    def trainer(self, planned: Plan, recipe: Recipe | None = None) -> PackedTrainer:
        recipe = recipe or self.recipe
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, save_every=10**9))
        t = recipe.train
        groups = plan(
            self.validation, t.pack_size, memory_budget(recipe, BASE, pick_device()).tokens, 1, 1.0, recipe.seed
        ).groups
        return build_trainer(recipe, BASE, planned, groups, Path(tempfile.mkdtemp()))


def changed(setting: Setting, lora: Row | None = None, train: Row | None = None) -> PackedTrainer:
    """Other values of options."""
    recipe = dataclasses.replace(
        setting.recipe,
        lora=dataclasses.replace(setting.recipe.lora, **lora or {}),
        train=dataclasses.replace(setting.recipe.train, **train or {}),
    )
    return setting.trainer(setting.plan(setting.train, recipe), recipe)


def full(setting: Setting, rate: float) -> PackedTrainer:
    """All weights, in float32 with the compute dtype of the recipe, instead of an adapter."""
    recipe = dataclasses.replace(
        setting.recipe, quantization=dataclasses.replace(setting.recipe.quantization, bits=None)
    )
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, learning_rate=rate))
    trainer = setting.trainer(setting.plan(setting.train), recipe)
    trainer.model = trainer.model_wrapped = trainer.model.unload().float().requires_grad_(True)
    return trainer


def simple_first(setting: Setting) -> PackedTrainer:
    """Easy examples, then medium, hard and extra hard ones, each shuffled in itself."""
    levels = setting.hardness()
    parts = [[e for e, h in zip(setting.train, levels, strict=True) if h == level] for level in LEVELS]
    groups = [group for part in parts for group in setting.plan(part).groups]
    return setting.trainer(Plan(groups, setting.plan(setting.train).per_step))


VARIANTS: dict[str, Callable[[Setting], PackedTrainer]] = {
    "recipe": changed,
    "full-1e-4": partial(full, rate=1e-4),
    "full-3e-4": partial(full, rate=3e-4),
    "simple-first": simple_first,
    "r16": partial(changed, lora={"r": 16, "lora_alpha": 16.0}),
    "2-epochs": partial(changed, train={"epochs": 2.0}),
    "2-epochs-dropout": partial(changed, train={"epochs": 2.0}, lora={"lora_dropout": 0.1}),
    "3-epochs": partial(changed, train={"epochs": 3.0}),
}


def scored(trainer: PackedTrainer, keep: Path | None = None) -> Row:
    """metrics/score.json of what was trained, on the test split; models and predictions are copied to `keep`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = workspace(Path(scratch), ("data/postgres", "data/splits", "data/prompts"))
        base, params = folder / "models/base", folder / "params.yaml"
        if hasattr(trainer.model, "peft_config"):
            shutil.copytree(BASE, base)
            save_adapter(trainer.model, folder / "models/adapter", trainer.adapter_weights())
        else:
            shutil.copytree(BASE, base, ignore=shutil.ignore_patterns("*.safetensors*"))
            trainer.model.save_pretrained(base)
            params.write_text(params.read_text().replace("zero_shot: false", "zero_shot: true"))
        try:
            run(folder, "predict", "score")
        finally:
            for name in ("models", "data/predictions") if keep else ():
                if (folder / name).exists():
                    shutil.copytree(folder / name, keep / name, dirs_exist_ok=True)
        return dict(json.loads((folder / "metrics/score.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--keep", type=Path, help="a folder for the models and predictions of each variant")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.variants if name not in VARIANTS]:
        parser.error(f"no such variant: {', '.join(unknown)}")
    setting = Setting(read_params())
    for name in arguments.variants:
        trainer = VARIANTS[name](setting)
        started = time.perf_counter()
        trainer.train()
        seconds, loss = time.perf_counter() - started, trainer.evaluate()["eval_loss"]
        planned = f"{trainer.planned.examples:,} examples in {trainer.planned.steps} steps, {seconds:.0f} s"
        score = scored(trainer, arguments.keep and arguments.keep / name)
        low, high = score["ci95"]
        print(
            f"{name:18} {planned}: validation loss {loss:.4f}, {score['execution_accuracy']:.1%} "
            f"({low:.1%} to {high:.1%}), valid SQL {score['valid_sql']:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    prepare()
    main()
