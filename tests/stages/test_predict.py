"""Stage predict with the tiny model: what it writes, what an interruption costs, execution-guided choice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import predict
from text2sql.config import typed
from text2sql.errors import UserError
from text2sql.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from text2sql.model import prediction
from text2sql.model.base import QuantizationOptions
from text2sql.model.generation import Generation
from text2sql.model.prompt import PromptOptions, render
from text2sql.model.sources import ModelOptions, obtain
from text2sql.postgres.sandbox import Sandbox
from text2sql.schema import Column, Schema, Table
from text2sql.workspace import ADAPTER, PREDICTIONS, PROMPTS, SPLITS, VALIDATION_PREDICTIONS

GREEDY = {
    "method": "greedy", "zero_shot": False, "dtype": "float32",
    "batch_size": 4, "max_new_tokens": 8, "cache_tokens": 4096, "constrained": False, "validation": 0,
}  # fmt: skip
GUIDED = {"candidates": 3, "temperature": 2.0, "timeout_seconds": 1.0, "max_rows": 100, "workers": 2}
PLAIN = {"bits": None, "type": None, "double": False, "compute_dtype": "float32"}
NF4 = {"bits": 4, "type": "nf4", "double": True, "compute_dtype": "float32"}
KEYS = ["id", "db_id", "question", "gold", "predicted", "finished", "tokens", "log_probability"]
TABLES = {"shop": ("name", "city"), "band": ("title", "year", "label")}
DUMP = "CREATE TABLE {name} ({column} text);\nCOPY {name} ({column}) FROM stdin;\na\nb\n\\.\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with all that the stage reads: the tiny model, an adapter that changes it, 20 questions."""
    folder = tmp_path_factory.mktemp("predict")
    base = folder / "models/base"
    obtain(ModelOptions(name="tiny", source="random", template="mistral", seed=0), base)
    write_adapter(base, folder / "models/adapter")
    split, prompts = [], []
    for number in range(20):
        db_id = list(TABLES)[number % 2]
        columns = tuple(Column(name, name, "text") for name in TABLES[db_id])
        question = f"Show all of number {number}" + " and more" * (number % 3)
        prompt = render(Schema(db_id, (Table(db_id, db_id, columns),)), question, PromptOptions("ddl", 0), "mistral")
        row = {"id": f"dev-{number}", "db_id": db_id}
        split.append({**row, "question": question, "sql": f"SELECT {number}", "hardness": "easy"})
        prompts.append({**row, "prompt": prompt, "completion": f"SELECT {number}"})
    write_jsonl(folder / "data/splits/test.jsonl", split)
    write_jsonl(folder / "data/prompts/test.jsonl", prompts)
    for db_id, columns in TABLES.items():
        write_text(folder / f"data/postgres/databases/{db_id}.sql", DUMP.format(name=db_id, column=columns[0]))
    return folder


def write_adapter(base, target):
    import torch
    from peft import LoraConfig, get_peft_model

    from text2sql.model.base import load_model

    torch.manual_seed(0)
    model = load_model(base, QuantizationOptions(None, None, False, "float32"), device="cpu")
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(target)


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    target = tmp_path / "work"
    shutil.copytree(prepared, target)
    monkeypatch.chdir(target)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (target / ".dvc").mkdir()
    configure()
    return target


def configure(quantization=NF4, **changes):
    params = {"seed": 1, "predict": {**GREEDY, **changes}, "quantization": quantization}
    params["data"] = {"databases": {"samples": 3}}
    write_json(Path("params.yaml"), {**params, "prompt": {"style": "ddl", "samples": 0, "qualifiers": "tables"}})


def test_every_question_is_predicted_in_the_order_of_the_split(folder):
    said = predict.main()
    rows, split = list(read_jsonl(PREDICTIONS)), list(read_jsonl(SPLITS / "test.jsonl"))
    assert [list(row) for row in rows] == [KEYS] * 20
    assert [(r["id"], r["db_id"], r["question"], r["gold"]) for r in rows] == [
        (r["id"], r["db_id"], r["question"], r["sql"]) for r in split
    ]
    figures = read_json(predict.REPORT)
    assert figures["questions"] == 20
    assert figures["resumed"] == 0
    assert figures["questions_per_second"] > 0
    assert figures["finished"] == sum(row["finished"] for row in rows)
    assert "20 predictions" in said
    assert not list(Path("checkpoints").iterdir())


