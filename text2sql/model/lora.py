"""LoRA adapters: added as the `lora` group configures PEFT, and saved with the same bytes each time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.files import read_json, write_text

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

#: the files that are an adapter; whatever else PEFT saves beside them (a model card's draft) is not kept
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class LoraOptions:
    """conf/lora: keys of PEFT's LoraConfig, handed on as they are. The defaults are for callers in Python."""

    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    target_modules: str | list[str] = "all-linear"
    layers_to_transform: list[int] | None = None

    def __post_init__(self) -> None:
        require(self.r >= 1, "r must be 1 or more")
        require(self.lora_alpha > 0, "lora_alpha must be positive")
        require(0.0 <= self.lora_dropout < 1.0, "lora_dropout must be in [0, 1)")


def add_adapter(model: PreTrainedModel, options: LoraOptions) -> PeftModel:
    """`model` with fresh trainable adapters in float32.

    Raises:
        UserError: PEFT refuses the options for this model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    try:
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", bias="none", **asdict(options)))
    except (ValueError, KeyError) as error:
        raise UserError(f"PEFT refuses conf/lora: {error}", "see the keys of conf/lora/default.yaml") from None
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return adapted


def save_adapter(model: PeftModel, target: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save `FILES` into `target`, with the same bytes for the same adapter.

    `weights` stand for the model's own, by the same names, where these are sharded over processes.

    PEFT keeps the names of layers as a set, whose order changes from process to process: the configuration is sorted.
    """
    import json
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(str(target), safe_serialization=True, state_dict=weights)
    config = read_json(target / FILES[0])
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = "models/base"
    write_text(target / FILES[0], json.dumps(config, indent=2, sort_keys=True) + "\n")
    for extra in set(target.iterdir()) - {target / name for name in FILES}:
        extra.unlink()
