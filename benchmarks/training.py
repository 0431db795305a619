"""Examples a second, tokens a second, memory and loss: stock SFTTrainer, stock at its best, and this project.

    python benchmarks/training.py                  # needs models/base and data/prompts (dvc repro prompts)
    python benchmarks/training.py --prompts FILE   # other prompts: JSON lines with db_id, prompt, completion

Each configuration runs in a process of its own, so that its peak memory is its own, on the same examples, for as many
steps of 16 as take it over them once. The learning rate is next to zero: all see the same weights, and the loss must be
the same. "ours" is the trainer of the train stage; the others are TRL's with its own options, in as many ways as make
sense on this hardware.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.files import read_jsonl
from text2sql.model.process import prepare
from text2sql.workspace import BASE, PROMPTS

if TYPE_CHECKING:
    from text2sql.model.base import QuantizationOptions
    from text2sql.model.lora import LoraOptions
    from text2sql.model.packing import TrainingExample

STANDING = 1e-12  # a learning rate that changes nothing: all see the same weights, and the loss must be the same
BATCH = 16  # examples of an optimizer step, the same for all
CONFIGURATIONS = {
    "defaults": "SFTTrainer, batches of 8, gradient checkpointing",
    "stock": "SFTTrainer, batches of 4",
    "stock-length": "SFTTrainer, batches of 4 of like length",
    "stock-one": "SFTTrainer, one by one, no padding",
    "stock-packing": "SFTTrainer, packing (bfd), padding-free",
    "ours": "shared-prefix packs of 16",
    "ours-8": "shared-prefix packs of 8, two a step",
    "ours-4": "shared-prefix packs of 4, four a step",
}
OURS = {"ours": 16, "ours-8": 8, "ours-4": 4}  # questions in a pack
STOCK: dict[str, dict[str, Any]] = {
    # TRL's own. Without checkpointing batches of 8 of Spider's longest schemas take over 24 GiB.
    "defaults": {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
    "stock": {"per_device_train_batch_size": 4},
    "stock-length": {"per_device_train_batch_size": 4, "train_sampling_strategy": "group_by_length"},
    "stock-one": {"per_device_train_batch_size": 1},
    # An item of a packed data set is a row of 2,048 tokens, about four examples.
    "stock-packing": {
        "per_device_train_batch_size": 1, "packing": True, "packing_strategy": "bfd", "max_length": 2048,
        "gradient_accumulation_steps": 4,
    },
}  # fmt: skip


def sample(path: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` examples: whole databases in random order, at most 16 questions of each, as a pack of training has."""
    chance = random.Random(seed)
    databases: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(path):
        databases.setdefault(row["db_id"], []).append(row)
    rows: list[dict[str, Any]] = []
    for db_id in chance.sample(sorted(databases), len(databases)):
        rows += chance.sample(databases[db_id], min(16, len(databases[db_id])))
    return rows[:count]


def measure(name: str, rows: list[dict[str, Any]], dtype: str, bits: int | None) -> dict[str, Any]:
    """Train once over `rows` in configuration `name`, in this process."""
    from text2sql.model.base import QuantizationOptions, load_tokenizer
    from text2sql.model.device import peak_memory_bytes
    from text2sql.model.lora import LoraOptions
    from text2sql.model.training import read_examples

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        examples = read_examples(Path(file.name), load_tokenizer(BASE))
    quantization = QuantizationOptions(bits=bits, type="nf4", double=True, compute_dtype=dtype)  # type: ignore[arg-type]
    lora = LoraOptions(r=16, lora_alpha=32.0)
    trainer = (partial(ours, OURS[name]) if name in OURS else partial(stock, STOCK[name]))(examples, quantization, lora)
    answers: list[int] = []
    count = trainer._get_num_items_in_batch

    def counted(batches: list[Any], device: Any) -> Any:
        number = count(batches, device)
        answers.append(int(number))
        return number

    trainer._get_num_items_in_batch = counted
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "examples_per_second": len(examples) / wall,
        "examples_per_cpu_second": len(examples) / cpu,
        "tokens_per_second": sum(len(e.prompt) + len(e.answer) for e in examples) / wall,
        "memory": peak_memory_bytes(),
        "answer_tokens": sum(answers),
        "loss": sum(a * b for a, b in zip(losses, answers, strict=True)) / sum(answers),
    }


