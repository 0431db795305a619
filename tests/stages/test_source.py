"""Stage source: which files of one's own it takes."""

from pathlib import Path

import pytest

from stages.source import SOURCE, check_watched, unwritable_pairs
from text2sql.data.custom import Custom, example, write_own
from text2sql.errors import UserError
from text2sql.schema import Column, Schema, Table


def own(**files: str | None) -> Custom:
    return Custom("custom", files.get("database"), "DSN", files.get("pairs"), 20, 0, (), 10, 1.0)


@pytest.mark.parametrize("outside", ["../shop.sql", "/tmp/shop.sql", "data/other/shop.sql", "data/custom/../shop.sql"])
@pytest.mark.parametrize("key", ["database", "pairs"])
def test_files_that_dvc_does_not_watch_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, outside: str
) -> None:
    """The second run would skip the stage, and use the old copy without a word."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"data\.source\.{key}=.* outside data/custom"):
        check_watched(own(**{key: outside}))


def test_watched_files_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_watched(own(database="data/custom/shop.sql", pairs=str(tmp_path / "data/custom/sub/pairs.csv")))
    check_watched(own())


def test_a_temporary_experiment_has_only_what_git_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc exp run --temp` and --queue work in a copy of the repository; DVC names the original."""
    pairs = tmp_path / "data/custom/pairs.jsonl"
    pairs.parent.mkdir(parents=True)
    pairs.touch()
    copy = tmp_path / ".dvc/tmp/exps/1"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=r"git add -f data/custom/pairs\.jsonl"):
        check_watched(own(pairs="data/custom/pairs.jsonl"))


def test_pairs_that_decoding_never_writes_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pets = Schema("pets", (Table("pets", "pets", (Column("id", "id", "integer"),), ("id",)),))
    queries = ["SELECT id FROM pets", "WITH x AS (SELECT id FROM pets) SELECT id FROM x", "SELECT id"]
    rows = [example(f"custom-{n}", "pets", f"{n}?", sql, None, "") for n, sql in enumerate(queries, start=7)]
    rejected = example("custom-1", "pets", "?", "", "line 1: no sql", "")
    made = example("generated-1", "pets", "?", "SELECT now()", None, "")
    write_own(SOURCE, {"pets": pets}, [*rows, rejected, made], 1, 0)
    assert unwritable_pairs(own(pairs="data/custom/p.csv")) == ["line 8", "line 9"]
    assert "notice: data/custom/p.csv: 2 queries are trained on" in capsys.readouterr().out
    monkeypatch.setattr("text2sql.model.constraint.grammar", lambda _: "start: nothing")
    assert unwritable_pairs(own(pairs="data/custom/p.csv")) == []
    assert "notice: no grammar for the schema pets" in capsys.readouterr().out
