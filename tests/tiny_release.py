"""A release of the tiny model, made in seconds: random weights, a real adapter, a real manifest."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from text2sql.config import compose, typed
from text2sql.files import digest, sha256_tree, write_json
from text2sql.model.base import QuantizationOptions, load_model
from text2sql.model.sources import ModelOptions, obtain

PARAMS = ("model=tiny", "quantization=none", "predict.max_new_tokens=16")


def tiny_params() -> dict:
    return yaml.safe_load(compose(list(PARAMS)))


def make_release(root: Path, rank: int = 4) -> Path:
    """`root`/models/{base,release} and params.yaml, as the pipeline leaves them; returns the release."""
    import peft
    import torch

    params = tiny_params()
    base, release = root / "models/base", root / "models/release"
    obtain(typed(ModelOptions, params["model"], "model"), base)
    plain = load_model(base, typed(QuantizationOptions, params["quantization"], "quantization"))
    config = peft.LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same adapter each time, whatever ran before
        adapted = peft.get_peft_model(plain, config)
    adapted.save_pretrained(release)
    made_of = {"models/base": digest(base)}
    write_json(release / "manifest.json", {"files": sha256_tree(release), "made_of": made_of, "params": params})
    (root / "params.yaml").write_text(json.dumps(params))  # JSON is YAML
    return release
