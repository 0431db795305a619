"""Seconds of a training step, as PEFT and transformers compute it and as it is (text2sql/model/fused.py).

    python benchmarks/fused.py             # where the pipeline has run: params.yaml is the recipe
    python benchmarks/fused.py --steps 30 --rounds 3

Each variant trains the same first steps of data/prompts/train.jsonl in a process of its own, in turns; the first third
of the steps, in which operations are prepared and memory is taken for the first time, is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from text2sql.model.process import prepare
from text2sql.workspace import BASE, PROMPTS

#: whether layers, norms and loss are one operation each, and whether malloc keeps memory
VARIANTS = {"stock": (False, False), "fused": (True, False), "fused, malloc keeps memory": (True, True)}
#: mallopt's options (M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD) as they are without text2sql/model/__init__.py
USUAL = ((-4, 65536), (-1, 128 * 1024), (-2, 0))


def measure(fused: bool, keeps: bool, steps: int) -> dict[str, float]:
    """Train `steps` steps; the mean seconds of the later ones, the last one's loss, and the most memory taken."""
    import torch
    from torch.nn import functional
    from transformers import TrainerCallback

    from text2sql.config import read_params
    from text2sql.model import loss, training
    from text2sql.model.base import load_tokenizer
    from text2sql.model.device import peak_memory_bytes, pick_device
    from text2sql.model.packing import Plan, plan
    from text2sql.model.recipe import read_recipe

    if not keeps:
        for option, value in USUAL:
            ctypes.CDLL(None).mallopt(option, value)
    if not fused:
        training.fuse = lambda *_: 0

        class Stock:
            @staticmethod
            def apply(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
                return functional.cross_entropy(logits.float(), targets, reduction="none")

        loss.TokenLoss = Stock  # type: ignore[assignment,misc]
    recipe = read_recipe(read_params())
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, save_every=10**9))
    t = recipe.train
    examples = training.read_examples(PROMPTS / "train.jsonl", load_tokenizer(BASE))
    tokens = training.memory_budget(recipe, BASE, pick_device()).tokens
    whole = plan(examples, t.pack_size, tokens, t.batch_size, 1.0, recipe.seed)
    planned = Plan(whole.groups[: steps * whole.per_step], whole.per_step)
    ends = [0.0]

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = training.build_trainer(recipe, BASE, planned, [], Path(folder), [Watch()])
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    times = [b - a for a, b in pairwise(ends)][steps // 3 :]
    return {"seconds": sum(times) / len(times), "loss": losses[-1], "memory": peak_memory_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*VARIANTS[arguments.child], arguments.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name in VARIANTS:
            command = [sys.executable, __file__, "--steps", str(arguments.steps), "--child", name]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            found[name].append(json.loads(lines[-1]))
    first = [one["seconds"] for one in found["stock"]]
    for name, runs in found.items():
        seconds = [one["seconds"] for one in runs]
        ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
        print(
            f"{name:28} {statistics.median(seconds):.2f} s a step ({min(seconds):.2f} to {max(seconds):.2f}), "
            f"{ratio:.2f} times stock's speed, loss {runs[0]['loss']:.4f}, {runs[0]['memory'] / 1e9:.1f} GB"
        )


if __name__ == "__main__":
    prepare()
    main()
