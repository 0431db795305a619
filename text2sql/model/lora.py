"""LoRA adapters: added as the `lora` group configures PEFT, and saved with the same bytes each time."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from text2sql.errors import UserError
from text2sql.files import read_json, write_text
from text2sql.model.adapter import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraOptions:
    """conf/lora: keys of PEFT's LoraConfig, handed on as they are. The defaults are for callers in Python."""

    r: Annotated[int, Ge(1)]
    lora_alpha: Annotated[float, Gt(0)]
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    # Those that leave the base weights as they are; pissa, olora and their like change them, and an adapter without the
    # changed base is another model.
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    layers_to_transform: list[int] | None = None


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
    """Save configuration and weights into `target`, with the same bytes for the same adapter.

    `weights` stand for the model's own, by the same names, where these are sharded over processes. PEFT keeps the names
    of layers as a set, whose order changes from process to process: the configuration is sorted. Whatever else PEFT
    saves (a model card's draft) is not kept.
    """
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(str(target), safe_serialization=True, state_dict=weights)
    config = read_json(target / CONFIG)
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = "models/base"
    write_text(target / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    for extra in set(target.iterdir()) - {target / CONFIG, target / WEIGHTS}:
        extra.unlink()
