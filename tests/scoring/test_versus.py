"""Comparing two runs, between two commits of a repository."""

import json
import shutil
import subprocess

import pytest

from text2sql.errors import UserError
from text2sql.files import write_jsonl, write_text
from text2sql.scoring.versus import (
    PREDICTIONS,
    VERDICTS_CSV,
    Difference,
    against,
    difference,
    from_csv,
    mcnemar,
    to_csv,
)


def row(number, suite):
    return {
        "id": f"q-{number}",
        "db_id": "d, with a comma",
        "hardness": "easy",
        "verdict_suite": suite,
        "verdict_strict": suite,
        "reason": None if suite else "row_count",
        "error": None,
    }


THERE = [row(0, True), row(1, True), row(2, False), row(3, False), row(4, True), row(5, None)]
HERE = [row(0, True), row(1, False), row(2, True), row(3, False), row(4, None), row(5, True)]


def test_difference():
    found = difference(HERE, THERE, "verdict_suite")
    assert found == Difference(("q-2",), ("q-1",), both_right=1, both_wrong=1, unpaired=2)
    assert (found.n, found.change, found.p) == (4, 0.0, 1.0)


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (6, 0, 0.03125), (10, 2, 0.03857421875)])
def test_mcnemar(gained, lost, p):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == p


def test_csv_keeps_the_verdicts():
    assert from_csv(to_csv(HERE)) == HERE


def predictions(rows, sql):
    return [{**{k: r[k] for k in ("id", "db_id")}, "question": "who?", "gold": "G", "predicted": sql} for r in rows]


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@localhost", *arguments], check=True)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A repository whose first commit, tagged `base`, has the verdicts THERE; copied by the tests."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "--quiet")
        subprocess.run(["dvc", "init", "--quiet"], check=True)
        write_text(VERDICTS_CSV, to_csv(THERE))
        write_jsonl(PREDICTIONS, predictions(THERE, "SELECT there"))
        git("add", ".")
        git("commit", "--quiet", "--message", "base")
        git("tag", "base")
    return folder


@pytest.fixture
def repository(committed, tmp_path, monkeypatch):
    """`committed`, with HERE in the folder."""
    shutil.copytree(committed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    write_text(VERDICTS_CSV, to_csv(HERE))
    write_jsonl(PREDICTIONS, predictions(HERE, "SELECT here"))
    return git


def test_against_a_revision(repository, capsys):
    said = against("base", "verdict_suite", 10)
    shown = capsys.readouterr().out
    assert "1 gained, 1 lost, 1 right and 1 wrong in both" in said
    assert "p = 1" in said
    assert "2 questions are scored in one run only" in said
    assert shown.index("gained: 1") < shown.index("q-2 (d, with a comma): who?") < shown.index("lost: 1")
    assert "SELECT here" in shown
    assert "SELECT there" in shown


def test_queries_that_are_not_there_are_said(repository, capsys):
    repository("rm", "--quiet", "--cached", str(PREDICTIONS))
    repository("commit", "--quiet", "--message", "without")
    against("HEAD", "verdict_suite", 10)
    assert "the queries of HEAD are not shown" in capsys.readouterr().out
    PREDICTIONS.unlink()
    assert "1 gained" in against("base", "verdict_suite", 10)
    shown = capsys.readouterr().out
    assert "the queries of this folder are not shown" in shown
    assert "SELECT there" in shown


def test_what_cannot_be_compared_is_said(repository):
    with pytest.raises(UserError, match="of nowhere cannot be read"):
        against("nowhere", "verdict_suite", 10)
    write_text(VERDICTS_CSV, to_csv([{**row(9, True), "id": json.dumps("other")}]))
    with pytest.raises(UserError, match="no scored question in common"):
        against("base", "verdict_suite", 10)
    VERDICTS_CSV.unlink()
    with pytest.raises(UserError, match="is missing"):
        against("base", "verdict_suite", 10)
