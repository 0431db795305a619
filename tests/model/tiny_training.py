"""A training of the tiny model in two seconds: 8 steps, with a checkpoint at steps 3 and 6."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

from transformers import TrainerCallback

from tests.model.conftest import UNQUANTIZED
from text2sql.model.lora import LoraOptions, save_adapter
from text2sql.model.packing import TrainingExample
from text2sql.model.recipe import Recipe, TrainOptions
from text2sql.model.training import train

LORA = LoraOptions(r=4, lora_alpha=8.0, lora_dropout=0.1)
OPTIONS = TrainOptions(
    epochs=2.0, learning_rate=5e-3, schedule="cosine", warmup=0.1, weight_decay=0.0, max_grad_norm=1.0, batch_size=8,
    pack_size=4, pack_tokens=4096, max_length=256, max_left_out=0.0, optimizer="auto", gradient_checkpointing=False,
    log_every=1, evaluate_every=0, save_every=3, checkpoint_copy=None, explosion=3.0, processes=1, fsdp=False,
    price_per_hour=0.0,
)  # fmt: skip


def recipe(quantization=UNQUANTIZED, lora=LORA, **changes):
    return Recipe(7, quantization, lora, dataclasses.replace(OPTIONS, **changes))


def examples(count, eos=2):
    def example(n):
        db = n % 4
        return TrainingExample(f"db{db}", (1, *range(20 + db, 40 + db), 50 + n), (60 + n % 5, 70 + db, eos))

    return [example(n) for n in range(count)]


TRAIN, VALIDATION = examples(32), examples(6)


class Stop(TrainerCallback):
    """Stands for anything that ends a training: raises after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Whole(NamedTuple):
    """A training that nothing stopped: its adapter, the loss of each step, and that on the validation examples."""

    adapter: Path
    losses: list[tuple[int, float]]
    validation_loss: float


def train_whole(base: Path, folder: Path) -> None:
    trainer = train(recipe(), base, TRAIN, VALIDATION, folder / "checkpoints")
    save_adapter(trainer.model, folder / "adapter")
    losses = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    facts = {"losses": losses, "validation_loss": trainer.evaluate()["eval_loss"]}
    (folder / "facts.json").write_text(json.dumps(facts))


def read_whole(folder: Path) -> Whole:
    facts = json.loads((folder / "facts.json").read_text())
    return Whole(folder / "adapter", [tuple(pair) for pair in facts["losses"]], facts["validation_loss"])
