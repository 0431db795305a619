"""An adapter that is broken or hostile is refused in a sentence, before PEFT reads it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.conftest import NF4, UNQUANTIZED
from text2sql.errors import UserError
from text2sql.files import read_json, write_json
from text2sql.model.adapter import CONFIG, WEIGHTS, check_adapter
from text2sql.model.base import load_model
from text2sql.model.inference import load_for_inference

GOOD = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {}}


def make(folder, value=1.0, **changes):
    (folder / CONFIG).write_text(json.dumps(GOOD | changes))
    save_file({"a": torch.ones(4, 4), "b": torch.full((4,), value)}, folder / WEIGHTS)


@pytest.mark.parametrize("changes", [{}, {"target_modules": "all-linear"}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_is_accepted(tmp_path, changes):
    make(tmp_path, **changes)
    check_adapter(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    make(tmp_path, value)
    with pytest.raises(UserError, match="b has values that are not finite"):
        check_adapter(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "(a+)+$"},
        {"target_modules": ["(.*)*q"]},
        {"exclude_modules": "(a|a)*b"},
        {"layers_pattern": "(x*)*"},
        {"rank_pattern": {"(a+)+": 4}},
        {"alpha_pattern": {".*": 4}},
        {"peft_type": "IA3"},
        {"r": 0},
        {"r": "many"},
    ],
)
def test_a_configuration_that_is_refused(tmp_path, changes):
    make(tmp_path, **changes)
    with pytest.raises(UserError, match=r"regular expression|LoRA|no rank"):
        check_adapter(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (CONFIG, b"", "not valid JSON"),
        (CONFIG, b"[1]", "not the configuration"),
        (CONFIG, b"\xff\xfe", "not valid JSON"),
        (CONFIG, b"[" * 100_000, "not valid JSON"),
        (CONFIG, b'{"a": "' + b"x" * 2_000_000 + b'"}', "no configuration"),
        (WEIGHTS, b"", "damaged"),
        (WEIGHTS, b"garbage" * 1000, "damaged"),
        (WEIGHTS, None, "damaged"),  # cut in the middle
    ],
)
def test_broken_files(tmp_path, name, content, said):
    make(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(UserError, match=said):
        check_adapter(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_files(tmp_path, name):
    make(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match="adapter"):
        check_adapter(tmp_path)


def without_a_weight(weights, config):
    weights.pop(sorted(weights)[0])


def with_another_name(weights, config):
    name = sorted(weights)[0]
    weights[name.replace("layers.0", "layers.9")] = weights.pop(name)


def of_another_size(weights, config):
    weights.update({name: torch.zeros(weight.shape[0], weight.shape[1] + 1) for name, weight in weights.items()})


def of_another_rank(weights, config):
    config["r"] *= 2


def of_other_layers(weights, config):
    config["target_modules"] = ["no_such_layer"]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    "change", [without_a_weight, with_another_name, of_another_size, of_another_rank, of_other_layers]
)
def test_an_adapter_that_does_not_fit_the_base_model(whole_training, tiny_base, tmp_path, change, quantized):
    """PEFT only warns of weights that are missing, and answers without them."""
    shutil.copytree(whole_training.adapter, tmp_path, dirs_exist_ok=True)
    weights, config = load_file(tmp_path / WEIGHTS), read_json(tmp_path / CONFIG)
    change(weights, config)
    save_file(weights, tmp_path / WEIGHTS)
    write_json(tmp_path / CONFIG, config)
    load = load_model if quantized else load_for_inference
    with pytest.raises(UserError, match="was not trained on the base model"):
        load(tiny_base, NF4 if quantized else UNQUANTIZED, tmp_path)


def test_an_adapter_that_fits(whole_training, tiny_base):
    load_for_inference(tiny_base, UNQUANTIZED, whole_training.adapter)
