"""Publishing: what goes up, what is refused, and an upload that was cut off goes on."""

import ast
import json
import re
import sys

import pytest
from huggingface_hub import HfApi, ModelCard
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.fake_hub import fake_hub
from tests.release.test_card import METRICS, params
from text2sql.cli import app
from text2sql.errors import UserError
from text2sql.files import sha256_tree, write_json, write_text
from text2sql.release.card import render_card
from text2sql.release.publish import ROOT, SPACE, listing, model_files, space_files, upload

SCORE = {k: METRICS["score"][k] for k in ("n", "execution_accuracy", "execution_accuracy_strict", "valid_sql")}


@pytest.fixture
def release(tmp_path):
    """A folder as `stages.release` leaves it, and the metrics of its run beside it."""
    import numpy

    folder = tmp_path / "release"
    folder.mkdir()
    save_file({"lora_A": numpy.zeros((16, 64), numpy.float32)}, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "models/base", "r": 16})
    write_json(folder / "tokenizer.json", {})
    metrics = {k: METRICS[k] for k in ("split", "score")}
    write_text(folder / "README.md", render_card(metrics, params()))
    manifest = {"files": sha256_tree(folder), "made_of": {}, "params": params(), "score": SCORE}
    write_json(folder / "manifest.json", manifest)
    for name, value in METRICS.items():
        write_json(tmp_path / "metrics" / f"{name}.json", value)
    return folder


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with fake_hub() as hub:
        yield hub


def files_of(release):
    # a missing metrics folder leaves the released card
    return model_files(release, "me/shop", release.parent / "nowhere")


def test_a_release_goes_up_whole(release, hub):
    files = files_of(release)
    address = upload("me/shop", files, api=HfApi(hub.url, token="hf_writer"))
    there = hub.repositories["models/me/shop"]
    assert address == f"{hub.url}/me/shop"
    assert sorted(there) == sorted(name for name, _ in listing(files))
    assert there["adapter_model.safetensors"] == (release / "adapter_model.safetensors").read_bytes()
    config = json.loads(there["adapter_config.json"])
    assert config == {"base_model_name_or_path": "Qwen/Qwen2.5-Coder-0.5B-Instruct", "r": 16}


def test_the_published_card_has_hardware_and_place(release):
    data = model_files(release, "me/shop", release.parent / "metrics")["README.md"].decode()
    assert "cpu, float32" in data
    assert 'name = "me/shop"' in data
    assert ModelCard(data).data.license == "apache-2.0"


def test_an_edited_card_stays(release):
    edited = (release / "README.md").read_text() + "\nA word of our own.\n"
    write_text(release / "README.md", edited)
    kept = model_files(release, "me/shop", release.parent / "metrics")["README.md"]
    assert kept.read_text() == edited


def test_repeating_uploads_only_what_is_missing(release, hub):
    files = files_of(release)
    api = HfApi(hub.url, token="hf_writer")
    hub.fail_next = "/commit/"
    with pytest.raises(UserError, match="repeat the command to go on"):
        upload("me/shop", files, api=api)
    assert hub.repositories["models/me/shop"] == {}
    upload("me/shop", files, api=api)
    assert len(hub.stored) == 1, "the weights went up once"
    assert set(hub.repositories["models/me/shop"]) == set(files)


def drop(name):
    return lambda folder: (folder / name).unlink()


def rewrite(old, new):
    def change(folder):
        path = folder / "README.md"
        write_text(path, path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("README.md"), "has no README.md"),
        (drop("adapter_model.safetensors"), "has no adapter_model.safetensors"),
        (drop("tokenizer.json"), "has no tokenizer.json"),
        (lambda f: (f / "optimizer.pt").write_bytes(b""), "optimizer.pt is not safetensors"),
        (lambda f: (f / "adapter_model.bin").write_bytes(b""), "adapter_model.bin is not safetensors"),
        (rewrite("license: apache-2.0\n", ""), "states no licence"),
        (rewrite("base_model: Qwen/Qwen2.5-Coder-0.5B-Instruct\n", ""), "names no base model"),
        (rewrite("- type: execution_accuracy", "- type: rouge"), "states no execution accuracy"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"other"), "is not the file that was scored"),
    ],
)
def test_refused(release, change, said):
    change(release)
    with pytest.raises(UserError, match=said):
        files_of(release)


def test_no_release(tmp_path):
    with pytest.raises(UserError, match="dvc repro release"):
        model_files(tmp_path / "none", "me/shop")


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("me/shop", False, "no token"),
        ("me/shop", "hf_wrong", "does not accept the token"),
        ("me/shop", "hf_reader", "may not write to me/shop"),
        ("shop", "hf_writer", "give it as user/name"),
        ("me/sh op", "hf_writer", "give it as user/name"),
    ],
)
def test_the_hub_refuses(release, hub, monkeypatch, repo, token, said):
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(UserError, match=said) as error:
        upload(repo, files_of(release), api=HfApi(hub.url, token=token or None))
    assert "hf_" not in str(error.value)


def test_the_hub_is_not_there(release):
    with pytest.raises(UserError, match="broke off"):
        upload("me/shop", files_of(release), api=HfApi("http://127.0.0.1:9", token="hf_writer"))


def test_dry_run_lists_and_uploads_nothing(release, hub, monkeypatch):
    monkeypatch.chdir(release.parent.parent)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    shown = CliRunner().invoke(app, ["publish", "--repo", "me/shop", "--release", str(release), "--dry-run"])
    assert shown.exit_code == 0, shown.output
    for name, _ in listing(files_of(release)):
        assert name in shown.output
    assert hub.repositories == {}


@pytest.mark.parametrize("words", [[], ["--space"]])
@pytest.mark.parametrize("repo", ["shop", "me/sh op", "me/a/b"])
def test_dry_run_refuses_what_is_no_name(release, repo, words):
    shown = CliRunner().invoke(app, ["publish", "--repo", repo, "--release", str(release), "--dry-run", *words])
    assert "give it as user/name" in str(shown.exception)
    assert not shown.output


def test_the_demo_goes_up_as_a_space(hub):
    files = space_files("me/shop")
    upload("me/shop", files, repo_type="space", api=HfApi(hub.url, token="hf_writer"))
    there = hub.repositories["spaces/me/shop"]
    header = ModelCard(there["README.md"].decode()).data.to_dict()
    assert header["sdk"] == "gradio"
    assert header["models"] == ["me/shop"]
    assert header["app_file"] in there
    assert {"requirements.txt", "app/demo.py", "app/style.css", "text2sql/ask/engine.py"} <= set(there)


def test_the_space_pins_what_the_lock_pins():
    wanted = (SPACE / "requirements.txt").read_text().splitlines()[1:]
    locked = (ROOT / "requirements.lock").read_text()
    for line in wanted:
        assert f"\n{line.replace('[binary]', '')} " in f"\n{locked}", line


@pytest.mark.parametrize("module", ["sources", "wheels", "gguf_weights"])
def test_the_space_can_obtain_the_base_model(module):
    wanted = {re.split(r"[=\[]", line)[0] for line in (SPACE / "requirements.txt").read_text().splitlines()[1:]}
    tree = ast.parse((ROOT / f"text2sql/model/{module}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or node.names[0].name for node in imports]
    packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"text2sql"}
    assert packages <= wanted | {"numpy", "huggingface_hub", "tokenizers"}  # which transformers brings along
