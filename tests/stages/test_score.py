"""Stage score on a real server, in a folder of its own."""

import json

import pytest

from stages import score
from text2sql.errors import UserError
from text2sql.files import read_json, read_jsonl, write_jsonl, write_text
from text2sql.scoring.hardness import hardness_of_gold
from text2sql.scoring.predictions import read_predictions
from text2sql.workspace import DUMPS, PREDICTIONS, SCORE, SPLITS, VALIDATION_PREDICTIONS, VERDICTS, VERDICTS_CSV

DUMP = """
CREATE TABLE singer (id integer PRIMARY KEY, name text, age integer, country text);
COPY singer FROM stdin;
1\tAda\t30\tFrance
2\tBob\t30\tFrance
3\tCleo\t50\t\\N
\\.
"""
PARAMS = """
score: {timeout_seconds: 0.6, max_rows: 1000, workers: 2, examples: 10}
"""
#: gold, predicted, suite, strict, reason, error
CASES = [
    ("SELECT count(*) FROM singer", "SELECT count(id) FROM singer", True, True, None, None),
    ("SELECT name, age FROM singer", "SELECT age, name FROM singer", True, False, "row_values", None),
    ("SELECT DISTINCT age FROM singer", "SELECT age FROM singer", True, False, "row_count", None),
    ("SELECT age FROM singer", "SELECT DISTINCT age FROM singer", True, False, "row_count", None),
    (
        "SELECT name FROM singer ORDER BY id",
        "SELECT name FROM singer ORDER BY id DESC",
        False,
        False,
        "row_order",
        None,
    ),
    # Without DISTINCT, which PostgreSQL refuses together with that ORDER BY, the prediction is right.
    (
        "SELECT name FROM singer ORDER BY id",
        "SELECT DISTINCT name FROM singer ORDER BY id",
        True,
        False,
        "prediction_failed",
        "grouping",
    ),
    ("SELECT name FROM singer", "SELECT nam FROM singer", False, False, "prediction_failed", "unknown_column"),
    ("SELECT name FROM singer", "SELECT pg_sleep(9)", False, False, "prediction_failed", "forbidden"),
    (
        "SELECT name FROM singer",
        "SELECT DISTINCT count(*) FROM generate_series(1, 1000000000)",
        False,
        False,
        "timeout",
        "timeout",
    ),
    ("SELECT name FROM singer", "DROP TABLE singer", False, False, "prediction_failed", "syntax"),
    ("SELECT name FROM singer", "", False, False, "prediction_failed", "syntax"),
    ("SELECT nam FROM singer", "SELECT name FROM singer", None, None, "gold_failed", "unknown_column"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "params.yaml", PARAMS)
    write_text(DUMPS / "concert.sql", DUMP)
    rows = [
        {"id": f"q-{n}", "db_id": "concert", "question": f"question {n}", "gold": gold, "predicted": predicted}
        for n, (gold, predicted, *_) in enumerate(CASES)
    ]
    write_jsonl(PREDICTIONS, rows)
    write_jsonl(
        (SPLITS / "test.jsonl"),
        [{"id": row["id"], "hardness": "hard" if row["id"] == "q-0" else "easy"} for row in rows],
    )
    return tmp_path


def test_verdicts_and_figures(folder):
    said = score.main()
    rows = list(read_jsonl(VERDICTS))
    assert [r["id"] for r in rows] == [f"q-{n}" for n in range(len(CASES))]
    for row, (_, _, *expected) in zip(rows, CASES, strict=True):
        assert [row["verdict_suite"], row["verdict_strict"], row["reason"], row["error"]] == expected, row
    assert {"id", "db_id", "question", "gold", "predicted", "milliseconds"} <= set(rows[0])
    assert all(row["milliseconds"] < 3000 for row in rows)

    figures = read_json(SCORE)
    assert figures["n"] == 11
    assert figures["excluded"] == 1
    assert figures["execution_accuracy"] == round(5 / 11, 6)
    assert figures["execution_accuracy_strict"] == round(1 / 11, 6)
    assert figures["valid_sql"] == round(5 / 11, 6)
    assert figures["ci95"][0] < 5 / 11 < figures["ci95"][1]
    assert {level: group["n"] for level, group in figures["by_hardness"].items()} == {"easy": 10, "hard": 1}
    assert figures["errors"] == {
        "syntax": 2,
        "forbidden": 1,
        "row_order": 1,
        "timeout": 1,
        "unknown_column": 1,
    }
    assert "45.5% of 11 correct" in said
    assert not (folder / "mlruns").exists(), "there is no adapter, so there is no run to record in"

    first = [path.read_bytes() for path in (SCORE, VERDICTS_CSV, score.REPORT)]
    score.main()
    assert [path.read_bytes() for path in (SCORE, VERDICTS_CSV, score.REPORT)] == first


def test_bad_input_is_said(folder):
    rows = list(read_jsonl(PREDICTIONS))
    for change, message in [
        ([{**rows[0], "predicted": None}], "line 1: no text under predicted"),
        ([rows[0], rows[0]], "an id occurs twice"),
        ([{**rows[0], "predicted": "SELECT '\ud83d'"}], "line 1: half of a character"),
        ([{**rows[0], "db_id": "nowhere"}], "nowhere.sql is missing"),
        ([{**rows[0], "gold": "SELECT"[:3]}], "none of 1 gold queries"),
    ]:
        PREDICTIONS.write_text("".join(json.dumps(row) + "\n" for row in change))
        with pytest.raises(UserError, match=message):
            score.main()


def test_hardness_comes_from_the_split_or_else_from_the_gold(folder):
    (SPLITS / "test.jsonl").write_text(
        json.dumps({"id": "q-1", "hardness": "extra"}) + "\n" + json.dumps({"id": "q-2"}) + "\n"
    )
    levels = [row["hardness"] for row in read_predictions(PREDICTIONS, SPLITS / "test.jsonl")]
    assert levels[:3] == ["easy", "extra", "easy"]
    assert hardness_of_gold("SELECT 1 FROM (") is None


def test_the_report_shows_every_class_of_error_and_runs_nothing_of_the_model(folder):
    rows = list(read_jsonl(PREDICTIONS))
    rows[6]["predicted"] = "SELECT now()"
    rows[5]["predicted"] = "SELECT '<script>alert(1)</script>' AS \"<b>\" FROM singer"
    write_jsonl(PREDICTIONS, rows)
    score.main()
    text = score.REPORT.read_text()
    for name in read_json(SCORE)["errors"]:
        assert f"<b>{name}</b>" in text
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "depends on the time or on chance" in text
    assert "http" not in text, "the report needs something from elsewhere"


def test_confidence_is_learned_on_validation_questions_and_measured_on_the_test(folder):
    right, wrong = ("SELECT name FROM singer", -0.5), ("SELECT age FROM singer", -9.0)
    rows = list(read_jsonl(PREDICTIONS))

    def answers(name, n):
        for i in range(n):
            sql, log_probability = (right, wrong)[i % 2]
            query = {"gold": right[0], "predicted": sql, "log_probability": log_probability, "tokens": 8}
            yield {**rows[0], "id": f"{name}-{i}", **query}

    write_jsonl(PREDICTIONS, answers("q", 10))
    write_jsonl(VALIDATION_PREDICTIONS, answers("v", 40))
    write_jsonl(SPLITS / "val.jsonl", [])
    score.main()
    found = read_json(SCORE)["confidence"]
    assert found["auroc"] == 1.0
    assert found["error_at_coverage"] == {"25%": 0.0, "50%": 0.0, "75%": 0.5, "100%": 0.5}
    assert found["expected_calibration_error"] < 0.1
    confidences = [row["confidence"] for row in read_jsonl(VERDICTS)]
    assert confidences[0] > 0.9 > 0.1 > confidences[1]
    assert "Knowing when not to answer" in score.REPORT.read_text()
    assert score.CONFIDENCE_CSV.read_text().count("\n") == 3

    write_jsonl(VALIDATION_PREDICTIONS, [])
    score.main()
    assert "confidence" not in read_json(SCORE)
    assert "Knowing when not to answer" not in score.REPORT.read_text()
