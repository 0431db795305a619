"""What decides an adapter: the options of training. Apart from text2sql.model.training, which takes seconds to import,
because every stage checks them before it starts (text2sql/stage.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from text2sql.config import read_seed, require, section
from text2sql.model.base import QuantizationOptions
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
    pack_tokens: int
    max_length: int
    max_left_out: float
    optimizer: str
    gradient_checkpointing: bool | Literal["auto"]
    log_every: int
    evaluate_every: int
    save_every: int
    checkpoint_copy: str | None
    explosion: float
    processes: int
    fsdp: bool
    price_per_hour: float

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs must be positive")
        require(self.learning_rate > 0, "learning_rate must be positive")
        require(0 <= self.warmup < 1, "warmup must be a share of the steps, in [0, 1)")
        require(self.batch_size >= 1, "batch_size must be 1 or more")
        require(self.pack_size >= 1, "pack_size must be 1 or more")
        require(self.pack_tokens >= 1, "pack_tokens must be 1 or more")
        require(self.max_length >= 8, "max_length must be 8 or more")
        require(0 <= self.max_left_out <= 1, "max_left_out must be a share, in [0, 1]")
        require(self.log_every >= 1, "log_every must be 1 or more")
        require(self.evaluate_every >= 0, "evaluate_every must be 0 or more")
        require(self.save_every >= 1, "save_every must be 1 or more")
        require(self.explosion > 1, "explosion must be over 1")
        require(self.processes >= 1, "processes must be 1 or more")
        require(not self.fsdp or self.processes > 1, "fsdp needs processes: 2 or more")


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
    return Recipe(
        read_seed(params),
        section(QuantizationOptions, "quantization", params),
        section(LoraOptions, "lora", params),
        section(TrainOptions, "train", params),
    )
