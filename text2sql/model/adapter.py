"""A LoRA adapter's files, checked before PEFT reads them: an adapter may come from anybody.

PEFT compiles `target_modules` and the like as regular expressions, which may take for ever to match; weights that are
not numbers turn every answer into nonsense without an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: larger ones are no configuration
LARGEST_CONFIG = 1_000_000
#: keys whose text, list or keys PEFT takes for regular expressions
EXPRESSIONS = (
    "target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "target_parameters", "rank_pattern",
    "alpha_pattern",
)  # fmt: skip
NAME = re.compile(r"[\w.-]+")


def check_adapter(folder: Path) -> None:
    """Refuse an adapter that PEFT cannot load, or should not.

    Raises:
        UserError: a file is missing or broken, names modules by a regular expression, or a weight is not finite.
    """
    if not (folder / CONFIG).exists():
        remedy = "run `dvc repro train`, name a folder that has one, or predict without: predict.zero_shot=true"
        raise UserError(f"there is no adapter in {folder}", remedy)
    _check_config(folder / CONFIG)
    _check_weights(folder / WEIGHTS)


def check_form(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse an adapter from before its manifest recorded the form of the answers.

    Raises:
        UserError: `prompt.qualifiers` is not recorded: the adapter learned aliases, which are not written any more.
    """
    if "qualifiers" not in manifest.get("params", {}).get("prompt", {"qualifiers"}):
        what = f"the adapter in {folder} learned answers with aliases of tables, which constrained decoding refuses"
        raise UserError(what, "train again (`dvc repro`), or use the version of this package that it was made with")


def _check_config(path: Path) -> None:
    if path.stat().st_size > LARGEST_CONFIG:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes", "it is no configuration of PEFT: restore it")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{path} is not the configuration of a LoRA adapter", "restore it, or train again")
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"{path}: r is {rank!r}, which is no rank", "restore it, or train again")
    for key in EXPRESSIONS:
        value = config.get(key) or ()
        for name in [value] if isinstance(value, str) else value:
            if not NAME.fullmatch(str(name)):
                what = f"{path}: {key} has the regular expression {str(name)[:40]!r}, which is not evaluated"
                raise UserError(what, "name the modules")


def _check_weights(path: Path) -> None:
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise UserError(f"{path.parent} has no {WEIGHTS}", "pickled weights are not read")
    try:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dict)
                if not torch.isfinite(weights.get_tensor(name)).all():
                    raise UserError(f"{path}: {name} has values that are not finite", "restore it, or train again")
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}", "restore it (`dvc checkout`), or train again") from None
