"""`train.init`: a training goes on from another adapter's weights, and only from one that fits."""

import dataclasses
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from tests.bucket.conftest import commit, dvc
from tests.model.conftest import NF4, UNQUANTIZED
from tests.model.tiny_training import LORA, TRAIN, VALIDATION, recipe
from text2sql.config import compose, parse_yaml
from text2sql.errors import UserError
from text2sql.files import digest, write_json
from text2sql.model.initial import checksums, initial_adapter
from text2sql.model.lora import save_adapter
from text2sql.model.training import train
from text2sql.stage import validate
from text2sql.workspace import BASE, KEPT, RELEASE


@pytest.fixture(scope="module")
def adapter(whole_training):
    """An adapter that has learned a little."""
    return whole_training.adapter


def manifest(base_sha256, kind="mini", accuracy=0.5):
    params = {"data": {"source": {"kind": kind}}, "prompt": {"style": "ddl", "qualifiers": "tables"}}
    return {"made_of": {BASE.as_posix(): base_sha256}, "params": params, "score": {"execution_accuracy": accuracy}}


def put(adapter, target, *about):
    shutil.copytree(adapter, target)
    write_json(target / "manifest.json", manifest(*about))


@pytest.mark.parametrize("quantized", [False, True])
def test_training_goes_on_from_the_weights(whole_training, tiny_base, tmp_path, quantized):
    folder = whole_training.adapter
    options = recipe(NF4 if quantized else UNQUANTIZED, learning_rate=1e-12, epochs=1.0)
    trainer = train(options, tiny_base, TRAIN, VALIDATION, tmp_path, initial=folder)
    save_adapter(trainer.model, tmp_path / "adapter")
    before, after = (load_file(f / "adapter_model.safetensors") for f in (folder, tmp_path / "adapter"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    if not quantized:
        assert trainer.evaluate()["eval_loss"] == pytest.approx(whole_training.validation_loss, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        ({"r": 8}, "lora.r is 8, the adapter's 4", "-S 'lora.r=4'"),
        ({"lora_alpha": 4.0}, "lora.lora_alpha is 4.0, the adapter's 8.0", "-S 'lora.lora_alpha=8.0'"),
        ({"use_dora": True}, "lora.use_dora is True", "-S 'lora.use_dora=false'"),
        ({"target_modules": ["q_proj"]}, "lora.target_modules", "down_proj"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(adapter, tiny_base, tmp_path, change, said, remedy):
    options = recipe(lora=dataclasses.replace(LORA, **change))
    with pytest.raises(UserError, match=said) as error:
        train(options, tiny_base, TRAIN, VALIDATION, tmp_path, initial=adapter)
    assert remedy in error.value.remedy


def test_an_adapter_of_another_base_model_is_refused(adapter, tiny_base, tmp_path):
    put(adapter, tmp_path / "own", digest(tiny_base))
    put(adapter, tmp_path / "other", "0" * 64)
    with initial_adapter(str(tmp_path / "own"), tiny_base) as initial:
        assert checksums(initial) == checksums(adapter)
    with pytest.raises(UserError, match="another base model"), initial_adapter(str(tmp_path / "other"), tiny_base):
        pass
    with initial_adapter(None, tiny_base) as initial:
        assert checksums(initial) == {}


def test_an_adapter_from_before_its_form_was_recorded_is_refused(adapter, tiny_base, tmp_path, monkeypatch):
    """It learned aliases, which decoding refuses: taken for one of today's, it would go wrong in silence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    put(adapter, RELEASE, digest(tiny_base))
    about = manifest(digest(tiny_base))
    del about["params"]["prompt"]["qualifiers"]
    write_json(RELEASE / "manifest.json", about)
    with pytest.raises(UserError, match="aliases"), initial_adapter(str(RELEASE), tiny_base):
        pass
    with initial_adapter("auto", tiny_base) as initial:
        assert initial is None
    write_json(RELEASE / "manifest.json", [])
    with pytest.raises(UserError, match="no manifest"), initial_adapter(str(RELEASE), tiny_base):
        pass


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({}, None),
        ({"release": ("mini", 0.1), "kept": ("mini", 0.9)}, "release"),
        ({"release": ("custom", 0.9), "kept": ("mini", 0.1), "kept too": ("spider", 0.2)}, "kept too"),
        ({"release": ("custom", 0.9)}, None),
    ],
)
def test_auto_takes_the_release_unless_it_learned_a_database_of_ones_own(
    adapter, tiny_base, tmp_path, monkeypatch, there, taken
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folders = {name: RELEASE if name == "release" else KEPT / name for name in there}
    for name, about in there.items():
        put(adapter, folders[name], digest(tiny_base), *about)
    put(adapter, KEPT / "of another base model", "0" * 64, "mini", 1.0)
    with initial_adapter("auto", tiny_base) as initial:
        assert (initial and initial.resolve()) == (taken and folders[taken].resolve())


def test_the_release_of_a_commit(adapter, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    put(adapter, RELEASE, digest(tiny_base))
    subprocess.run(["git", "init", "-q"], check=True)
    for command in (["init", "-q"], ["add", "-q", str(RELEASE)]):
        assert dvc(tmp_path, *command) == 0
    commit(tmp_path, "one")
    shutil.rmtree(RELEASE)
    with initial_adapter("git:HEAD", tiny_base) as initial:
        assert checksums(initial) == checksums(adapter)
    with pytest.raises(UserError, match="no such revision"), initial_adapter("git:nowhere", tiny_base):
        pass


@pytest.mark.parametrize("name", ["models/nowhere", "git:", "git:--exec=x", "models:/name", "hub/name"])
def test_what_names_no_adapter_is_refused_at_once(name):
    with pytest.raises(ValueError, match="init is"):
        recipe(init=name)


def test_a_folder_of_another_rank_is_refused_by_the_first_stage(adapter):
    params = parse_yaml(compose(["model=tiny"]))
    params["train"]["init"] = str(adapter)
    params["lora"] |= {"r": 4, "lora_alpha": 8.0}
    validate(params)
    params["lora"]["r"] = 16
    with pytest.raises(UserError, match=r"lora\.r is 16, the adapter's 4"):
        validate(params)
