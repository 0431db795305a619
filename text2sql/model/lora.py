"""LoRA as the `lora` group configures it: which layers get adapters, how they scale, how fast they learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.config import require
from text2sql.files import read_json, write_text

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

#: the files that are an adapter; whatever else PEFT saves beside them (a model card's draft) is not kept
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class LoraOptions:
    """conf/lora."""

    r: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    plus_ratio: float
    top_layers: int | None

    def __post_init__(self) -> None:
        require(self.r >= 1, "r must be 1 or more")
        require(self.alpha > 0, "alpha must be positive")
        require(0.0 <= self.dropout < 1.0, "dropout must be in [0, 1)")
        require(self.plus_ratio >= 1.0, "plus_ratio must be 1 (off) or more")
        require(self.top_layers is None or self.top_layers >= 1, "top_layers must be 1 or more, or null for all")


def add_adapter(model: PreTrainedModel, options: LoraOptions) -> PeftModel:
    """`model` with fresh trainable adapters in float32 on all linear layers of its blocks; the head has none."""
    import torch
    from peft import LoraConfig, get_peft_model

    blocks = model.config.num_hidden_layers
    top = None if options.top_layers is None else list(range(max(0, blocks - options.top_layers), blocks))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        use_rslora=options.rslora,
        use_dora=options.dora,
        target_modules=_linear_names(model),
        layers_to_transform=top,
        bias="none",
    )
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return adapted


def _linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all linear layers in the blocks: q_proj, ..., down_proj."""
    from torch import nn

    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return sorted({name.rpartition(".")[2] for name in linear if ".layers." in name})


def loraplus_groups(
    model: PeftModel, learning_rate: float, ratio: float, weight_decay: float
) -> list[dict[str, object]]:
    """Optimizer groups in which B matrices learn `ratio` times as fast as A matrices (LoRA+, Hayou et al. 2024)."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    fast = [parameter for name, parameter in named if "lora_B" in name]
    slow = [parameter for name, parameter in named if "lora_B" not in name]
    return [
        {"params": slow, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": fast, "lr": learning_rate * ratio, "weight_decay": weight_decay},
    ]


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
