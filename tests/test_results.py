"""What one has: the end of `make repro`, and the experiments in 100 columns."""

import hashlib
import io
import json
import re
import subprocess

import pytest
from rich.console import Console

from text2sql.config import require_made_with
from text2sql.errors import UserError
from text2sql.files import write_json, write_text
from text2sql.results import baselines, experiment_table, read_experiments, workspace_summary
from text2sql.workspace import SCORE


def data(rate, accuracy, **more):
    params = {"train": {"learning_rate": rate}, "data": {"name": "mini", "source": {"kind": "mini"}}, **more}
    metrics = {"metrics/brief/score.json": {"data": {"accuracy": accuracy, "strict": 0.5, "valid_sql": 0.98}}}
    return {"params": {"params.yaml": {"data": params}}, "metrics": metrics}


def experiment(name, state, *args, **more):
    executor = None if state == "success" else {"state": state}
    return {
        "name": name,
        "executor": executor,
        "revs": [{"rev": "1234567890", "name": name, "data": data(*args, **more)}],
    }


@pytest.fixture
def shown():
    """The table as 100 columns show it."""
    long = {"lora": {"target_modules": "a_long_expression_of_layers_" * 4}}
    experiments = [
        experiment("better", "success", 0.001, 0.7123),
        experiment("cut", "failed", 0.5, 0.66),
        experiment("verbose", "success", 0.002, 0.6, **long),
    ]
    rows = [{"name": None, "data": data(0.002, 0.66)}, {"name": "main", "data": {}, "experiments": experiments}]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(experiment_table(read_experiments(rows)))
    return console.export_text()


def test_every_parameter_that_differs_is_shown_whole(shown):
    assert "train.learning_rate=0.001" in shown
    assert "".join(shown.split("│")).replace("\n", "").replace(" ", "").count("a_long_expression_of_layers_") == 4
    assert "data.source" not in shown


def test_the_best_comes_first_and_the_failed_one_has_no_figures(shown):
    names = [line.split("│")[1].split()[0] for line in shown.splitlines() if line.startswith("│") and line[2] != " "]
    assert names == ["better", "workspace", "verbose", "cut"]
    (failed,) = [line for line in shown.splitlines() if "cut (failed)" in line]
    assert [cell.strip() for cell in failed.split("│")[2:-2]] == ["-"] * 5


@pytest.mark.parametrize(
    "broken",
    [
        {"error": {"msg": "no such file"}},
        {"data": None},
        {
            "data": {
                "params": {"params.yaml": {"data": [1]}},
                "metrics": {"a.json": {"data": [1]}, "b.json": {"data": 3}},
            }
        },
        {"data": {"params": {"params.yaml": {"error": {}}}, "metrics": {"a.json": {"error": {}}}}},
    ],
)
def test_what_dvc_could_not_read_has_no_figures(broken):
    one = {"name": "[/b]cut", "executor": None, "revs": [{"rev": "1234567890", "name": None, **broken}]}
    rows = [{"rev": "workspace", **broken}, {"rev": "main", **broken}, {"rev": "other", "experiments": [one]}]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(experiment_table(read_experiments(rows)))
    assert "[/b]cut" in console.export_text()


GOOD = {"n": 50, "execution_accuracy": 0.66, "ci95": [0.5215, 0.7756], "valid_sql": 0.98}


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("metrics/score.json", None, "score.json is missing"),
        ("metrics/score.json", "{", "not valid JSON"),
        ("metrics/score.json", "[]", "score.json or params.yaml is not as it was made"),
        ("metrics/score.json", json.dumps(GOOD | {"ci95": None}), "is not as it was made"),
        ("metrics/score.json", json.dumps(GOOD | {"execution_accuracy": "good"}), "is not as it was made"),
        ("models/release/manifest.json", "{}", "manifest.json is not as it was made"),
        ("models/release/manifest.json", "3", "manifest.json is not as it was made"),
        ("params.yaml", "data: 3\n", "params.yaml is not as it was made"),
    ],
)
def test_a_broken_file_is_named(tmp_path, monkeypatch, path, content, said):
    monkeypatch.chdir(tmp_path)
    files = {"metrics/score.json": json.dumps(GOOD), "models/adapter/adapter_model.safetensors": ""}
    files |= {"params.yaml": "data: {name: mini}\nmodel: {name: tiny}\n", path: content}
    for name, text in files.items():
        if text is not None:
            write_text(tmp_path / name, text)
    with pytest.raises(UserError, match=re.escape(said)):
        workspace_summary()


@pytest.mark.parametrize(("zero_shot", "how"), [(False, "trained on mini"), (True, "without the adapter")])
def test_summary_says_how_good_it_is_and_what_comes_next(tmp_path, monkeypatch, zero_shot, how):
    monkeypatch.chdir(tmp_path)
    params = {"data": {"name": "mini"}, "model": {"name": "tiny"}, "predict": {"zero_shot": zero_shot}}
    write_json(tmp_path / "params.yaml", params)
    score = {"n": 50, "execution_accuracy": 0.66, "ci95": [0.5215, 0.7756], "valid_sql": 0.98}
    write_json(tmp_path / "metrics/score.json", score)
    said = workspace_summary()
    assert f"tiny {how}: 66.0 % of 50 test questions right (95 %: 52.1 to 77.6), 98.0 % valid SQL" in said
    assert "text2sql ask --schema examples/shop.sql" in said
    assert said.count("not in this clone: `make repro` makes it") == 2  # a score is in git, release and report are not


PARAMS = {"seed": 1, "lora": {"r": 16}, "train": {"learning_rate": 5e-5}, "data": {"databases": {"samples": 3}}}


@pytest.mark.parametrize(
    ("change", "by_dvc", "refused"),
    [
        ({}, True, None),
        ({"tracking": {"kind": "none"}}, True, None),  # no stage was run with it
        ({"lora": {"r": 8}}, True, "another lora .stage train"),
        ({"data": {"databases": {"samples": 4}}}, True, "another data.databases.samples"),
        ({"seed": 2}, True, "another seed"),
        ({"lora": {"r": 8}}, False, None),  # the stages were run by hand since: nothing is known
    ],
)
def test_figures_of_other_parameters_are_refused(tmp_path, monkeypatch, change, by_dvc, refused):
    monkeypatch.chdir(tmp_path)
    write_json(SCORE, {"n": 50})
    md5 = hashlib.md5(SCORE.read_bytes() if by_dvc else b"another").hexdigest()
    lock = f"""
        schema: '2.0'
        stages:
          split: {{params: {{params.yaml: {{seed: 1}}}}, outs: [{{path: data/splits, md5: 0a.dir}}]}}
          train:
            params: {{params.yaml: {{lora: {{r: 16}}, train: {{learning_rate: 5e-05}}, data.databases.samples: 3}}}}
            outs: []
          score: {{outs: [{{path: {SCORE}, md5: {md5}}}]}}
    """
    write_text(tmp_path / "dvc.lock", lock)
    if refused:
        with pytest.raises(UserError, match=refused):
            require_made_with(PARAMS | change)
    else:
        require_made_with(PARAMS | change)


def test_without_a_lock_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_made_with(PARAMS)
    write_json(SCORE, {"n": 50})
    require_made_with(PARAMS)


def test_experiments_of_earlier_commits_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.org"]
    assert baselines() == ["HEAD"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=True)
    head = done.stdout.strip()
    for name in (f"refs/exps/{head[:2]}/{head[2:]}/bold-cats", "refs/exps/exec/EXEC_HEAD"):
        subprocess.run([*git, "update-ref", name, head], check=True)
    assert baselines() == ["HEAD", head]
