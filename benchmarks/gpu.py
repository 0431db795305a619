"""The Mistral-7B recipe on one CUDA GPU: examples a second, peak memory, minutes for three epochs.

    python benchmarks/gpu.py                                   # Mistral-7B's shape, random weights, NF4, r 16
    python benchmarks/gpu.py --prompts data/prompts/train.jsonl --base models/base     # real prompts and weights
    python benchmarks/gpu.py --small                           # a small model, also on a CPU: tests this script

Speed and memory do not depend on the weights' values, so random ones of the true shape stand in where the real ones
cannot be had. They are made layer by layer in 4 bits, and never exist in full precision.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import torch

from text2sql.model.base import QuantizationOptions, load_tokenizer
from text2sql.model.device import describe_device, peak_memory_bytes
from text2sql.model.lora import LoraOptions
from text2sql.model.packing import plan
from text2sql.model.process import prepare
from text2sql.model.recipe import Recipe, TrainOptions
from text2sql.model.sources import ModelOptions, obtain
from text2sql.model.training import build_trainer, read_examples

SPIDER = 8_659  # training examples of the official release, for the time of three epochs
SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip


def random_base(target: Path, small: bool) -> None:
    """A folder like models/base with random weights: the tiny model, or Mistral-7B's shape in bfloat16 shards."""
    obtain(ModelOptions(name="tiny", source="random", template="mistral", seed=0), target)
    if small:
        return
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(**SHAPE, max_position_embeddings=32768, sliding_window=None, bos_token_id=1, eos_token_id=2)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = MistralForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    (target / "model.safetensors").unlink()
    model.save_pretrained(target)
    del model
    torch.cuda.empty_cache()


def stand_in_prompts(target: Path) -> None:
    """Prompts with the lengths of Spider's, where the real ones are not at hand: schema 340 tokens, question 60."""
    with target.open("w") as out:
        for n in range(640):
            schema = f"[INST] schema {n // 16}: " + "name integer, " * 110
            row = {"db_id": str(n // 16), "prompt": f"{schema} question {n} [/INST]", "completion": "SELECT name " * 12}
            out.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="a folder like models/base; default: random weights")
    parser.add_argument("--prompts", type=Path, help="JSON lines like data/prompts/train.jsonl; default: stand-ins")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="the tiny model, on any device")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        parser.exit(1, "no CUDA GPU here: run with --small to try the script, or on a machine that has one\n")
    train = TrainOptions(
        epochs=3.0, learning_rate=2e-4, schedule="cosine", warmup=0.03, weight_decay=0.0, max_grad_norm=1.0,
        batch_size=16, pack_size=8, pack_tokens=4096, max_length=2048, max_left_out=1.0, optimizer="auto",
        gradient_checkpointing="auto", log_every=1, evaluate_every=0, save_every=10**9, checkpoint_copy=None,
        explosion=1e9, processes=1, fsdp=False, price_per_hour=0.0,
    )  # fmt: skip
    lora = LoraOptions(r=16, lora_alpha=32.0)
    recipe = Recipe(0, QuantizationOptions(4, "nf4", True, "auto"), lora, train)
    with tempfile.TemporaryDirectory() as scratch:
        base, prompts = options.base or Path(scratch) / "base", options.prompts or Path(scratch) / "prompts.jsonl"
        if options.base is None:
            random_base(base, options.small)
        if options.prompts is None:
            stand_in_prompts(prompts)
        examples = read_examples(prompts, load_tokenizer(base))
        planned = plan(examples, train.pack_size, train.pack_tokens, train.batch_size, 1.0, seed=0)
        planned = dataclasses.replace(planned, groups=planned.groups[: options.steps * planned.per_step])
        trainer = build_trainer(recipe, base, planned, [], Path(scratch) / "checkpoints")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    speed = planned.examples / seconds
    print(
        f"{describe_device()}: {planned.examples} examples, {planned.steps} steps, {speed:.1f} examples/s, "
        f"{planned.tokens / seconds:.0f} tokens/s, peak {peak_memory_bytes() / 1e9:.1f} GB, "
        f"three epochs of Spider: {3 * SPIDER / speed / 60:.1f} minutes"
    )


if __name__ == "__main__":
    prepare()
    main()
