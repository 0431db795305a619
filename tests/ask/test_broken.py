"""Broken releases and questions that are no text: one sentence each."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.scripted import Scripted
from text2sql.ask.models import open_folder
from text2sql.ask.question import check_question
from text2sql.ask.terminal import AskOptions, converse, print_answer, read_lines
from text2sql.errors import UserError
from text2sql.postgres.compare import Result
from text2sql.schema import Column, Schema, Table

MODEL = {"name": "tiny", "template": "plain"}


@pytest.mark.parametrize(
    "manifest",
    [
        b"{",
        b"[1]",
        b"\xff",
        b"{}",
        json.dumps({"params": {}}).encode(),
        json.dumps({"params": []}).encode(),
        json.dumps({"params": {"model": None, "quantization": {}, "prompt": {}}}).encode(),
        json.dumps({"params": {"model": MODEL, "quantization": {}, "prompt": {}, "train": {}, "predict": {}}}).encode(),
    ],
)
def test_a_broken_manifest(tmp_path, monkeypatch, manifest):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release").mkdir()
    (tmp_path / "release/manifest.json").write_bytes(manifest)
    with pytest.raises(UserError):
        open_folder(tmp_path / "release", "release")


def test_a_question_that_is_no_text_does_not_end_the_conversation(monkeypatch):
    lines = "Wie viele Städte?\n".encode() + b"How many \xff\xfe?\nHow many?\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    asked = list(read_lines(Console()))
    assert len(asked) == 3
    check_question(asked[0])
    with pytest.raises(UserError, match="no text"):
        check_question(asked[1])
    check_question(asked[2])


SCHEMA = Schema("shop", (Table("item", "item", (Column("id", "id", "integer"),)),))


def least_of(confidence):
    return AskOptions("postgresql://u:geheim@h", "dsn", "", False, 1, (), (), False, confidence)


@pytest.mark.parametrize(("least", "answered"), [(0.0, True), (0.8, True), (0.9, False)])
def test_an_answer_below_the_least_confidence_is_declined(capsys, least, answered):
    answer = Scripted({}).ask("How many items are there?", SCHEMA)
    assert round(answer.confidence, 2) == 0.88
    options = least_of(least)
    assert "geheim" not in repr(options)
    if answered:
        print_answer(answer, options)
        assert "confidence 88%" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match="its confidence is 88%, and 90% is asked for"):
            print_answer(answer, options)


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_sampled_answer_has_its_own_confidence(capsys, candidates):
    """That of a second try, and one of several candidates."""

    def execute(sql):
        return Result(error="syntax", sqlstate="42703") if "nme" in sql else Result(("id",), [(1,)])

    engine = Scripted({"Which items are there?": ["select nme from item", "select id from item"]})
    answer = engine.ask("Which items are there?", SCHEMA, candidates=candidates, execute=execute, run=True)
    assert (answer.sql.split(), round(answer.confidence, 2)) == (["SELECT", "id", "FROM", "item"], 0.73)
    print_answer(answer, least_of(0.7))
    assert "confidence 73%" in capsys.readouterr().err
    with pytest.raises(UserError, match="its confidence is 73%, and 80% is asked for"):
        print_answer(answer, least_of(0.8))


def test_a_query_that_the_server_refuses_is_surely_wrong(capsys):
    refused, late = Result(error="syntax", sqlstate="42703"), Result(error="timeout", sqlstate="57014")
    question, engine = "How many items are there?", Scripted({})
    answer = engine.ask(question, SCHEMA, execute=lambda sql: refused, run=True)
    assert (answer.confidence, answer.result) == (0.0, refused)
    with pytest.raises(UserError, match="its confidence is 0%, and 10% is asked for"):
        print_answer(answer, least_of(0.1))
    assert round(engine.ask(question, SCHEMA, execute=lambda sql: late, run=True).confidence, 2) == 0.88


def test_a_model_without_calibration_is_not_asked_for_confidence(monkeypatch):
    located = SimpleNamespace(title="a script", notice="", calibration=None)
    monkeypatch.setattr("text2sql.ask.terminal.locate_model", lambda name: located)
    with pytest.raises(UserError, match="this model has no confidence"):
        converse("How many items are there?", least_of(0.1))
