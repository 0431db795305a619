"""The recipe on one CUDA GPU, in under six minutes and without a network: is it right, how fast is it.

    python benchmarks/gpu.py                       # random weights of the true shapes, prompts of Spider's lengths
    python benchmarks/gpu.py --base models/base --adapter models/adapter --prompts data/prompts/train.jsonl \\
        --questions data/prompts/test.jsonl --schemas data/postgres/schema_index.json     # real ones of the 1.5B model
    python benchmarks/gpu.py --only steps predict  # some of the parts
    python benchmarks/gpu.py --small               # the tiny model, also on a CPU: tests this script

    equality   loss and gradients of 16 packs (1.5B) beside float32 the plain way, as near as 16 bits the plain way are
    steps      200 steps of 1.5B: the loss is finite and falls; resumed at half, it ends with the same weights in a band
    speed-1.5b, speed-7b   examples a second, memory, loss, share of the peak; 7B in NF4, also with least memory; beside
               TRL's SFTTrainer on the same examples, and its packing with Liger's kernels
    predict    200 questions, constrained: questions a second, and how many texts are those of a CPU in float32

Each part runs in a process of its own and is written to --out as it ends. Speed and memory do not depend on the
weights' values, so random ones stand in where the real ones cannot be had; what `predict` writes does.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import training as stock_training  # benchmarks/training.py
from transformers import TrainerCallback

from text2sql.files import read_jsonl, write_json
from text2sql.model.base import QuantizationOptions, load_model, load_tokenizer
from text2sql.model.constraint import Constraints
from text2sql.model.device import describe_device, peak_memory_bytes, pick_device, pick_dtype, reset_peak_memory
from text2sql.model.generation import GenerationOptions
from text2sql.model.inference import load_for_inference
from text2sql.model.lora import LoraOptions, add_adapter, save_adapter
from text2sql.model.loss import answer_loss
from text2sql.model.memory import parameter_count
from text2sql.model.packing import Plan, TrainingExample, collate, pack, passes, plan
from text2sql.model.prediction import Predictor
from text2sql.model.process import prepare
from text2sql.model.prompt import PromptOptions, encode_prompt, render
from text2sql.model.recipe import Recipe, TrainOptions
from text2sql.model.sources import ModelOptions, obtain
from text2sql.model.training import build_trainer, read_examples
from text2sql.schema import Column, Schema, Table, read_index, write_index

Row = dict[str, Any]
NF4 = QuantizationOptions(4, "nf4", True, "auto")
PLAIN = QuantizationOptions(None, None, False, "auto")
LORA = LoraOptions(r=16, lora_alpha=32.0)
#: a learning rate that changes nothing: all ways see the same weights, and the loss must be the same
STANDING = 1e-12
WORDS = ("title", "year", "price", "total", "street", "phone", "grade", "weight", "budget", "points", "rank", "age")
#: seconds for all parts
LIMIT = 350
SPIDER = 8_659  # training examples of the official release, for the time of three epochs
SHAPES: dict[str, Row] = {
    "1.5b": {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": None},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where everything is, and how much of it is done."""

    scratch: Path
    small: bool
    base: Path | None
    adapter: Path | None
    prompts: Path
    questions: Path
    schemas: Path
    steps: int

    def model(self, size: str) -> Path:
        """The model of a size: the user's, or one of its shape with random weights, made at the first use."""
        target = self.base if self.base and size == "1.5b" else self.scratch / ("tiny" if self.small else size)
        if not target.exists():
            random_base(target, None if self.small else SHAPES[size])
        return target

    def examples(self, size: str, count: int) -> list[TrainingExample]:
        return read_examples(self.prompts, load_tokenizer(self.model(size)))[:count]


def random_base(target: Path, shape: Row | None) -> None:
    """A folder like models/base with random weights, in 16 bits: of the tiny model, or of another shape."""
    obtain(ModelOptions(name="tiny", source="random", template="mistral", seed=0), target)
    if shape is None:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**shape, max_position_embeddings=32768, bos_token_id=1, eos_token_id=2)
    (target / "model.safetensors").unlink()
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(target)


