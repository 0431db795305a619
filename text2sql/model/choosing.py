"""The checkpoint that answers best: execution accuracy now and then while training, and the best adapter kept.

The validation loss says how well the tokens of the gold query are guessed, not whether an answer is right: of two
adapters that were trained on Spider, the one of loss 0.174 was right on 57.3 % of dev, that of 0.188 on 60.1 %. How
answers are made and judged is the caller's (`Measure`), since text2sql.model knows of no server.
"""

from __future__ import annotations

import copy
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from text2sql.files import read_json, write_json
from text2sql.model.device import same_random_state
from text2sql.model.launch import is_first
from text2sql.model.lora import save_adapter
from text2sql.model.reordered import forget_reordered

if TYPE_CHECKING:
    from text2sql.model.training import PackedTrainer

#: the execution accuracy, from 0 to 1, of a model that `answering` has prepared
Measure = Callable[[Any], float]
FOLDER, ADAPTER, FACTS = "chosen", "adapter", "choice.json"
#: what a checkpoint keeps of a Chooser
FIGURES = ("accuracy", "val_loss", "step", "last", "seconds")
#: what the trainer calls the accuracy in its log
LOGGED = "eval_execution_accuracy"


class Chooser(TrainerCallback):
    """Measures the adapter every `every` steps and at the end, and keeps the best one; of equal ones the later.

    `accuracy`, `val_loss` and `step` are of the best adapter so far; `seconds` went into measuring. All this lies in
    `folder`, and in each checkpoint: an interrupted training goes on with the best so far.
    """

    trainer: PackedTrainer

    def __init__(self, measure: Measure, every: int, checkpoints: Path) -> None:
        self.measure, self.every, self.folder = measure, every, checkpoints / FOLDER
        self.accuracy, self.val_loss, self.step, self.last, self.seconds = -1.0, 0.0, 0, 0, 0.0

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter."""
        return self.folder / ADAPTER

    def restore(self, checkpoint: Path | None) -> None:
        """Go on with what `checkpoint` knew; without one, from the beginning."""
        if is_first():
            shutil.rmtree(self.folder, ignore_errors=True)
            if checkpoint and (checkpoint / FOLDER).exists():
                shutil.copytree(checkpoint / FOLDER, self.folder)
        if checkpoint and (checkpoint / FOLDER).exists():
            vars(self).update(read_json(checkpoint / FOLDER / FACTS))

    def keep(self, checkpoint: Path) -> None:
        """Copy the best so far into a checkpoint that is being saved."""
        if self.folder.exists():
            shutil.copytree(self.folder, checkpoint / FOLDER, dirs_exist_ok=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        # What is logged here would count as the step's own log: the step's flags are handed on as they were.
        flags = copy.copy(control)
        if state.global_step % self.every == 0:
            self._assess(state.global_step)
        return flags

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.last != state.global_step:
            self._assess(state.global_step)

    def _assess(self, step: int) -> None:
        """Validation loss and execution accuracy of the adapter as it is; the random state is as before afterwards."""
        started = time.perf_counter()
        loss = self.trainer.evaluate()["eval_loss"]
        weights = self.trainer.adapter_weights()
        self.last = step
        if is_first():
            candidate = self.folder.with_name(f"{FOLDER}.new")
            save_adapter(self.trainer.model, candidate, weights)
            with same_random_state(), answering(self.trainer.model) as model:
                accuracy = self.measure(model)
            self.trainer.log({LOGGED: accuracy})
            print(f"train: step {step} answers {accuracy:.1%} of the questions right", file=sys.stderr, flush=True)
            if accuracy >= self.accuracy:
                self.accuracy, self.val_loss, self.step = accuracy, loss, step
                shutil.rmtree(self.adapter, ignore_errors=True)
                self.folder.mkdir(exist_ok=True)
                candidate.rename(self.adapter)
            self.seconds += time.perf_counter() - started
            facts = {name: getattr(self, name) for name in FIGURES}
            write_json(self.folder / FACTS, facts)
        self.trainer.accelerator.wait_for_everyone()


@contextmanager
def answering(trained: Any) -> Iterator[Any]:
    """The base model of the PEFT model `trained`, ready to answer: no dropout, and not the attention of packs.

    The adapters are not merged: the base weights stay as they are, and memory holds them once.
    """
    model = trained.get_base_model()
    attention, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
    trained.eval()
    try:
        yield model
    finally:
        forget_reordered(model)
        trained.train()
        model.config._attn_implementation = attention
