"""What one has: the end of `make repro`, and the experiments in 100 columns."""

import pytest
from rich.console import Console

from text2sql.files import write_json
from text2sql.results import experiment_table, read_experiments, workspace_summary


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


def test_summary_says_how_good_it_is_and_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "params.yaml", {"data": {"name": "mini"}, "model": {"name": "tiny"}})
    score = {"n": 50, "execution_accuracy": 0.66, "ci95": [0.5215, 0.7756], "valid_sql": 0.98}
    write_json(tmp_path / "metrics/score.json", score)
    said = workspace_summary()
    assert "tiny trained on mini: 66.0 % of 50 test questions right (95 %: 52.1 to 77.6), 98.0 % valid SQL" in said
    assert "text2sql ask --schema examples/shop.sql" in said
