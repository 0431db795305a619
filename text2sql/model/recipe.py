"""What decides an adapter: the options of training. Apart from text2sql.model.training, which takes seconds to import,
because every stage checks them before it starts (text2sql/stage.py)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from text2sql.config import read_seed, require, section
from text2sql.files import require_apart
from text2sql.model.adapter import CONFIG
from text2sql.model.base import QuantizationOptions
from text2sql.model.initial import check_shape, folder_of, is_folder
from text2sql.model.lora import LoraOptions
from text2sql.workspace import ADAPTER


@dataclass(frozen=True)
class TrainOptions:
    """conf/train."""

    epochs: Annotated[float, Gt(0)]
    learning_rate: Annotated[float, Gt(0)]
    schedule: Literal["cosine", "linear", "constant"]
    warmup: Annotated[float, Ge(0), Lt(1)]
    weight_decay: float
    max_grad_norm: float
    batch_size: Annotated[int, Ge(1)]
    pack_size: Annotated[int, Ge(1)]
    pack_tokens: int | Literal["auto"]
    max_length: Annotated[int, Ge(8)]
    max_left_out: Annotated[float, Ge(0), Le(1)]
    optimizer: str
    gradient_checkpointing: bool | Literal["auto"]
    log_every: Annotated[int, Ge(1)]
    evaluate_every: Annotated[float, Ge(0)]
    save_every: Annotated[int, Ge(1)]
    checkpoint_copy: str | None
    explosion: Annotated[float, Gt(1)]
    processes: Annotated[int, Ge(1)]
    fsdp: bool
    price_per_hour: float
    # The defaults are for callers in Python.
    init: str | None = None
    choose_every: Annotated[float, Ge(0)] = 0
    choose_questions: Annotated[int, Ge(1)] = 200
    shuffle_tables: bool = False

    def __post_init__(self) -> None:
        require(self.pack_tokens == "auto" or self.pack_tokens >= 1, "pack_tokens must be auto, or 1 or more")
        for name in ("evaluate_every", "choose_every"):
            every = getattr(self, name)
            require(every < 1 or every == int(every), f"{name} must be whole steps, or a share under 1")
        known = self.init is None or not is_folder(self.init) or (folder_of(self.init) / CONFIG).exists()
        require(known, f"init is {self.init}, which is no folder of an adapter, auto, models:/NAME@ALIAS or git:REV")
        require(not self.fsdp or self.processes > 1, "fsdp needs processes: 2 or more")
        require(not (self.fsdp and self.choose_every), "choose_every needs a whole model: not with fsdp")


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
        require_apart("train.init", folder_of(train.init), ADAPTER)
        check_shape(folder_of(train.init), asdict(lora), f"train.init={train.init}")
    return Recipe(read_seed(params), section(QuantizationOptions, "quantization", params), lora, train)
