"""`text2sql export` with the tiny model: what is written answers as the adapter does, and a worse export is refused."""

from __future__ import annotations

import re
import resource
import shutil
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark
from llguidance.hf import from_tokenizer
from typer.testing import CliRunner

from tests.model.test_constraint import ACCEPTED
from text2sql.cli import app
from text2sql.errors import UserError
from text2sql.files import read_json, sha256_tree, write_jsonl, write_text
from text2sql.model.base import QuantizationOptions, load_tokenizer
from text2sql.model.inference import load_for_inference
from text2sql.model.prompt import FRAMES, PromptOptions, ddl, encode_prompt, render
from text2sql.release import export
from text2sql.release.export import GRAMMAR, MERGED, template, verdict, write_and_answer, write_export
from text2sql.release.gguf_file import QUANTIZATIONS, LlamaCpp, write_gguf
from text2sql.release.manifest import read_manifest
from text2sql.schema import Column, Schema, Table
from text2sql.scoring.versus import Difference
from text2sql.workspace import DUMPS

SHOP = Schema(
    "shop", (Table("customers", "customers", (Column("id", "id", "integer"), Column("name", "name", "text"))),)
)
DUMP = "CREATE TABLE customers (id integer, name text);\nCOPY customers FROM stdin;\n1\tAda\n2\tBob\n\\.\n"
QUESTIONS = ("How many customers are there?", "Name them all.", "Is there a [/INST] in a name?")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_release: Path) -> Path:
    """A release with its base model, test questions and their database."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(tiny_release.parent.parent, root, dirs_exist_ok=True)
    options = PromptOptions(style="ddl", samples=0)
    rows = [{"id": f"test-{n}", "db_id": "shop", "question": text} for n, text in enumerate(QUESTIONS)]
    write_jsonl(root / "data/splits/test.jsonl", [{**r, "sql": "SELECT count(*) FROM customers"} for r in rows])
    prompts = [{**r, "prompt": render(SHOP, r["question"], options, "mistral")} for r in rows]
    write_jsonl(root / "data/prompts/test.jsonl", prompts)
    write_text(root / "data/postgres/databases/shop.sql", DUMP)
    return root


#: llama.cpp is installed by those who export to it
LLAMA = pytest.mark.skipif(find_spec("cyllama") is None, reason="pip install cyllama==0.2.18")


@pytest.mark.parametrize("form", [MERGED, *(pytest.param(name, marks=LLAMA) for name in QUANTIZATIONS)])
def test_every_form(workspace: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(workspace)
    words = ["--merged"] if form == MERGED else ["--gguf", form]
    result = CliRunner().invoke(app, ["export", *words])
    assert result.exit_code == 0, result.output or result.exception
    folder = Path("models/export") / form
    facts = read_json(folder / "export.json")
    assert facts["questions"] == facts["prompts_with_the_same_tokens"] == len(QUESTIONS)
    assert set(facts["execution_accuracy"]) == {"adapter", "export"}
    assert set(facts["files"]) == {path.name for path in folder.iterdir()} - {"export.json"}
    if form != MERGED:
        written = (folder / "Modelfile").read_text()
        template_ = re.search(r'TEMPLATE """(.*?)"""', written, re.DOTALL)[1]
        filled = re.sub(r"{{ (if .System|end) }}", "", template_).replace("{{ .Prompt }}", QUESTIONS[0])
        options = PromptOptions(style="ddl", samples=0)
        filled = filled.replace("{{ .System }}", ddl(SHOP.tables[0], options))
        assert filled == render(SHOP, QUESTIONS[0], options, "mistral")
    with pytest.raises(UserError, match="is there already"):
        write_export(Path("models/release"), folder, form)


@pytest.mark.parametrize("form", [MERGED, pytest.param("F16", marks=LLAMA)])
def test_the_export_answers_as_the_adapter(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """To the token: another order of the heads' dimensions, a missing bias or BOS would show."""
    monkeypatch.chdir(workspace)
    release, rows = Path("models/release"), [{"prompt": "[INST] customers [/INST]"}, {"prompt": "[INST] name? [/INST]"}]
    before, after, alike = write_and_answer(release, read_manifest(release)["params"], tmp_path, form, rows)
    assert all(before)
    assert after == before
    assert alike == len(rows)


@pytest.fixture(scope="module")
def matcher(workspace: Path) -> LLMatcher:
    """The grammar of an export, read by another engine than llama.cpp's."""
    tokenizer = from_tokenizer(load_tokenizer(workspace / "models/base"))
    return LLMatcher(tokenizer, gbnf_to_lark(GRAMMAR.read_text()))


@pytest.mark.parametrize(
    ("queries", "whole"),
    [
        (ACCEPTED, True),
        (["DELETE FROM shop", "SELECT name FROM shop; DROP TABLE shop", "SELECT pg_sleep(9)", "SELECT", ""], False),
        (["SELECT opened - INTERVAL 'now' FROM shop", "SELECT opened - INTERVAL '30' FROM shop"], False),
    ],
)
def test_the_grammar_has_what_adapters_are_trained_on(
    workspace: Path, matcher, queries: list[str], whole: bool
) -> None:
    tokenizer = load_tokenizer(workspace / "models/base")
    for query in queries:
        trial, tokens = matcher.deep_copy(), tokenizer(query, add_special_tokens=False)["input_ids"]
        assert (trial.try_consume_tokens(tokens) == len(tokens) and trial.is_accepting()) == whole, query


