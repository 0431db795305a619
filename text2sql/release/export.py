"""`text2sql export`: a release as one model that needs neither PEFT nor this package, scored before it is handed out.

`merged` is a folder of safetensors in bfloat16 for transformers, vLLM and the like; `F16`, `Q8_0` and `Q4_K_M` are GGUF
files for llama.cpp, with a `Modelfile` for Ollama and a grammar of queries (select.gbnf). Rounding and quantization
change answers, and so does another tokenizer or another prompt. So the same questions are answered by the adapter as it
was trained and by the exported file in the program that will run it, both greedily and without constraint, and the two
are compared in pairs.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from string import Template
from typing import Any

from text2sql.config import typed
from text2sql.errors import UserError
from text2sql.files import digest, sha256_tree, whole_folder, write_json, write_text
from text2sql.model.base import QuantizationOptions, load_tokenizer
from text2sql.model.prompt import FRAMES, QUESTION, SCHEMA, Frame, encode_prompt, evenly_taken, read_questions
from text2sql.progress import track
from text2sql.release.gguf_file import LlamaCpp, llama_cpp, quantize, write_gguf
from text2sql.release.manifest import read_manifest
from text2sql.scoring.predictions import judge_predictions
from text2sql.scoring.versus import Difference, difference
from text2sql.workspace import BASE, DUMPS, PROMPTS, SPLITS

MERGED = "merged"
#: what has to be as it was when the release was made, for the comparison to mean something
SAME = (BASE, PROMPTS)
MANIFEST = "export.json"
GRAMMAR = Path(__file__).with_name("select.gbnf")
MODELFILE = Path(__file__).with_name("modelfile.txt")
#: more of the questions lost than this, in net, and the export is refused
TOLERATED = 0.01
WORKERS = 2
Row = dict[str, Any]


def write_export(release: Path, target: Path, form: str, questions: int | None = None, anyway: bool = False) -> str:
    """Write the release to the folder `target`, score it, and say what came of it; the folder is complete or absent.

    Args:
        form: `merged`, or one of `gguf_file.QUANTIZATIONS`.
        questions: of the test questions at most so many (evenly taken); None: all.
        anyway: keep an export that answers more than `TOLERATED` worse than the adapter.

    Raises:
        UserError: the release is incomplete or does not fit the workspace, `target` is there or within what is read,
            it cannot be written, or the export is worse.
    """
    manifest = read_manifest(release)
    if not manifest or not (release / "adapter_config.json").exists():
        raise UserError(f"{release} is no release", "`dvc repro release` makes one; `text2sql pull` gets one")
    place = target.resolve()
    for path in (release, *SAME):
        if place.is_relative_to(path.resolve()):
            raise UserError(f"{target} is in {path}, which would not be what it was", "give another folder (--out ...)")
    if os.path.lexists(target):
        raise UserError(f"{target} is there already", "give another folder (--out ...), or remove it first")
    for path in SAME:
        expected = manifest["made_of"].get(path.as_posix())
        if not path.exists() or (expected and digest(path) != expected):
            raise UserError(f"{path} is not what {release} was made with", f"`dvc checkout {path}`")
    if form != MERGED:
        llama_cpp()
    rows = [{**row, "gold": row["sql"]} for row in evenly_taken(read_questions(), questions)]
    if missing := [dump for dump in sorted({DUMPS / f"{row['db_id']}.sql" for row in rows}) if not dump.exists()]:
        raise UserError(f"{missing[0]} is missing", "run `dvc repro databases`, which makes it")
    from safetensors import SafetensorError

    try:
        with whole_folder(place) as partial:
            partial.mkdir(parents=True)
            before, after, alike = write_and_answer(release, manifest["params"], partial, form, rows)
            change = compare_answers(rows, before, after, manifest["params"]["score"])
            facts = {
                "form": form,
                "release": digest(release),
                "files": sha256_tree(partial),
                "questions": change.n,
                "prompts_with_the_same_tokens": alike,
                "execution_accuracy": {"adapter": change.accuracy_there, "export": change.accuracy_here},
                "gained": change.gained,
                "lost": change.lost,
                "p": change.p,
            }
            write_json(partial / MANIFEST, facts)
            return verdict(target, change, alike, len(rows), anyway)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{target} could not be written: {error}", "look for room on the disk, then again") from error


def write_and_answer(
    release: Path, params: dict[str, Any], target: Path, form: str, rows: Sequence[Row]
) -> tuple[list[str], list[str], int]:
    """Write the files; the answers of the adapter, those of the export, and for how many prompts the program that runs
    the export reads the tokens of training."""
    import torch

    from text2sql.model.inference import load_for_inference

    options = typed(QuantizationOptions, params["quantization"], "quantization")
    limit = params["predict"]["max_new_tokens"]
    tokenizer, model = load_tokenizer(BASE), load_for_inference(BASE, options, release)
    prompts = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
    before = answers(model, tokenizer, prompts, limit)
    if form == MERGED:
        model = model.to(torch.bfloat16)
        model.save_pretrained(target, safe_serialization=True)
        for path in BASE.glob("tokenizer*"):
            shutil.copy(path, target)
        write_text(target / "chat_template.jinja", template(FRAMES[params["model"]["template"]]))
        plain = QuantizationOptions(bits=None, type=None, double=False, compute_dtype="auto")
        model = load_for_inference(target, plain, None)  # as it was written, not as it was
        return before, answers(model, tokenizer, prompts, limit), len(rows)
    frame, name = FRAMES[params["model"]["template"]], f"{params['model']['name']}-text2sql-{form}.gguf"
    bos = tokenizer.bos_token_id is not None and not frame.head.startswith(tokenizer.bos_token)
    full = target / (name if form == "F16" else "F16.gguf")
    write_gguf(model, BASE, full, template(frame), bos)
    del model
    gc.collect()
    if form != "F16":
        quantize(full, target / name, form)
        full.unlink()
    shutil.copy(GRAMMAR, target)
    room = max(map(len, prompts)) + limit + 1
    write_text(target / "Modelfile", modelfile(name, frame, tokenizer.eos_token, room))
    with closing(LlamaCpp(target / name, room)) as runner:
        read = [runner.tokenize(row["prompt"]) for row in rows]
        texts = {}
        for at in track(sorted(range(len(rows)), key=read.__getitem__), "answering"):  # neighbours share their schema
            texts[at] = tokenizer.decode(runner.answer(read[at], limit), skip_special_tokens=True)
    alike = sum(ours == theirs for ours, theirs in zip(prompts, read, strict=True))
    return before, [texts[at] for at in range(len(rows))], alike


def answers(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int) -> list[str]:
    """What a transformers model writes after each prompt, greedily."""
    from text2sql.model.generation import GenerationOptions, generate

    return [made.text for made in generate(model, tokenizer, prompts, GenerationOptions(max_new_tokens=limit))]


def compare_answers(
    rows: Sequence[Row], before: Sequence[str], after: Sequence[str], score: dict[str, Any]
) -> Difference:
    """Execute both answers to each question."""
    from text2sql.postgres.load import loaded_sandbox
    from text2sql.postgres.sandbox import Limits

    limits = Limits(timeout_seconds=score["timeout_seconds"], max_rows=score["max_rows"])
    with loaded_sandbox(sorted({row["db_id"] for row in rows}), DUMPS, limits, WORKERS) as sandbox:
        there, here = (
            judge_predictions(sandbox, [{**row, "predicted": text} for row, text in pairs], WORKERS)[0]
            for pairs in (zip(rows, before, strict=True), zip(rows, after, strict=True))
        )
    change = difference(here, there, "verdict_suite")
    if not change.n:
        raise UserError(f"none of {len(rows)} gold queries gave a result", f"look at {SPLITS}")
    return change


def verdict(target: Path, change: Difference, alike: int, questions: int, anyway: bool) -> str:
    """What the comparison says, for a person; in red where the export is worse.

    Raises:
        UserError: it is worse by more than `TOLERATED`, and that is not wanted `anyway`.
    """
    said = f"{target}: {change.in_words('the adapter')}"
    if alike < questions:
        said += f"; {questions - alike} of {questions} prompts are read as other tokens than in training"
    if change.change >= -TOLERATED:
        return said
    from rich.console import Console

    Console(stderr=True).print(f"[red bold]The export answers {-change.change:.1%} worse than the adapter.[/]")
    if not anyway:
        raise UserError(f"not kept: {said}", "choose a finer form (Q8_0, F16, merged), or keep it with --anyway")
    return said


def template(frame: Frame) -> str:
    """The frame as a chat template (Jinja) of one user message, which holds schema and question."""
    head, tail = (text.replace("\n", "\\n") for text in (frame.head, frame.tail))
    return "{{ '" + head + "' + messages[-1]['content'] + '" + tail + "' }}"


def modelfile(name: str, frame: Frame, stop: str, context: int) -> str:
    """Ollama's description of the model: greedy, framed as in training, with room for the longest test prompt.

    The tables may be the system message, and the question the user's; without one the user's message holds both.

    >>> print(modelfile("m.gguf", Frame("<u>", "</u>", special=True), "<end>", 900))
    FROM ./m.gguf
    TEMPLATE \"\"\"<u>{{ if .System }}PostgreSQL schema:
    {{ .System }}
    <BLANKLINE>
    Question: {{ end }}{{ .Prompt }}</u>\"\"\"
    PARAMETER temperature 0
    PARAMETER repeat_penalty 1
    PARAMETER num_ctx 2048
    PARAMETER stop "<end>"
    <BLANKLINE>
    """
    texts = {"head": frame.head, "tail": frame.tail, "schema": SCHEMA, "question": QUESTION, "stop": stop}
    return Template(MODELFILE.read_text(encoding="utf-8")).substitute(texts, name=name, context=max(2048, context))
