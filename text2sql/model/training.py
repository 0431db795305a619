"""QLoRA training: TRL's SFTTrainer with shared-prefix packing, exact resume and failures that are said well.

`train` reads top to bottom: load, plan, build the trainer, go on from the last whole checkpoint, save. What differs
from stock TRL is in `PackedTrainer`: the loss of packs, a validation that leaves the random state alone, and sealed
checkpoints.
"""

from __future__ import annotations

import errno
import functools
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.training_args import OptimizerNames
from trl import SFTConfig, SFTTrainer

from text2sql.errors import UserError
from text2sql.files import read_beside, read_jsonl
from text2sql.model import checkpoint, checkpoint_copies
from text2sql.model.base import load_model, load_tokenizer
from text2sql.model.choosing import Chooser, Measure
from text2sql.model.device import peak_memory_bytes, pick_device, pick_dtype, same_random_state, total_memory_bytes
from text2sql.model.flash import FLASH, flash_error
from text2sql.model.fused import fuse, liger
from text2sql.model.initial import load_weights
from text2sql.model.launch import is_first
from text2sql.model.lora import add_adapter
from text2sql.model.loss import answer_loss
from text2sql.model.memory import Budget, training_budget
from text2sql.model.packing import ATTENTION, FlatLayout, Group, Plan, TrainingExample, collate, pack, passes, plan
from text2sql.model.prompt import encode_completion, encode_prompt
from text2sql.model.recipe import Recipe, steps_between
from text2sql.model.table_orders import shuffle_tables
from text2sql.progress import progress


def read_examples(path: Path, tokenizer: Any) -> list[TrainingExample]:
    """data/prompts/*.jsonl as token ids."""
    return [
        TrainingExample(
            row["db_id"],
            tuple(encode_prompt(tokenizer, row["prompt"])),
            tuple(encode_completion(tokenizer, row["completion"])),
            row["prompt"],
        )
        for row in read_jsonl(path)
    ]


#: packs of a forward pass of validation at most
VALIDATED = 8
#: packs on which a GPU's kernels are tried
COMPARED = 4
#: bytes; a save that fails with less room than this has failed for want of room
FULL_DISK = 10_000_000


class PackedTrainer(SFTTrainer):
    """SFTTrainer on packs; an item of its dataset is the index of a forward pass of one or more packs.

    `attention`: the one that it trains with, by transformers' name; `started`: when, by time.perf_counter.
    """

    recipe: Recipe
    planned: Plan
    validation: Sequence[tuple[Group, ...]]
    attention: str
    started: float
    earlier_seconds = 0.0
    chooser: Chooser | None = None

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """This micro-batch's part of the mean over the step, on all processes."""
        if self.args.world_size > 1 and not isinstance(model, DistributedDataParallel | FSDPModule):
            raise AssertionError(f"{self.args.world_size} processes train apart: the model is a {type(model).__name__}")
        # DDP averages the gradients of the processes, but each has only its own share of the mean.
        return answer_loss(model, inputs) / num_items_in_batch * self.accelerator.num_processes

    def _prepare_input(self, data: Any) -> Any:
        return data.to(self.args.device) if isinstance(data, FlatLayout) else super()._prepare_input(data)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss over all validation tokens; random state and mode are as before afterwards."""
        with same_random_state():
            self.model.eval()
            # Read once, at the end: to read each loss would wait for the device.
            sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
            size, mine = self.args.world_size, self.args.process_index
            with torch.no_grad(), self.compute_loss_context_manager():
                for first in range(0, len(self.validation), size):
                    # A sharded model is called by all processes, or by none: where groups lack, for nothing.
                    counts = first + mine < len(self.validation)
                    groups = self.validation[first + mine if counts else first]
                    batch = self._prepare_inputs(collate(list(map(pack, groups))))
                    sums[0] += counts * answer_loss(self.model, batch)
                    sums[1] += counts * len(batch["predicting"])
            nll, tokens = self.accelerator.reduce(sums, "sum").tolist()
            metrics = {"eval_loss": nll / tokens}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            self.model.train()
        return metrics

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the release stage writes the card, from what was measured."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            target = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.chooser:
                self.chooser.keep(target)
            checkpoint.seal(target, seconds=self.seconds())
            checkpoint.prune(target.parent, keep=2)
            if self.recipe.train.checkpoint_copy:
                checkpoint_copies.copy_out(target, self.recipe.train.checkpoint_copy)

    def adapter_weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by their names, whole; where they are sharded, all processes take part."""
        named = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        return {name: p.full_tensor() if isinstance(p, DTensor) else p.detach() for name, p in named}

    def seconds(self) -> float:
        """Time in training, that of interrupted runs up to their last checkpoint included."""
        return self.earlier_seconds + time.perf_counter() - self.started


