"""An adapter of one's own database beside the adapter that its training went on from."""

import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from stages import release
from tests.tiny_release import PARAMS
from text2sql.config import compose
from text2sql.files import sha256, sha256_tree, write_jsonl, write_text
from text2sql.model.prompt import PromptOptions, render
from text2sql.release.before import WEIGHTS, against_initial
from text2sql.schema import Column, Schema, Table, write_index
from text2sql.scoring.versus import VERDICTS_CSV, Difference, to_csv

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SHOP = Schema("shop", (Table("customers", "customers", (Column("id", "id", "integer"),)),))
DUMP = "CREATE TABLE customers (id integer);\nCOPY customers FROM stdin;\n1\n\\.\n"
CUSTOM = ("data=custom", "train.init=models/release")
QUESTIONS = ("How many customers are there?", "Which customer is the first?")


@pytest.fixture
def workspace(tmp_path: Path, tiny_release: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As after the stage score: models/release is what the training went on from, models/adapter the new one."""
    shutil.copytree(tiny_release.parent.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "models/release", tmp_path / "models/adapter")
    weights = load_file(tmp_path / "models/adapter" / WEIGHTS)
    save_file({name: -weight for name, weight in weights.items()}, tmp_path / "models/adapter" / WEIGHTS)
    rows = [{"id": f"custom-{n}", "db_id": "shop", "question": text} for n, text in enumerate(QUESTIONS)]
    write_jsonl(tmp_path / "data/splits/test.jsonl", [{**r, "sql": "SELECT 0", "hardness": "easy"} for r in rows])
    write_jsonl(tmp_path / "data/splits/val.jsonl", [])
    options = PromptOptions(style="ddl", samples=0)
    prompts = [{**r, "prompt": render(SHOP, r["question"], options, "mistral")} for r in rows]
    write_jsonl(tmp_path / "data/prompts/test.jsonl", prompts)
    write_text(tmp_path / "data/postgres/databases/shop.sql", DUMP)
    write_index(tmp_path / "data/postgres/schema_index.json", {"shop": SHOP})
    verdicts = [
        {**r, "hardness": "easy", "verdict_strict": n == 0, "verdict_suite": n == 0} for n, r in enumerate(rows)
    ]
    write_text(tmp_path / VERDICTS_CSV, to_csv([{**row, "reason": None, "error": None} for row in verdicts]))
    (tmp_path / "params.yaml").write_text(compose([*PARAMS, *CUSTOM, "tracking=none"]))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_earlier_adapter_answers_the_same_questions(workspace: Path) -> None:
    """Random weights answer neither; the verdicts of the new adapter say that it has the first one right."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    before = sha256_tree(workspace)
    change = against_initial(params)
    assert change is not None
    assert change.in_words("before") == "50.0% of 2 questions right, before 0.0% (1 gained, 0 lost, p = 1)"
    assert {k: v for k, v in sha256_tree(workspace).items() if "mlruns" not in k} == before
    # Nothing to compare with: the same weights, other data, no adapter.
    shutil.copy(workspace / "models/adapter" / WEIGHTS, workspace / "models/release")
    assert against_initial(params) is None
    assert against_initial(yaml.safe_load(compose([*PARAMS, "train.init=models/release"], CONF))) is None
    assert against_initial(yaml.safe_load(compose([*PARAMS, "data=custom", "train.init=null"], CONF))) is None


@pytest.mark.parametrize(("gained", "lost", "stays"), [(1, 2, True), (2, 2, False), (2, 1, False)])
def test_a_worse_adapter_replaces_nothing(workspace: Path, monkeypatch, gained: int, lost: int, stays: bool) -> None:
    change = Difference(tuple("abc"[:gained]), tuple("xyz"[:lost]), both_right=1, both_wrong=0)
    monkeypatch.setattr(release, "against_initial", lambda params: change)
    for name in ("source", "split", "prompts", "score"):  # of the recorded default
        shutil.copy(ROOT / "metrics" / f"{name}.json", workspace / "metrics")
    for name in ("data/source", "data/postgres/examples.jsonl"):
        write_text(workspace / name, "")
    said = release.main()
    assert f"({gained} gained, {lost} lost, p = 1)" in said
    assert ("stays as it was" in said) == stays
    assert (sha256("models/release" / Path(WEIGHTS)) == sha256("models/adapter" / Path(WEIGHTS))) != stays
