"""What decides an adapter: the options of training. Apart from text2sql.model.training, which takes seconds to import,
because every stage checks them before it starts (text2sql/stage.py)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from text2sql.config import read_seed, require, section
from text2sql.model.adapter import CONFIG
from text2sql.model.base import QuantizationOptions
from text2sql.model.initial import check_shape, folder_of, is_folder
from text2sql.model.lora import LoraOptions


@dataclass(frozen=True)
class TrainOptions:
    """conf/train."""

    epochs: float
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup: float
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    pack_size: int
    pack_tokens: int | Literal["auto"]
    max_length: int
    max_left_out: float
    optimizer: str
    gradient_checkpointing: bool | Literal["auto"]
    log_every: int
    evaluate_every: float
    save_every: int
    checkpoint_copy: str | None
    explosion: float
    processes: int
    fsdp: bool
    price_per_hour: float
    # The defaults are for callers in Python.
    init: str | None = None
    choose_every: float = 0
    choose_questions: int = 200

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs must be positive")
        require(self.learning_rate > 0, "learning_rate must be positive")
        require(0 <= self.warmup < 1, "warmup must be a share of the steps, in [0, 1)")
        require(self.batch_size >= 1, "batch_size must be 1 or more")
        require(self.pack_size >= 1, "pack_size must be 1 or more")
        require(self.pack_tokens == "auto" or self.pack_tokens >= 1, "pack_tokens must be auto, or 1 or more")
        require(self.max_length >= 8, "max_length must be 8 or more")
        require(0 <= self.max_left_out <= 1, "max_left_out must be a share, in [0, 1]")
        require(self.log_every >= 1, "log_every must be 1 or more")
        for name in ("evaluate_every", "choose_every"):
            every = getattr(self, name)
            require(
                every >= 0 and (every < 1 or every == int(every)), f"{name} must be whole steps, or a share under 1"
            )
        require(self.choose_questions >= 1, "choose_questions must be 1 or more")
        require(self.save_every >= 1, "save_every must be 1 or more")
        require(self.explosion > 1, "explosion must be over 1")
        require(self.processes >= 1, "processes must be 1 or more")
        known = self.init is None or not is_folder(self.init) or (folder_of(self.init) / CONFIG).exists()
        require(known, f"init is {self.init}, which is no folder of an adapter, auto, models:/NAME@ALIAS or git:REV")
        require(not self.fsdp or self.processes > 1, "fsdp needs processes: 2 or more")


def steps_between(every: float, steps: int) -> int:
    """`train.evaluate_every` or `train.choose_every` in steps; under 1 it is a share of all `steps`.

    >>> [steps_between(every, 10) for every in (0.25, 4, 0.001)]
    [3, 4, 1]
    """
    return math.ceil(every * steps) if every < 1 else int(every)


@dataclass(frozen=True)
class Recipe:
    """All options that decide an adapter."""

    seed: int
    quantization: QuantizationOptions
    lora: LoraOptions
    train: TrainOptions


def read_recipe(params: dict[str, Any]) -> Recipe:
    """The recipe of params.yaml.

    Raises:
        UserError: a value is missing, of the wrong type, or impossible.
    """
    lora, train = section(LoraOptions, "lora", params), section(TrainOptions, "train", params)
    if train.init and is_folder(train.init):
        check_shape(folder_of(train.init), asdict(lora), f"train.init={train.init}")
    return Recipe(read_seed(params), section(QuantizationOptions, "quantization", params), lora, train)
