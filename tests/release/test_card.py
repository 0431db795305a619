"""The model card: every figure in it comes from the run, and nothing is published without licence or score."""

import copy
import io
import re
import shutil
from contextlib import redirect_stdout

import pytest
from huggingface_hub import ModelCard

from tests.tiny_release import tiny_params
from text2sql.ask.engine import AskedPrompt, Engine
from text2sql.config import compose
from text2sql.errors import UserError
from text2sql.release.card import EXAMPLE, QUESTION, render_card

METRICS = {
    "train": {
        "train_loss": 0.0912,
        "val_loss": 0.1234,
        "examples": 2400,
        "tokens": 812345,
        "examples_per_second": 4.21,
        "tokens_per_second": 1425.0,
        "trainable_parameters": 4884480,
        "total_parameters": 139399488,
        "peak_memory_bytes": 3_400_000_000,
        "seconds": 571.3,
        "device": "cpu",
        "dtype": "float32",
    },
    "score": {
        "n": 50,
        "execution_accuracy": 0.62,
        "execution_accuracy_strict": 0.58,
        "valid_sql": 0.9,
        "by_hardness": {
            "easy": {"n": 20, "execution_accuracy": 0.95},
            "extra": {"n": 8, "execution_accuracy": 0.125},
        },
        "ci95": [0.4815, 0.7413],
        "excluded": 0,
    },
    "split": {
        "train": {"examples": 2400, "databases": 30},
        "val": {"examples": 200, "databases": 1},
        "test": {"examples": 50, "databases": 5},
    },
    "convert": {"verified_rate": 0.9961, "rejected_rate": 0.001},
}


def params(*overrides: str) -> dict:
    import yaml

    return yaml.safe_load(compose(list(overrides)))


def test_header_is_the_hubs():
    data = ModelCard(render_card(METRICS, params("data=spider"))).data
    assert data.license == "cc-by-sa-4.0"
    assert data.base_model == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert data.datasets == ["xlangai/spider"]
    scores = {r.metric_type: r.metric_value for r in data.eval_results}
    assert scores == {"execution_accuracy": 0.62, "valid_sql": 0.9}


@pytest.mark.parametrize(
    "said",
    [
        "**62.0 %**, 95 % interval 48.1 % to 74.1 %",
        "| easy (20 questions) | 95.0 % |\n| extra (8 questions) | 12.5 % |",
        "2,400 examples on 30 databases for\n  training, 200 on 1 database for the validation loss",
        "99.6 % of those with rows",
        "4,884,480 of 139,399,488",
        "9.5 min, 4.21 examples/s, peak 3.4 GB",
        "NF4, 4 bit, double quantization",
        "38.0 % of the test answers were wrong",
        "training 0.0912, validation 0.123",
        'prompt = """<|im_start|>user\n',
        'name = "me/shop-sql"',
    ],
)
def test_figures_are_the_runs(said):
    assert said in render_card(METRICS, params("quantization=nf4"), repository="me/shop-sql")


def test_it_says_that_answers_were_held_to_the_schema():
    assert "held to the schema" in render_card(METRICS, params())
    assert "held to the schema" not in render_card(METRICS, params("predict.constrained=false"))


def test_what_was_not_measured_is_left_out():
    metrics = copy.deepcopy(METRICS)
    del metrics["convert"], metrics["score"]["ci95"], metrics["train"]["val_loss"]
    text = render_card(metrics, params("quantization=none"))
    assert "interval" not in text.split("## Training data")[0].split("Conditions")[0]
    assert "SQLite" not in text
    assert "Final loss" not in text
    assert "| Quantization | none |" in text


def test_a_release_has_no_figure_that_differs_from_run_to_run():
    text = render_card({k: METRICS[k] for k in ("split", "score")}, params())
    assert "Hardware" not in text
    assert "62.0 %" in text


def test_spider_is_cited_where_it_was_used():
    assert "yu2018spider" in render_card(METRICS, params("data=spider"))
    assert "yu2018spider" not in render_card(METRICS, params())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=mini"], ""),
        (["data=spider"], ""),
        (["data=spider", "data.source.embedded=30"], "30 generated questions on each"),
        (["data=custom"], "4 generated questions on each"),
    ],
)
def test_embedded_examples_are_named_where_there_are_any(overrides, said):
    card = render_card(METRICS, params(*overrides))
    assert said in card
    assert ("generated questions on each" in card) == bool(said)


def test_ones_own_data_say_nothing_of_others():
    assert "the scores say nothing of other schemas" in render_card(METRICS, params("data=custom"))
    assert "other schemas" not in render_card(METRICS, params())


@pytest.mark.parametrize("stage", ["score", "split"])
def test_no_card_without_a_score(stage):
    metrics = {k: v for k, v in METRICS.items() if k != stage}
    with pytest.raises(UserError, match=f"metrics/{stage}.json"):
        render_card(metrics, params())


def test_the_usage_snippet_runs_and_says_what_the_engine_says(tmp_path, tiny_release):
    shutil.copytree(tiny_release.parent, tmp_path / "models")
    release = tmp_path / "models/release"
    for path in (tmp_path / "models/base").glob("tokenizer*"):
        shutil.copy(path, release)
    snippet = re.search(
        r"```python\n(.*?)```", render_card(METRICS, tiny_params(), repository=str(release)), re.DOTALL
    )[1]
    namespace = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet, "card", "exec"), namespace)
    engine = Engine.load(str(release))
    assert namespace["ids"] == engine.prompt(QUESTION, EXAMPLE).ids
    engine._constraints = None  # the snippet is plain transformers: it knows of no grammar
    answer = engine.generate_batch([AskedPrompt(namespace["ids"], QUESTION, EXAMPLE, EXAMPLE)])[0][0].text
    assert printed.getvalue().startswith(answer[:8])