def ours(size: int, examples: list[TrainingExample], quantization: QuantizationOptions, lora: LoraOptions) -> Any:
    """The trainer of the train stage, with packs of at most `size` questions."""
    from text2sql.model.packing import plan
    from text2sql.model.recipe import Recipe, TrainOptions
    from text2sql.model.training import build_trainer

    options = TrainOptions(
        epochs=1.0, learning_rate=STANDING, schedule="constant", warmup=0.0, weight_decay=0.0, max_grad_norm=1.0,
        batch_size=BATCH, pack_size=size, pack_tokens=4096, max_length=2048, max_left_out=0.0, optimizer="auto",
        gradient_checkpointing=False, log_every=1, evaluate_every=0, save_every=10**9, checkpoint_copy=None,
        explosion=1e9, processes=1, fsdp=False, price_per_hour=0.0,
    )  # fmt: skip
    planned = plan(examples, options.pack_size, options.pack_tokens, options.batch_size, options.epochs, seed=0)
    if planned.examples != len(examples):
        sys.exit(f"{planned.examples} of {len(examples)} examples are in the plan")
    return build_trainer(Recipe(0, quantization, lora, options), BASE, planned, [], Path(tempfile.mkdtemp()))


def stock(
    options: dict[str, Any],
    examples: list[TrainingExample],
    quantization: QuantizationOptions,
    lora: LoraOptions,
    base: Path = BASE,
) -> Any:
    """TRL's trainer with its own options only, on the same tokens and the same model."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from text2sql.model.base import load_model, load_tokenizer
    from text2sql.model.lora import add_adapter

    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "learning_rate": STANDING, "num_train_epochs": 1, "save_strategy": "no",
        "lr_scheduler_type": "constant", "report_to": [], "logging_steps": 1, "completion_only_loss": True,
        "use_cpu": not torch.cuda.is_available(), "bf16": quantization.compute_dtype == "bfloat16",
        "disable_tqdm": True, "gradient_checkpointing": False, "max_length": None, "seed": 0,
    }  # fmt: skip
    accumulation = BATCH // options["per_device_train_batch_size"]
    model = add_adapter(load_model(base, quantization), lora)
    trainer = SFTTrainer(
        model=model,
        processing_class=load_tokenizer(base),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [[*e.prompt, *e.answer] for e in examples],
                "completion_mask": [[0] * len(e.prompt) + [1] * len(e.answer) for e in examples],
            }
        ),
        args=SFTConfig(**{**settings, "gradient_accumulation_steps": accumulation, **options}),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS / "train.jsonl")
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--bits", type=int, choices=[4], help="NF4; default: not quantized")
    parser.add_argument("--only", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        rows = sample(options.prompts, options.examples, seed=0)
        print(json.dumps(measure(options.only, rows, options.dtype, options.bits)))
        return
    results = {}
    for name, what in CONFIGURATIONS.items():
        command = [sys.executable, __file__, "--only", name, "--prompts", str(options.prompts)]
        command += ["--examples", str(options.examples), "--dtype", options.dtype]
        command += ["--bits", str(options.bits)] if options.bits else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:13} {what:48} failed with status {done.returncode}:\n{done.stderr[-2000:]}", flush=True)
            continue
        results[name] = json.loads(done.stdout.splitlines()[-1])
        r = results[name]
        print(
            f"{name:13} {what:48} {r['examples_per_second']:6.2f} examples/s {r['tokens_per_second']:6.0f} tokens/s  "
            f"{r['memory'] / 1e9:5.2f} GB  loss {r['loss']:.4f} of {r['answer_tokens']} tokens",
            flush=True,
        )
    if not {"stock", "ours"} <= results.keys():
        sys.exit("nothing to compare")
    best = max(results.keys() - OURS.keys(), key=lambda name: results[name]["examples_per_second"])
    for other in ("defaults", "stock", best):
        if other in results:
            wall, cpu = (
                results["ours"][key] / results[other][key] for key in ("examples_per_second", "examples_per_cpu_second")
            )
            memory = results["ours"]["memory"] / results[other]["memory"]
            print(
                f"ours to {other}: {wall:.1f}x the examples/s ({cpu:.1f}x by processor time), {memory:.2f}x the memory"
            )


if __name__ == "__main__":
    prepare()
    main()