def stand_ins(folder: Path, databases: int = 40, questions: int = 17) -> None:
    """Prompts, questions and schemas as long as Spider's: a schema of about 340 tokens, a question of 60."""
    chance = random.Random(0)
    schemas, rows = {}, []
    for n in range(databases):
        tables = tuple(
            Table(f"{noun}_{n}", noun, tuple(Column(w, w, "integer") for w in chance.sample(WORDS, 4)))
            for noun in chance.sample(["singer", "concert", "store", "player", "member", "course"], 4)
        )
        schemas[f"db{n}"] = schema = Schema(f"db{n}", tables)
        for k in range(questions):
            table = chance.choice(tables)
            asked, shown = (column.name for column in chance.sample(table.columns, 2))
            question = f"What is the {shown} of each {table.source} whose {asked} is over {k}?"
            prompt = render(schema, question, PromptOptions("ddl", 0), "mistral")
            sql = f"SELECT {table.name}.{shown} FROM {table.name} WHERE {table.name}.{asked} > {k}"
            rows.append({"id": f"{n}-{k}", "db_id": f"db{n}", "prompt": prompt, "completion": sql})
    for name, kept in (("train", rows[: -5 * questions]), ("test", rows[-12 * questions :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    write_index(folder / "schemas.json", schemas)


def recipe(quantization: QuantizationOptions, **changes: Any) -> Recipe:
    options: Row = {
        "epochs": 1.0, "learning_rate": STANDING, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "batch_size": 16, "pack_size": 8, "pack_tokens": "auto", "max_length": 2048,
        "max_left_out": 1.0, "optimizer": "auto", "gradient_checkpointing": "auto", "log_every": 1,
        "evaluate_every": 0, "save_every": 10**9, "checkpoint_copy": None, "explosion": 1e9, "processes": 1,
        "fsdp": False, "price_per_hour": 0.0,
    }  # fmt: skip
    return Recipe(0, quantization, LORA, TrainOptions(**options | changes))


class Times(TrainerCallback):
    """When each step ended; the loss is read from the device after each, so these are the device's times, too."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def fresh_memory() -> None:
    gc.collect()  # a trainer refers to itself
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reset_peak_memory()


@functools.cache
def peak() -> float:
    """Operations a second that this device reaches in a product of two large matrices of the training's type."""
    on_gpu = torch.cuda.is_available()
    size = 8192 if on_gpu else 512
    one = torch.ones(size, size, device="cuda" if on_gpu else "cpu", dtype=torch.bfloat16 if on_gpu else None)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        one @ one
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def gradients(model: torch.nn.Module, losses: Sequence[Callable[[], torch.Tensor]]) -> tuple[float, torch.Tensor]:
    """The sum of `losses` and its gradient by all trained weights, one vector in float32 on the CPU."""
    model.zero_grad()
    total = 0.0
    for loss in losses:
        value = loss()
        value.backward()
        total += value.item()
    named = sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return total, torch.cat([p.grad.float().flatten().cpu() for _, p in named])


def with_answers(model: torch.nn.Module) -> torch.nn.Module:
    """`model` with the same random adapters each time: fresh ones have B = 0, and A without a gradient."""
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.data.copy_(values * 0.02)
    return model.eval()


def equality(setting: Setting) -> Row:
    base, packs = setting.model("1.5b"), 2 if setting.small else 16
    planned = plan(setting.examples("1.5b", 8 * packs), 8, 4096, 16, 1.0, seed=0)
    groups = planned.groups[:packs]

    def plainly(dtype: str) -> tuple[float, torch.Tensor]:
        quantization = dataclasses.replace(PLAIN, compute_dtype=dtype)
        model = with_answers(add_adapter(load_model(base, quantization), LORA))
        model.set_attn_implementation("eager")

        def loss(example: TrainingExample) -> torch.Tensor:
            ids = torch.tensor([[*example.prompt, *example.answer]], device=model.device)
            first = len(example.prompt)
            with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype != "float32"):
                logits = model(input_ids=ids, use_cache=False).logits[0, first - 1 : -1].float()
            return torch.nn.functional.cross_entropy(logits, ids[0, first:], reduction="sum")

        return gradients(model, [functools.partial(loss, example) for group in groups for example in group])

    # Before the trainer is built: Liger's kernels are then in all models of this process.
    exact, expected = plainly("float32")
    dtype = pick_dtype(PLAIN, pick_device())
    rounded, plain = plainly(str(dtype).removeprefix("torch."))
    trainer = build_trainer(recipe(PLAIN), base, planned, [], setting.scratch / "equality")
    model = with_answers(trainer.model)
    cut, _ = passes(Plan(groups, packs), tokens=4096 if torch.cuda.is_available() else 0)

    def packed(part: Any) -> torch.Tensor:
        with trainer.compute_loss_context_manager():
            return answer_loss(model, trainer._prepare_inputs(collate(list(map(pack, part)))))

    loss, own = gradients(model, [functools.partial(packed, part) for part in cut])
    besides = 1e-3 if dtype == torch.float32 else 0.02
    error, allowed = ((x - expected).norm().item() / expected.norm().item() for x in (own, plain))
    return {
        "attention": trainer.attention, "loss": loss, "loss_float32": exact, "loss_plain": rounded,
        "gradient_error": error, "gradient_error_plain": allowed,
        # Of the loss a bfloat16 model loses up to 2 % by rounding, either way: the plain one's may be near by chance.
        "passed": error <= 2 * allowed + 1e-3 and abs(loss - exact) <= 2 * abs(rounded - exact) + besides * exact,
    }  # fmt: skip


def steps(setting: Setting) -> Row:
    count = setting.steps
    examples = setting.examples("1.5b", 10**6)
    options = recipe(PLAIN, learning_rate=5e-4, schedule="cosine", warmup=0.05, save_every=count // 2)
    planned = plan(examples, 8, 4096, 16, math.ceil(16 * count / len(examples)) + 1.0, seed=0)
    planned = dataclasses.replace(planned, groups=planned.groups[: count * planned.per_step])
    folder = setting.scratch / "steps"

    def run(resume: bool | str) -> Any:
        trainer = build_trainer(options, setting.model("1.5b"), planned, [], folder)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    fresh_memory()
    trainer = run(resume=False)
    whole = torch.cat([weight.flatten() for weight in trainer.adapter_weights().values()]).cpu()
    if setting.adapter is None:
        save_adapter(trainer.model, setting.scratch / "adapter")
    del trainer
    gc.collect()
    trainer = run(resume=str(folder / f"checkpoint-{count // 2}"))
    again = torch.cat([weight.flatten() for weight in trainer.adapter_weights().values()]).cpu()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tenth = max(1, count // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    band = ((again - whole).norm() / whole.norm()).item()
    finite = all(map(math.isfinite, losses)) and len(losses) == count
    return {"steps": len(losses), "first_loss": first, "last_loss": last, "band": band, "memory": peak_memory_bytes(),
            "passed": finite and last < first and band < 0.05}  # fmt: skip


def speed(size: str, setting: Setting) -> Row:
    """By way: TRL's trainer, its packing with Liger's kernels, ours. Liger's kernels then stay in the process."""
    quantization, changes = NF4 if size == "7b" else PLAIN, {"gradient_checkpointing": True}
    kernels = {"use_liger_kernel": True} if torch.cuda.is_available() else {}
    ways: dict[str, Callable[[], Row]] = {
        "SFTTrainer": lambda: stock(size, setting, quantization, {"per_device_train_batch_size": 4}),
        "SFTTrainer, packing": lambda: stock(
            size, setting, quantization, {**stock_training.STOCK["stock-packing"], **kernels}
        ),
        "ours": lambda: ours(size, setting, quantization),
    }
    if size == "7b":
        ways["ours, least memory"] = lambda: ours(size, setting, quantization, **changes)
    figures = {}
    for way, measured in ways.items():
        fresh_memory()
        try:
            figures[way] = measured()
        except Exception as error:  # of one way: the others are still worth their time
            figures[way] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0], "passed": False}
    return figures


def timed(trainer: Any) -> Row:
    """The trainer's figures; the first fifth of its steps warms up."""
    times, examples = Times(), trainer.planned.examples if hasattr(trainer, "planned") else len(trainer.train_dataset)
    trainer.add_callback(times)
    times.ends.append(time.perf_counter())
    trainer.train()
    warm = (len(times.ends) - 1) // 5 + 1
    seconds, share = times.ends[-1] - times.ends[warm], (len(times.ends) - 1 - warm) / (len(times.ends) - 1)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"examples_per_second": examples * share / seconds, "memory": peak_memory_bytes(),
            "loss": sum(losses) / len(losses)}  # fmt: skip


def ours(size: str, setting: Setting, quantization: QuantizationOptions, **changes: Any) -> Row:
    base, count = setting.model(size), 2 if setting.small else 30
    planned = plan(setting.examples(size, 16 * count), 8, 4096, 16, 1.0, seed=0)
    trainer = build_trainer(recipe(quantization, **changes), base, planned, [], setting.scratch / "speed")
    figures = timed(trainer)
    rate = figures["examples_per_second"]
    tokens = rate * planned.tokens / planned.examples
    # Two operations a weight and token forward, two backward, to the inputs.
    share = 4 * parameter_count(base) * tokens / peak()
    return figures | {"tokens_per_second": tokens, "share_of_peak": share, "attention": trainer.attention,
                      "minutes_for_three_epochs": 3 * SPIDER / rate / 60}  # fmt: skip


def stock(size: str, setting: Setting, quantization: QuantizationOptions, options: Row) -> Row:
    base, count = setting.model(size), 2 if setting.small else 10
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    quantization = dataclasses.replace(quantization, compute_dtype=dtype)
    return timed(stock_training.stock(options, setting.examples(size, 16 * count), quantization, LORA, base))


def predict(setting: Setting) -> Row:
    count, compared = (4, 2) if setting.small else (200, 40)
    base, adapter = setting.model("1.5b"), setting.adapter or setting.scratch / "adapter"
    tokenizer, schemas = load_tokenizer(base), read_index(setting.schemas)
    rows = [{**row, "tokens": encode_prompt(tokenizer, row["prompt"])} for row in read_jsonl(setting.questions)]
    rows = random.Random(0).sample(rows, min(count, len(rows)))
    constraints = Constraints(tokenizer)

    def texts(predictor: Predictor, questions: Sequence[Row]) -> dict[str, str]:
        held = predictor.answers(questions, lambda row: constraints.of(schemas[row["db_id"]]))
        return {row["id"]: row["predicted"] for row in held}

    adapter = adapter if adapter.exists() else None  # after --only predict
    options = GenerationOptions(batch_size=96, max_new_tokens=16 if setting.small else 96, cache_tokens=200_000)
    predictor = Predictor.load(base, PLAIN, adapter, "auto", options)
    texts(predictor, rows[:8])  # warms up, and makes grammars
    fresh_memory()
    started = time.perf_counter()
    own = texts(predictor, rows)
    rate, memory = len(rows) / (time.perf_counter() - started), peak_memory_bytes()
    exact = Predictor(load_for_inference(base, PLAIN, adapter, "float32", "cpu"), tokenizer, options)
    expected = texts(exact, rows[:compared])
    same = sum(own[id_] == text for id_, text in expected.items()) / len(expected)
    return {"questions_per_second": rate, "same_as_cpu": same, "compared": len(expected), "memory": memory,
            "weights": "random" if setting.base is None else "real",
            "passed": same >= 0.95 or setting.base is None}  # fmt: skip


PARTS: dict[str, Callable[[Setting], Row]] = {
    "equality": equality,
    "steps": steps,
    "speed-7b": functools.partial(speed, "7b"),
    "speed-1.5b": functools.partial(speed, "1.5b"),
    "predict": predict,
}
#: columns of the table: figure, title, factor
COLUMNS = (
    ("examples_per_second", "examples/s", 1), ("questions_per_second", "questions/s", 1),
    ("tokens_per_second", "tokens/s", 1), ("memory", "GB", 1e-9), ("share_of_peak", "% of peak", 100),
    ("loss", "loss", 1),
)  # fmt: skip


def rows(results: dict[str, Row]) -> dict[str, Row]:
    """The figures of each part, or of each of its ways, by name."""
    flat: dict[str, Row] = {}
    for part, figures in results.items():
        whole = {key: value for key, value in figures.items() if not isinstance(value, dict)}
        ways = {f"{part}, {way}": values for way, values in figures.items() if isinstance(values, dict)}
        flat |= ({part: whole} if whole else {}) | ways
    return flat


def table(results: dict[str, Row]) -> str:
    """A line each: the figures of COLUMNS, then all others by their names."""
    named = {key for key, _, _ in COLUMNS}
    lines = [f"{'':34}" + "".join(f"{title:>12}" for _, title, _ in COLUMNS)]
    for name, figures in rows(results).items():
        shown = (f"{figures[key] * factor:12.4g}" if key in figures else " " * 12 for key, _, factor in COLUMNS)
        rest = (
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in figures.items() if key not in named
        )  # fmt: skip
        lines.append(f"{name:34}{''.join(shown)}  {', '.join(rest)}")
    return "\n".join(lines)


def apart(part: str, arguments: list[str], seconds: float) -> Row:
    """The figures of a part, done in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--part", part]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        return {"failed": f"the {LIMIT} s for all parts were over", "passed": False}
    notes = [line for line in done.stderr.splitlines() if line.startswith("train: with")]
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1], "passed": False}
    return json.loads(done.stdout.splitlines()[-1]) | ({"notes": notes[0]} if notes else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="a folder like models/base, in place of random 1.5B weights")
    parser.add_argument("--adapter", type=Path, help="for `predict`; default: what `steps` has trained")
    parser.add_argument("--prompts", type=Path, help="JSON lines like data/prompts/train.jsonl; default: stand-ins")
    parser.add_argument("--questions", type=Path, help="JSON lines like data/prompts/test.jsonl")
    parser.add_argument("--schemas", type=Path, help="of the questions: data/postgres/schema_index.json")
    parser.add_argument("--steps", type=int, help="of `steps`; default: 200")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--small", action="store_true", help="the tiny model, on any device, all in one process")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        parser.exit(1, "no CUDA GPU here: run with --small to try the script, or on a machine that has one\n")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        if not options.scratch:
            stand_ins(scratch, *(12, 9) if options.small else ())
        files = {"prompts": "train.jsonl", "questions": "test.jsonl", "schemas": "schemas.json"}
        paths = {name: getattr(options, name) or scratch / file for name, file in files.items()}
        count = options.steps or (4 if options.small else 200)
        setting = Setting(scratch, options.small, options.base, options.adapter, **paths, steps=count)
        if options.part:
            print(json.dumps(PARTS[options.part](setting)))
            return
        started = time.perf_counter()
        results: dict[str, Row] = {}
        for part in options.only:
            begun = time.perf_counter()
            if options.small:
                results[part] = PARTS[part](setting)
            else:
                left = LIMIT - (begun - started)
                results[part] = apart(part, [*sys.argv[1:], "--scratch", str(scratch)], left)
            print(f"{part}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
            versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
            write_json(options.out, {"device": describe_device(), **versions, "parts": results})
    print(f"{describe_device()}, torch {torch.__version__}, {time.perf_counter() - started:.0f} s")
    print(table(results))
    failed = [name for name, figures in rows(results).items() if figures.get("passed") is False]
    if failed:
        sys.exit(f"not as it must be: {', '.join(failed)}")


if __name__ == "__main__":
    prepare()
    main()