class Watch(TrainerCallback):
    """Stops a training whose loss is no number any more, or has exploded, before its weights are saved."""

    def __init__(self, explosion: float, checkpoints: Path) -> None:
        self.explosion = explosion
        self.checkpoints = checkpoints

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        first, last = (sum(part) / len(part) for part in (losses[:5] or [0.0], losses[-5:] or [0.0]))
        # In float16 gradients overflow now and then: their scaler leaves that step out, and goes on with a lower scale.
        names = ("loss",) if args.fp16 else ("loss", "grad_norm")
        watched = [value for name, value in (logs or {}).items() if name in names]
        bad = not all(map(math.isfinite, watched))
        if bad or (len(losses) >= 10 and last > self.explosion * first):
            what = "is not a number" if bad else f"has risen from {first:.2f} to {last:.2f}"
            raise UserError(
                f"step {state.global_step}: the loss {what}; the checkpoints in {self.checkpoints} are from before",
                "lower train.learning_rate, or raise train.warmup",
            )


class Bar(TrainerCallback):
    """Calls `advance` after each step, and at the start for the steps of a training that goes on."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(state.global_step)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advance(1)


#: TRL's settings that are the same in every training, and those of sharding
_SETTINGS = read_beside(__file__)
#: transformers' name of a schedule, where it is another: its "constant" has no warmup
_SCHEDULES = {"constant": "constant_with_warmup"}


def trainer_arguments(
    recipe: Recipe,
    device: str,
    steps: int,
    accumulation: int,
    checkpointing: bool,
    checkpoints: Path,
    evaluate: int | None,
) -> SFTConfig:
    """All of TRL's settings that are not its defaults.

    Args:
        accumulation: forward passes of a process in a step.
        evaluate: steps between two validations; None: no validation.

    Raises:
        UserError: transformers does not know the optimizer.
    """
    options, on_gpu = recipe.train, device.startswith("cuda")
    dtype = pick_dtype(recipe.quantization, device)
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        seed=recipe.seed,
        gradient_accumulation_steps=accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=_SCHEDULES.get(options.schedule, options.schedule),
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim=_optimizer(options.optimizer, on_gpu),
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=not on_gpu,
        ddp_backend=("nccl" if on_gpu else "gloo") if options.processes > 1 else None,
        gradient_checkpointing=checkpointing,
        logging_steps=min(options.log_every, steps),  # a training without any loss says nothing
        eval_strategy="steps" if evaluate else "no",
        eval_steps=evaluate,
        save_steps=options.save_every,
        accelerator_config={"non_blocking": on_gpu},
        **_SETTINGS["every"],
        **(_SETTINGS["sharded"] if options.fsdp else {}),
    )
    # A process has one GPU, however many it sees: transformers would spread its batch over all (nn.DataParallel), which
    # TRL refuses.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _optimizer(asked: str, on_gpu: bool) -> str:
    """Transformers' name of the optimizer that is asked for."""
    name = f"adamw_torch{'_fused' * on_gpu}" if asked == "auto" else asked
    if name not in {known.value for known in OptimizerNames}:
        names = "a name of transformers' OptimizerNames, such as adafactor"
        raise UserError(f"train.optimizer is {name}, which transformers does not know", f"give auto, or {names}")
    return name


