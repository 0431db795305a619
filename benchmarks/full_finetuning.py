"""LoRA beside full fine-tuning of the small model: validation loss of the same plan, step by step the same examples.

    python benchmarks/full_finetuning.py --rates 1e-4 3e-4      # where `dvc repro preflight` has run

Full fine-tuning trains all weights, in float32 with the compute dtype of the recipe, without quantization or adapters.
It is no option of the pipeline, whose result is an adapter; this says what that costs. Of LoRA it prints what
metrics/train.json has, so run the pipeline with the same params.yaml first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from text2sql.model.base import load_tokenizer
from text2sql.model.packing import plan
from text2sql.model.recipe import read_recipe
from text2sql.model.training import build, peak_memory_bytes, read_examples
from text2sql.stage import read_params

BASE = Path("models/base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4])
    rates = parser.parse_args().rates
    recipe = read_recipe(read_params())
    tokenizer = load_tokenizer(BASE)
    examples, validation = (read_examples(Path(f"data/prompts/{name}.jsonl"), tokenizer) for name in ("train", "val"))
    train = recipe.train
    planned = plan(examples, train.pack_size, train.pack_tokens, train.batch_size, train.epochs, recipe.seed)
    groups = plan(validation, train.pack_size, train.pack_tokens, 1, 1.0, recipe.seed).groups
    lora = json.loads(Path("metrics/train.json").read_text())
    print(f"LoRA r {recipe.lora.r}, rate {train.learning_rate:g}: validation loss {lora['val_loss']:.4f}", flush=True)
    for rate in rates:
        changed = dataclasses.replace(
            recipe,
            quantization=dataclasses.replace(recipe.quantization, bits=None),
            train=dataclasses.replace(train, learning_rate=rate, save_every=10**9),
        )
        trainer = build(changed, BASE, planned, groups, Path(tempfile.mkdtemp()))
        trainer.model = trainer.model_wrapped = trainer.model.unload().float().requires_grad_(True)
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
        print(
            f"all weights, rate {rate:g}: validation loss {loss:.4f} ({trainer.seconds():.0f} s, "
            f"{peak_memory_bytes() / 1e9:.1f} GB)",
            flush=True,
        )


if __name__ == "__main__":
    main()
