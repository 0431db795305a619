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
from text2sql.model.adapter import WEIGHTS
from text2sql.model.device import pick_device, pick_dtype

if TYPE_CHECKING:
    from peft import PeftModel
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
    return model if adapter is None else with_adapter(model, adapter, path).eval()


def with_adapter(model: PreTrainedModel, adapter: Path, base: Path) -> PeftModel:
    """`model`, which is the one in the folder `base`, with the adapter in a folder, frozen.

    Raises:
        UserError: the adapter is for other layers, has other shapes, or lacks weights, of which PEFT only warns.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        adapted = PeftModel.from_pretrained(model, adapter, is_trainable=False)
        with safe_open(adapter / WEIGHTS, "pt") as weights:
            fits = set(weights.keys()) == set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    except (RuntimeError, ValueError) as error:
        if not ("size mismatch" in str(error) or "not found in the base" in str(error)):
            raise
        fits = False
    if not fits:
        remedy = "`dvc checkout models` brings both back; or train one for it: `dvc repro train`"
        raise UserError(f"the adapter in {adapter} was not trained on the base model in {base}", remedy)
    return adapted


def quiet() -> None:
    """No progress bars of loading and saving in logs that nobody watches."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _check_exists(path: Path) -> None:
    if not (path / "config.json").exists():
        raise UserError(f"there is no model in {path}", "run `dvc repro base_model`, which makes it")