def build_trainer(
    recipe: Recipe,
    base: Path,
    planned: Plan,
    validation: Sequence[Group],
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback] = (),
    initial: Path | None = None,
    plain: bool = False,
) -> PackedTrainer:
    """The trainer of `recipe` on a plan, with all that differs from TRL's defaults.

    `initial`: an adapter's folder. `plain`: without a GPU's kernels, as the verdict of `Preflight.packs` may have it.
    """
    options = recipe.train
    device = pick_device()
    if options.fsdp:
        _check_shards(device)
    set_seed(recipe.seed)
    model = load_model(base, recipe.quantization, sharded=options.fsdp)
    _check_window(model.config, planned)
    model = add_adapter(model, recipe.lora)
    if initial is not None:
        load_weights(model, initial)
    _keep_differentiable(model)
    on_gpu = device.startswith("cuda")
    budget = memory_budget(recipe, base, device)
    if not options.fsdp:
        fuse(model, budget.keeps_weights)
    attention = ATTENTION
    if on_gpu and not plain:
        attention = _gpu_kernels(model, planned, device, pick_dtype(recipe.quantization, device))
    model.set_attn_implementation(attention)
    train_passes, accumulation = passes(planned, options.processes, budget.pass_tokens)
    val_passes, _ = passes(Plan(list(validation), VALIDATED), tokens=budget.pass_tokens)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    evaluate = steps_between(options.evaluate_every, planned.steps) if options.evaluate_every and validation else None
    trainer = PackedTrainer(
        model=model,
        processing_class=load_tokenizer(base),
        data_collator=lambda rows: collate([pack(group) for row in rows for group in train_passes[row["pass"]]]),
        train_dataset=Dataset.from_dict({"pass": list(range(len(train_passes)))}),
        eval_dataset=Dataset.from_dict({"pass": list(range(len(val_passes)))}) if evaluate else None,
        callbacks=list(callbacks),
        args=trainer_arguments(
            recipe, device, planned.steps, accumulation, budget.checkpointing, checkpoints, evaluate
        ),
    )
    # TRL turns the adapters of a quantized model to bfloat16, which makes a resumed training another one.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = fresh[name].to(parameter.device)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.recipe, trainer.planned, trainer.validation = recipe, planned, val_passes
    trainer.attention, trainer.started = attention, time.perf_counter()
    return trainer


def memory_budget(recipe: Recipe, base: Path, device: str) -> Budget:
    """What a pass may take of this device's memory."""
    total = total_memory_bytes() if device.startswith("cuda") else None
    options = recipe.train
    return training_budget(base, recipe.quantization, options.pack_tokens, options.gradient_checkpointing, total)


def _gpu_kernels(model: Any, planned: Plan, device: str, dtype: torch.dtype) -> str:
    """Let `model` use a GPU's kernels as far as they work here, and say which do not; the attention to train with."""
    lacks = []
    if reason := liger(model):
        lacks.append(f"without Liger's kernels ({reason})")
    reason = flash_error(model.config, list(map(pack, planned.groups[:COMPARED])), device, dtype)
    if reason:
        lacks.append(f"with the plain attention ({reason})")
    if lacks and is_first():
        print(f"train: {', '.join(lacks)}", file=sys.stderr, flush=True)
    return ATTENTION if reason else FLASH


