"""What is released where the base model was scored without the adapter."""

import pytest

from stages import release
from text2sql.files import read_json, write_json, write_text
from text2sql.workspace import ADAPTER, METRICS, RELEASE

PARAMS = {
    "data": {"name": "mini", "source": {"kind": "mini"}},
    "model": {"name": "tiny"},
    "predict": {"zero_shot": True},
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(ADAPTER / "adapter_model.safetensors", "weights")
    write_text(ADAPTER / "README.md", "PEFT's card")
    for name in ("source", "split", "prompts", "score"):
        write_json(METRICS / f"{name}.json", {"execution_accuracy": 0.66, "n": 50})
    monkeypatch.setattr(release, "read_params", dict)
    monkeypatch.setattr(release, "read_options", lambda _: PARAMS)
    monkeypatch.setattr(release, "record", lambda: None)
    monkeypatch.setattr("text2sql.release.manifest.INPUTS", ())
    return tmp_path


def test_the_base_models_score_is_not_the_adapters(workspace):
    before = {"files": {}, "params": PARAMS, "score": {"execution_accuracy": 0.88, "n": 50}}
    write_json(RELEASE / "manifest.json", before)
    assert "stays as it was" in release.main()
    assert read_json(RELEASE / "manifest.json") == before


def test_an_adapter_is_released_without_a_score_that_it_lacks(workspace):
    assert release.main().startswith("tiny trained on mini: models/release/")
    manifest = read_json(RELEASE / "manifest.json")
    assert (manifest["score"], manifest["confidence"]) == ({}, None)
    assert not (RELEASE / "README.md").exists()
    assert set(manifest["files"]) == {"adapter_model.safetensors"}