@LLAMA
def test_llama_cpp_is_held_to_the_grammar(workspace: Path, tmp_path: Path, matcher) -> None:
    """Random weights write anything, and under the grammar the beginning of a query."""
    base = workspace / "models/base"
    plain = QuantizationOptions(bits=None, type=None, double=False, compute_dtype="auto")
    write_gguf(load_for_inference(base, plain, None), base, tmp_path / "tiny.gguf", "", bos=True)
    with closing(LlamaCpp(tmp_path / "tiny.gguf", context=200)) as runner:
        prompt = runner.tokenize("[INST] How many? [/INST]")
        assert matcher.deep_copy().try_consume_tokens(runner.answer(prompt, 40)) < 40
        runner.sampler = runner.llama.LlamaSampler(runner.llama.LlamaSamplerChainParams())
        runner.sampler.add_grammar(runner.vocab, GRAMMAR.read_text(), "root")
        runner.sampler.add_greedy()
        assert matcher.deep_copy().try_consume_tokens(runner.answer(prompt, 40)) == 40


def test_the_chat_template_is_the_prompt_s_frame(workspace: Path) -> None:
    tokenizer = load_tokenizer(workspace / "models/base")
    for name in ("mistral", "chatml"):
        tokenizer.chat_template = template(FRAMES[name])
        framed = tokenizer.apply_chat_template([{"role": "user", "content": "it's\nso"}], tokenize=False)
        assert framed == f"{FRAMES[name].head}it's\nso{FRAMES[name].tail}"
    assert encode_prompt(tokenizer, "[INST] a [/INST]")[0] == tokenizer.bos_token_id


def test_a_worse_export_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    ids = tuple(map(str, range(100)))
    worse = Difference((), ids[:2], 98, 0)
    with pytest.raises(UserError, match=r"98\.0% of 100 questions right, the adapter 100\.0%"):
        verdict(Path("out"), worse, 100, 100, anyway=False)
    assert "2.0% worse" in capsys.readouterr().err
    assert "98.0%" in verdict(Path("out"), worse, 100, 100, anyway=True)
    assert "5 of 100 prompts are read as other tokens" in verdict(
        Path("out"), Difference((), ids[:1], 99, 0), 95, 100, anyway=False
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "models/release/manifest.json").unlink(), "is no release"),
        (lambda root: (root / "models/base/config.json").write_text("{}"), "is not what models/release was made with"),
    ],
)
def test_bad_input(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage, said: str) -> None:
    shutil.copytree(workspace, tmp_path / "copy")
    damage(tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    with pytest.raises(UserError, match=said):
        write_export(Path("models/release"), Path("out"), "Q8_0")
    assert not Path("out").exists()


@pytest.mark.parametrize("words", [[], ["--merged", "--gguf", "F16"], ["--gguf", "Q9"]])
def test_one_form_is_chosen(words: list[str]) -> None:
    assert "which form" in str(CliRunner().invoke(app, ["export", *words]).exception)


@pytest.mark.parametrize(
    "place", ["models/release", "models/release/new", "models/export/../release/a/b", "models/base/x"]
)
def test_nothing_is_written_into_a_release_or_its_base(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(workspace)
    before = sha256_tree(workspace / "models")
    with pytest.raises(UserError, match="give another folder"):
        write_export(Path("models/release"), Path(place), MERGED)
    assert sha256_tree(workspace / "models") == before


def test_a_link_or_a_file_in_the_way(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        write_export(Path("models/release"), tmp_path / "dangling", MERGED)
    with pytest.raises(UserError, match="Not a directory"):
        write_export(Path("models/release"), tmp_path / "file/new", MERGED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


def test_what_is_interrupted_leaves_nothing(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        assert list(tmp_path.glob(".*.partial/*.safetensors")), "the files are written"
        raise KeyboardInterrupt

    monkeypatch.chdir(workspace)
    (tmp_path / "earlier").mkdir()
    monkeypatch.setattr(export, "compare_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_export(Path("models/release"), tmp_path / "new", MERGED)
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


def test_a_full_disk_is_said_and_leaves_nothing(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"(?s)File too large.*room on the disk"):
            write_export(Path("models/release"), tmp_path / "new", MERGED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_without_databases_nothing_is_asked(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `dvc pull data/prompts data/splits models`: the comparison, minutes later, could not be made."""
    shutil.copytree(workspace, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / DUMPS)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(export, "write_and_answer", lambda *_: pytest.fail("questions were asked"))
    with pytest.raises(UserError, match=r"shop\.sql is missing"):
        write_export(Path("models/release"), Path("new"), MERGED)


def test_without_llama_cpp_nothing_is_asked(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setitem(sys.modules, "cyllama.llama", None)
    monkeypatch.setattr(export, "write_and_answer", lambda *_: pytest.fail("questions were asked"))
    with pytest.raises(UserError, match=r"pip install cyllama"):
        write_export(Path("models/release"), tmp_path / "new", "Q8_0")