def train(
    recipe: Recipe,
    base: Path,
    train_examples: Sequence[TrainingExample],
    validation_examples: Sequence[TrainingExample],
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback] = (),
    initial: Path | None = None,
    plain: bool = False,
    measure: Measure | None = None,
) -> PackedTrainer:
    """Train to the end of the plan, from the last whole checkpoint in `checkpoints` if there is one.

    `initial` is the folder of the adapter whose weights the training begins with, instead of fresh ones; `plain` as in
    `build_trainer`. With `train.choose_every`, `measure` gives the execution accuracy of an adapter, and
    `trainer.chooser` keeps the best.

    Raises:
        UserError: too few examples; `initial` does not fit the recipe; the loss exploded; memory or disk ran out.
    """
    options = recipe.train
    tokens = memory_budget(recipe, base, pick_device()).tokens
    limits = {"size": options.pack_size, "tokens": tokens, "seed": recipe.seed}
    if len(train_examples) < options.processes:
        raise UserError(f"{len(train_examples)} training examples are too few", "look at metrics/prompts.json")
    planned = plan(
        train_examples, batch=options.batch_size, epochs=options.epochs, processes=options.processes, **limits
    )
    if options.shuffle_tables:
        planned = shuffle_tables(planned, functools.partial(encode_prompt, load_tokenizer(base)), recipe.seed)
    if options.choose_every and not validation_examples:
        raise UserError("train.choose_every needs validation questions, and there are none", "train.choose_every=0")
    validation = plan(validation_examples, batch=1, epochs=1.0, **limits).groups if validation_examples else []
    with progress("training", planned.steps) if is_first() else nullcontext(lambda _: None) as advance:
        watch = Watch(options.explosion, checkpoints)
        callbacks = [watch, Bar(advance), *callbacks]
        trainer = build_trainer(recipe, base, planned, validation, checkpoints, callbacks, initial, plain)
        if measure and options.choose_every:
            chooser = Chooser(measure, steps_between(options.choose_every, planned.steps), checkpoints)
            chooser.trainer, trainer.chooser = trainer, chooser
            trainer.add_callback(chooser)
        if options.checkpoint_copy and trainer.is_local_process_zero():
            checkpoint_copies.fetch_newest(checkpoints, options.checkpoint_copy)
        trainer.accelerator.wait_for_everyone()
        last = checkpoint.last_whole(checkpoints)
        if last:
            trainer.earlier_seconds = checkpoint.facts(last)["seconds"]
        if trainer.chooser:
            trainer.chooser.restore(last)
        if last and is_first():
            print(f"train: goes on from {last}", file=sys.stderr, flush=True)
        with _said_well(planned, checkpoints):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    return trainer


@contextmanager
def _said_well(planned: Plan, checkpoints: Path) -> Iterator[None]:
    """What a machine can run out of in training, as a `UserError`; the checkpoints stay."""
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
            largest = max(pack(group).tokens for group in planned.groups)
            raise UserError(
                f"memory ran out at {peak_memory_bytes() / 1e9:.1f} GB; the largest pack has {largest:,} tokens",
                f"halve it: train.pack_tokens={largest // 2}; or train.gradient_checkpointing=true (half the memory, "
                "twice the time)",
            ) from error
        full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(checkpoints).free < FULL_DISK
        if full or "No space left" in text:
            raise UserError(
                f"the disk of {checkpoints} is full; the last whole checkpoint there is kept",
                "make room and run again: the training goes on from it",
            ) from error
        raise


def _check_shards(device: str) -> None:
    if not device.startswith("cuda"):
        raise UserError("train.fsdp shards a model over GPUs, and this machine has none", "train.fsdp=false")


def _check_window(config: Any, planned: Plan) -> None:
    """The attention of packs sees all of an example: a model that sees a window of it would be trained as another."""
    longest = max(len(example.prompt) + len(example.answer) for group in planned.groups for example in group)
    window = getattr(config, "sliding_window", None)
    if window and longest > window:
        what = f"an example has {longest:,} tokens, and the base model attends to the last {window:,} only"
        raise UserError(what, f"leave out longer ones: train.max_length={window}")


def _keep_differentiable(model: torch.nn.Module) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first use in eval mode, for a faster kernel.

    That kernel has no backward pass: training that goes on after a validation would get wrong gradients, in silence.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
