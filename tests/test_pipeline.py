"""The whole pipeline, stage by stage, with the tiny model in an empty folder: every contract file with its keys."""

import csv
import importlib
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import SHOP, write_layout
from text2sql.config import CONF, compose
from text2sql.data.mini.domain import load_folder
from text2sql.files import read_json, read_jsonl, sha256_tree
from text2sql.stage import stage_names

ROOT = Path(__file__).resolve().parents[1]
STATUSES = {"verified", "verified_ties", "unverifiable", "invalid_source", "missing_database", "rejected"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder after all stages, and what each said at its end."""
    folder = tmp_path_factory.mktemp("pipeline")
    names = _in_folder(ROOT, stage_names)
    chosen = ["experiment=tiny", "tracking=none", "train.choose_every=0.5", "train.choose_questions=3"]
    (folder / "params.yaml").write_text(compose(chosen, ROOT / CONF))
    said = {name: _in_folder(folder, importlib.import_module(f"stages.{name}").main) for name in names}
    return folder, said


def _in_folder(folder, function):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        # A third of the domains: all of them go through the stages in .ci/run.
        patch.setattr("text2sql.data.mini.dataset.load_folder", lambda name: load_folder(name)[:12])
        return function()


def test_every_stage_says_what_it_made(finished):
    _, said = finished
    assert len(said) == 11
    assert all(said.values())


JSONL = {
    "data/postgres/examples.jsonl": "id db_id question sqlite postgres status reason hardness",
    "data/splits/train.jsonl": "id db_id question sql hardness",
    "data/splits/val.jsonl": "id db_id question sql hardness",
    "data/splits/test.jsonl": "id db_id question sql hardness",
    "data/prompts/train.jsonl": "id db_id prompt completion",
    "data/prompts/test.jsonl": "id db_id prompt completion",
    "data/predictions/test.jsonl": "id db_id question gold predicted tokens log_probability",
    "data/predictions/val.jsonl": "id db_id question gold predicted tokens log_probability",
    "data/predictions/verdicts.jsonl": "id db_id question gold predicted "
    "verdict_strict verdict_suite reason milliseconds",
}
JSON = {
    "metrics/convert.json": "status by_split convertible verified_rate rejected_rate seconds",
    "metrics/train.json": "train_loss val_loss examples tokens examples_per_second tokens_per_second "
    "trainable_parameters total_parameters peak_memory_bytes seconds device dtype",
    "metrics/score.json": "n execution_accuracy execution_accuracy_strict valid_sql by_hardness ci95 excluded",
    "models/release/manifest.json": "files made_of code params score confidence",
}


@pytest.mark.parametrize(("name", "keys"), JSONL.items())
def test_lines_have_the_keys_of_the_contract(finished, name, keys):
    rows = list(read_jsonl(finished[0] / name))
    assert rows
    for row in rows:
        assert set(keys.split()) <= set(row)


@pytest.mark.parametrize(("name", "keys"), JSON.items())
def test_metrics_have_the_keys_of_the_contract(finished, name, keys):
    assert set(keys.split()) <= set(read_json(finished[0] / name))


def test_no_example_is_lost(finished):
    folder, _ = finished
    source = [
        row
        for stem in ("train_spider", "train_others", "dev")
        for row in read_json(folder / f"data/source/{stem}.json")
    ]
    converted = list(read_jsonl(folder / "data/postgres/examples.jsonl"))
    assert [(r["db_id"], r["question"], r["sqlite"]) for r in converted] == [
        (r["db_id"], r["question"], r["query"]) for r in source
    ]
    assert {r["status"] for r in converted} <= STATUSES
    ids = [row["id"] for row in read_jsonl(folder / "data/splits/test.jsonl")]
    assert [row["id"] for row in read_jsonl(folder / "data/predictions/test.jsonl")] == ids


def test_the_release_is_what_its_manifest_says(finished):
    release = finished[0] / "models/release"
    files = read_json(release / "manifest.json")["files"]
    assert files == {k: v for k, v in sha256_tree(release).items() if k != "manifest.json"}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)


def test_plots_are_there(finished):
    loss = (finished[0] / "metrics/plots/loss.csv").read_text().splitlines()
    assert loss[0] == "step,train_loss,val_loss,val_execution_accuracy"
    assert len(loss) > 2


def test_the_adapter_learned_something_in_its_few_steps(finished):
    """Random weights cannot answer, but the loss on the training answers must fall."""
    lines = (finished[0] / "metrics/plots/loss.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[1]) for line in lines if line.split(",")[1]]
    assert losses[-1] < losses[0]


def test_the_adapter_that_answers_best(finished):
    """Measured on validation questions, in the sandbox, while it is trained."""
    folder, said = finished
    figures = read_json(folder / "metrics/train.json")
    with (folder / "metrics/plots/loss.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["val_execution_accuracy"]]
    # Random weights answer nothing: the accuracies are equal, and the last adapter is kept.
    assert [int(row["step"]) for row in rows] == [math.ceil(figures["steps"] / 2), figures["steps"]]
    assert {row["val_execution_accuracy"] for row in rows} == {"0.0"}
    assert (figures["val_execution_accuracy"], figures["chosen_step"]) == (0.0, figures["steps"])
    assert 0 < figures["choose_seconds"] < figures["seconds"]
    assert f"0.0% answered right at step {figures['steps']}" in said["train"]
    assert not list((folder / "checkpoints").glob("*"))


def test_a_second_run_makes_the_same_bytes(finished):
    """The data stages again, in place: what dvc.lock pins must not change."""
    folder, _ = finished
    pinned = ["source", "databases", "convert", "split", "prompts"]
    before = {name: sha256_tree(folder / "data" / name) for name in ("source", "postgres", "splits", "prompts")}
    for name in pinned:
        _in_folder(folder, importlib.import_module(f"stages.{name}").main)
    assert before == {name: sha256_tree(folder / "data" / name) for name in before}


def test_an_archive_and_the_embedded_domains(tmp_path):
    """Questions of the embedded domains are trained on among an archive's."""
    names = [f"shop{i}" for i in range(4)]
    questions = ["How many shops are there?", "List the cities."]
    queries = ["SELECT count(*) FROM shop", "SELECT City FROM shop"]
    pairs = {name: [(name, *pair) for pair in zip(questions, queries, strict=True)] for name in names}
    train = [pair for name in names[:3] for pair in pairs[name]]
    made = write_layout(tmp_path / "made", dict.fromkeys(names, SHOP), {"train_spider": train, "dev": pairs[names[3]]})
    shutil.make_archive(str(tmp_path / "data/raw/spider_data"), "zip", made)
    options = [
        "data=spider",
        "model=tiny",
        "data.source.embedded=2",
        "data.split.validation_databases=1",
        "train.epochs=1.5",
        "train.batch_size=8",
    ]
    (tmp_path / "params.yaml").write_text(compose([*options, "tracking=none"], ROOT / CONF))
    for name in ("source", "databases", "convert", "split", "base_model", "prompts", "train"):
        _in_folder(tmp_path, importlib.import_module(f"stages.{name}").main)
    counts = read_json(tmp_path / "metrics/split.json")
    rows = list(read_jsonl(tmp_path / "data/prompts/train.jsonl"))
    per_database = Counter(row["db_id"] for row in rows)
    assert len([name for name in per_database if name in names]) == 2
    assert set(per_database.values()) == {2}
    assert len(per_database) == 14
    assert (counts["train"]["examples"], counts["val"]["examples"], counts["test"]["examples"]) == (len(rows), 2, 2)
    assert read_json(tmp_path / "metrics/train.json")["examples"] == pytest.approx(1.5 * len(rows), abs=8)


def _refuse(constant):
    pytest.fail(f"{constant} is not JSON")


def test_metrics_are_plain_json(finished):
    for path in (finished[0] / "metrics").glob("*.json"):
        json.loads(path.read_text(), parse_constant=_refuse)
