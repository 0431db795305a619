"""Examples a second, tokens a second, memory and loss: stock SFTTrainer, stock at its best, and this project.

    python benchmarks/training.py                  # needs models/base and data/prompts (dvc repro prompts)
    python benchmarks/training.py --prompts FILE   # other prompts: JSON lines with db_id, prompt, completion

Each configuration runs in a process of its own, so that its peak memory is its own, on the same examples, for as many
steps as take it over them once. Learning rate zero: all see the same weights, and the loss must be the same.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BASE = Path("models/base")
CONFIGURATIONS = {
    "stock": "SFTTrainer, padded batch of 8",
    "stock-best": "SFTTrainer, packing (bfd), padding-free",
    "ours": "shared-prefix packs of 16",
}


def sample(path: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` examples: whole databases in random order, at most 16 questions of each, as a pack of training has."""
    chance = random.Random(seed)
    databases: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        databases.setdefault(row["db_id"], []).append(row)
    rows: list[dict[str, Any]] = []
    for db_id in chance.sample(sorted(databases), len(databases)):
        rows += chance.sample(databases[db_id], min(16, len(databases[db_id])))
    return rows[:count]


def measure(name: str, rows: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """Train once over `rows` in configuration `name`, in this process."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from text2sql.model.base import QuantizationOptions, load_model, load_tokenizer
    from text2sql.model.lora import LoraOptions, add_adapter
    from text2sql.model.packing import ATTENTION, Example, collate, pack
    from text2sql.model.training import peak_memory_bytes, read_examples

    tokenizer = load_tokenizer(BASE)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        examples = read_examples(Path(file.name), tokenizer)
    tokens = sum(len(e.prompt) + len(e.answer) for e in examples)
    quantization = QuantizationOptions(bits=4, type="nf4", double=True, compute_dtype=dtype)  # type: ignore[arg-type]
    lora = LoraOptions(r=16, alpha=32.0, dropout=0.0, rslora=False, dora=False, plus_ratio=1.0, top_layers=None)
    model = add_adapter(load_model(BASE, quantization), lora)
    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "learning_rate": 0.0, "num_train_epochs": 1, "save_strategy": "no",
        "report_to": [], "logging_steps": 1,
        "use_cpu": not torch.cuda.is_available(), "bf16": dtype == "bfloat16", "disable_tqdm": True,
        "gradient_checkpointing": False, "max_length": None, "seed": 0,
    }  # fmt: skip
    if name == "ours":
        from text2sql.model.loss import answer_loss

        class Ours(SFTTrainer):
            def compute_loss(self, model: Any, inputs: Any, *_: Any, num_items_in_batch: Any = None, **__: Any) -> Any:
                return answer_loss(model, inputs).nll / num_items_in_batch

        databases: dict[str, list[Example]] = {}
        for example in examples:
            databases.setdefault(example.db_id, []).append(example)
        groups = [group[i : i + 16] for group in databases.values() for i in range(0, len(group), 16)]
        model.set_attn_implementation(ATTENTION)
        trainer = Ours(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"group": list(range(len(groups)))}),
            data_collator=lambda batch: collate([pack(groups[row["group"]]) for row in batch]),
            args=SFTConfig(**settings, per_device_train_batch_size=1, remove_unused_columns=False,
                           dataset_kwargs={"skip_prepare_dataset": True}),
        )  # fmt: skip
    else:
        data = Dataset.from_dict(
            {
                "input_ids": [[*e.prompt, *e.answer] for e in examples],
                "completion_mask": [[0] * len(e.prompt) + [1] * len(e.answer) for e in examples],
            }
        )
        packing = {"packing": True, "packing_strategy": "bfd", "max_length": 2048} if name == "stock-best" else {}
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=data,
            args=SFTConfig(**{**settings, **packing}, per_device_train_batch_size=1 if packing else 8,
                           completion_only_loss=True),
        )  # fmt: skip
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    weights: list[tuple[float, int]] = []
    count = trainer._get_num_items_in_batch

    def counted(batches: list[Any], device: Any) -> Any:
        number = count(batches, device)
        weights.append((0.0, int(number)))
        return number

    trainer._get_num_items_in_batch = counted  # type: ignore[method-assign]
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    answers = [number for _, number in weights[: len(losses)]]
    return {
        "examples": len(examples),
        "seconds": wall,
        "cpu_seconds": cpu,
        "examples_per_second": len(examples) / wall,
        "examples_per_cpu_second": len(examples) / cpu,
        "tokens_per_second": tokens / wall,
        "memory": peak_memory_bytes(),
        "loss": sum(a * b for a, b in zip(losses, answers, strict=True)) / sum(answers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=Path("data/prompts/train.jsonl"))
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--only", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        rows = sample(options.prompts, options.examples, seed=0)
        print(json.dumps(measure(options.only, rows, options.dtype)))
        return
    results = {}
    for name, what in CONFIGURATIONS.items():
        command = [sys.executable, __file__, "--only", name, "--prompts", str(options.prompts)]
        command += ["--examples", str(options.examples), "--dtype", options.dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
        results[name] = json.loads(done.stdout.splitlines()[-1])
        r, stock = results[name], results["stock"]
        r, stock = results[name], results["stock"]
        faster, by_cpu = (r[key] / stock[key] for key in ("examples_per_second", "examples_per_cpu_second"))
        memory, loss = r["memory"] / 1e9, r["loss"]
        print(
            f"{name:11} {what:40} {r['examples_per_second']:6.2f} examples/s ({faster:4.1f}x; by processor time "
            f"{by_cpu:4.1f}x)  {r['tokens_per_second']:6.0f} tokens/s  {memory:5.2f} GB  loss {loss:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
