"""The base model as it is loaded: tokenizer and weights of models/base, in one precision for all who use them.

text2sql/model/sources.py makes the folder. Nothing is ever unpickled and no code of a model's repository is run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.model.device import pick_device, pick_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class QuantizationOptions:
    """conf/quantization. `bits` null: the base model keeps its precision."""

    bits: int | None
    type: Literal["nf4", "fp4"] | None
    double: bool
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"]

    def __post_init__(self) -> None:
        require(self.bits in (None, 4), "bits must be 4, or null for none")
        require(self.bits is None or self.type is not None, "type is needed with bits: 4")


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder made by `obtain`.

    Raises:
        UserError: the folder is missing, or its tokenizer has no EOS.
    """
    from transformers import AutoTokenizer

    _check_exists(path)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {path} has no EOS token", "an answer could never end: use another model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: Path,
    quantization: QuantizationOptions,
    adapter: Path | None = None,
    device: str | None = None,
    sharded: bool = False,
) -> PreTrainedModel:
    """The base model of a folder made by `obtain`, quantized as configured, on `device` (default: `pick_device`).

    `sharded` stores 4-bit weights in the compute dtype, which FSDP needs in order to shard them. With `adapter` it is a
    PEFT model with that adapter, frozen, its weights in float32.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _check_exists(path)
    quiet()
    device = device or pick_device()
    dtype = pick_dtype(quantization, device)
    config = None
    if quantization.bits == 4:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.type,
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
        )
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        quantization_config=config,
        device_map={"": device},
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
    )
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, is_trainable=False).eval()


def quiet() -> None:
    """No progress bars of loading and saving in logs that nobody watches."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _check_exists(path: Path) -> None:
    if not (path / "config.json").exists():
        raise UserError(f"there is no model in {path}", "run `dvc repro base_model`, which makes it")
