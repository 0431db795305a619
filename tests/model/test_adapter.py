"""An adapter that is broken or hostile is refused in a sentence, before PEFT reads it."""

import json

import pytest

from text2sql.errors import UserError
from text2sql.model.adapter import CONFIG, WEIGHTS, check_adapter

GOOD = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {}}


def make(folder, value=1.0, **changes):
    import torch
    from safetensors.torch import save_file

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