def test_zero_shot_is_the_model_without_the_adapter(folder):
    predict.main()
    tuned = PREDICTIONS.read_bytes()
    shutil.rmtree(ADAPTER)
    configure(zero_shot=True)
    predict.main()
    assert PREDICTIONS.read_bytes() != tuned
    assert read_json(predict.REPORT)["zero_shot"]
    configure()
    with pytest.raises(UserError, match="no adapter in models/adapter"):
        predict.main()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_interrupted_prediction_goes_on_where_it_was(folder, monkeypatch, dtype):
    configure(dtype=dtype, batch_size=2)
    predict.main()
    whole = PREDICTIONS.read_bytes()
    PREDICTIONS.unlink()
    add, added = prediction.Partial.add, []

    def interrupted(self, rows):
        if len(added) + len(rows) > 11:
            raise KeyboardInterrupt
        add(self, rows)
        added.extend(rows)

    with monkeypatch.context() as patch:
        patch.setattr(prediction.Partial, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict.main()
    assert not PREDICTIONS.exists()
    (left,) = Path("checkpoints").iterdir()
    with left.open("a") as file:
        file.write('{"id": "dev-3", "predic')  # a kill in the middle of a line
    said = predict.main()
    assert PREDICTIONS.read_bytes() == whole
    assert f"{len(added)} from before" in said
    assert len(added) == (11 if dtype == "float32" else 8)
    assert read_json(predict.REPORT)["resumed"] == len(added)


def test_another_configuration_does_not_go_on_from_it(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(predict, "write_jsonl", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict.main()
    assert len(list(Path("checkpoints").iterdir())) == 1
    configure(max_new_tokens=9)
    assert "(0 from before)" in predict.main()
    configure()
    assert "(20 from before)" in predict.main()


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.slow  # 20 s: two processes, each loading a model; in one process the test before this one does the same
def test_a_killed_prediction_goes_on_where_it_was(folder):
    configure(max_new_tokens=60, batch_size=1, quantization=PLAIN)
    command = [sys.executable, "-m", "stages.predict"]
    root = Path(predict.__file__).parent.parent
    run = {"env": {**os.environ, "PYTHONPATH": str(root)}, "text": True, "capture_output": True}
    process = subprocess.Popen(command, env=run["env"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in Path("checkpoints").glob("*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, check=True, **run)
    resumed = read_json(predict.REPORT)["resumed"]
    assert 0 < resumed < 20, done.stdout
    made = PREDICTIONS.read_bytes()
    assert "(0 from before)" in predict.main()
    assert PREDICTIONS.read_bytes() == made


def test_one_process_at_a_time(folder):
    path = Path("checkpoints/f.jsonl")
    with prediction.Partial(path), pytest.raises(UserError, match="another process"):
        prediction.Partial(path).__enter__()


def test_a_prediction_may_have_any_character(tmp_path):
    """Such as U+2028, where JSON lines do not end."""
    row = {"id": "dev-1", "predicted": "SELECT 'a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh'"}
    with prediction.Partial(tmp_path / "f.jsonl") as partial:
        partial.add([row])
    with prediction.Partial(tmp_path / "f.jsonl") as partial:
        assert partial.done == {"dev-1": row}


def test_a_prompt_beyond_the_model_is_marked(folder):
    rows = list(read_jsonl(PROMPTS / "test.jsonl"))
    rows[4]["prompt"] = rows[4]["prompt"].replace("all", "all " * 5000)
    write_jsonl(PROMPTS / "test.jsonl", rows)
    predict.main()
    made = list(read_jsonl(PREDICTIONS))
    assert (made[4]["predicted"], made[4]["finished"]) == ("", False)
    assert made[5]["predicted"]


def test_prompts_of_another_split_are_refused(folder):
    write_jsonl(PROMPTS / "test.jsonl", list(read_jsonl(PROMPTS / "test.jsonl"))[1:])
    with pytest.raises(UserError, match="not of the same questions"):
        predict.main()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0: it should be greater than 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1: it should be greater than 0"),
        ({"method": "beam"}, "allowed: 'greedy', 'second_try' or 'execution_guided'"),
        ({"method": "second_try"}, "choose with predict=second_try"),
        ({"method": "execution_guided"}, "choose with predict=execution_guided"),
        ({"guided": GUIDED}, "choose with predict=greedy"),
        (
            {"method": "execution_guided", "guided": {**GUIDED, "candidates": 1}},
            "candidates is 1: it should be greater than 1",
        ),
    ],
)
def test_impossible_options_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        typed(predict.PredictOptions, {**GREEDY, **changes}, "predict")


def test_execution_guided_takes_the_likeliest_that_runs(folder, monkeypatch):
    wrong, right, other = "SELECT nosuch FROM x", "SELECT 1 + 1", "SELECT 2"
    scripted = [
        Generation((1,), wrong, True, -0.1),
        Generation((1,), right, True, -3),
        Generation((1,), other, True, -2),
    ]

    def stream(model, tokenizer, prompts, options, seeds, constraints):
        for i, seed in enumerate(seeds):
            assert (seed is None) == (i % len(scripted) == 0)
            yield i, scripted[i % len(scripted)]

    monkeypatch.setattr(prediction, "Decoder", stream)
    configure(method="execution_guided", guided=GUIDED)
    predict.main()
    rows = list(read_jsonl(PREDICTIONS))
    assert {row["predicted"] for row in rows} == {"SELECT 2"}
    drawn = [{"predicted": g.text, "finished": True, "tokens": 2, "log_probability": g.score} for g in scripted]
    assert [list(row) for row in rows] == [[*KEYS, "candidates"]] * 20
    assert all(row["candidates"] == drawn for row in rows)


@pytest.mark.parametrize(
    ("greedy", "score", "executions"),
    [("SELECT nosuch", -1.0, 1), ("SELECT 7", -1.5, 0), ("SELECT 0", -1.0, 1), ("SELECT 1 WHERE 1 > 2", -0.1, 1)],
)
def test_a_second_try_where_the_greedy_query_does_not_run_finds_nothing_or_is_improbable(
    folder, monkeypatch, greedy, score, executions
):
    """Three candidates for the bands' questions only; the greedy one is drawn and executed once at most."""
    asked = []

    def stream(model, tokenizer, prompts, options, seeds, constraints):
        asked.append(len(prompts))
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            fails = seed is None and "band" in tokenizer.decode(prompt)
            yield i, Generation((1,), greedy if fails else "SELECT 1", True, score if fails else -1.0)

    def execute(sandbox, db_id, sql):
        executed.append((db_id, sql))
        return run(sandbox, db_id, sql)

    run, executed = Sandbox.execute, []
    monkeypatch.setattr(Sandbox, "execute", execute)
    monkeypatch.setattr(prediction, "Decoder", stream)
    configure(method="second_try", guided={**GUIDED, "workers": 1, "least_probability": 0.3})
    predict.main()
    rows = list(read_jsonl(PREDICTIONS))
    again = [row for row in rows if "candidates" in row]
    assert {row["db_id"] for row in again} == {"band"}
    assert {row["db_id"] for row in rows if "candidates" not in row} == {"shop"}
    assert {row["predicted"] for row in rows} == {"SELECT 1"}
    assert asked == [20, 2 * len(again)]  # the greedy answer is there
    assert [candidate["predicted"] for candidate in again[0]["candidates"]] == [greedy, "SELECT 1", "SELECT 1"]
    assert executed.count(("band", greedy)) == executions
    assert read_json(predict.REPORT)["method"] == "second_try"


def test_execution_guided_is_the_same_every_time(folder):
    configure(method="execution_guided", guided=GUIDED)
    predict.main()
    made = PREDICTIONS.read_bytes()
    assert len(made.splitlines()) == 20
    configure(method="execution_guided", guided=GUIDED, batch_size=7)
    predict.main()
    assert [json.loads(line)["predicted"] for line in made.splitlines()] == [
        row["predicted"] for row in read_jsonl(PREDICTIONS)
    ]


def test_the_first_validation_questions_are_answered_too(folder):
    for path in (SPLITS, PROMPTS):
        rows = [{**row, "id": f"val-{row['id']}"} for row in read_jsonl(path / "test.jsonl")]
        write_jsonl(path / "val.jsonl", rows)
    rows.insert(1, {**rows[0], "id": "val-dev-long"})  # too long for a prompt: the stage prompts leaves it out
    write_jsonl(SPLITS / "val.jsonl", [{**row, "question": "?", "sql": "SELECT 1"} for row in rows])
    configure(validation=3)
    predict.main()
    rows, known = (list(read_jsonl(path)) for path in (PREDICTIONS, VALIDATION_PREDICTIONS))
    assert [row["id"] for row in known] == ["val-dev-0", "val-dev-1", "val-dev-2"]
    assert [list(row) for row in rows + known] == [KEYS] * 23
    for row, same in zip(rows, known, strict=False):
        assert (row["predicted"], row["log_probability"]) == (same["predicted"], same["log_probability"])
        assert row["log_probability"] < 0 < row["tokens"]
