"""manifest.json of a release: the bytes that it is, the bytes that it was made of, and how good it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from text2sql.config import dvc_stages
from text2sql.errors import UserError, as_made
from text2sql.files import digest, read_json, sha256_tree, whole_folder
from text2sql.workspace import BASE, EXAMPLES, PROMPTS, SOURCE, SPLITS

#: what the adapter was made of, in the order of the pipeline
INPUTS = (SOURCE, EXAMPLES, SPLITS, PROMPTS, BASE)
CODE = ("stages", "text2sql")
#: the code that runs; the data lie in the working directory
ROOT = Path(__file__).resolve().parents[2]
SCORE = ("n", "execution_accuracy", "execution_accuracy_strict", "valid_sql")


def make_manifest(release: Path, params: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    """Checksums (SHA-256) of the released files, of the data, models and code behind them; parameters, score, and the
    calibration that turns the likelihood of an answer into a confidence (text2sql/scoring/confidence.py).

    Args:
        release: the folder with adapter, tokenizer and card.
        params: the sections of params.yaml that decide what the adapter is and how it is asked.
        score: metrics/score.json; empty for an adapter that was not scored.
    """
    return {
        "files": sha256_tree(release),
        "made_of": {path.as_posix(): digest(path) for path in INPUTS},
        "code": {name: digest(ROOT / name) for name in code_paths()},
        "params": params,
        "score": {key: score[key] for key in SCORE if score},
        "confidence": score["confidence"]["calibration"] if "confidence" in score else None,
    }


def code_paths() -> list[str]:
    """The code that the stage release depends on in dvc.yaml, which is the code of every stage before it."""
    return [path for path in dvc_stages(ROOT / "dvc.yaml")["release"]["deps"] if path.split("/")[0] in CODE]


def read_manifest(release: Path) -> dict[str, Any]:
    """The manifest of a folder, or nothing where it has none.

    Raises:
        UserError: it is broken.
    """
    path = release / "manifest.json"
    if not path.exists():
        return {}
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("params"), dict):
        raise UserError(f"{path} is no manifest of a release", "restore it (`dvc checkout`), or make it again")
    return manifest


def describe_release(manifest: Mapping[str, Any]) -> str:
    """What a release is, in a line: base model, data set and score.

    >>> params = {"model": {"name": "tiny"}, "data": {"name": "mini"}}
    >>> describe_release({"params": params, "score": {"n": 50, "execution_accuracy": 0.02}})
    'tiny trained on mini, 2.0 % of 50 test questions right'
    """
    params, score = manifest["params"], manifest.get("score")
    said = f"{params['model']['name']} trained on {params['data']['name']}"
    return f"{said}, {100 * score['execution_accuracy']:.1f} % of {score['n']} test questions right" if score else said


def keep_better(release: Path, params: Mapping[str, Any], score: Mapping[str, Any], kept: Path) -> str | None:
    """Copy the release that is about to be replaced to `kept`, unless the new one is on the same data and no worse.

    Of each base model and data set the best is kept: another experiment costs hours, its adapter some megabytes.

    Returns:
        what was replaced and where its copy is; None if nothing is worth keeping.
    """
    try:
        with as_made(release):
            before = read_json(release / "manifest.json")
            accuracy, trained = _accuracy(before), before["params"]
            data, model = trained["data"]["name"], trained["model"]["name"]
    except UserError:  # no release, or one that says nothing of its worth
        return None
    if data == params["data"]["name"] and accuracy <= score["execution_accuracy"]:
        return None
    target = kept / f"{model}-{data}"
    with suppress(UserError), as_made(target):  # nothing is kept yet, or it is broken
        if _accuracy(read_json(target / "manifest.json")) >= accuracy:
            return f"the release that it replaces ({describe_release(before)}) is no better than the one in {target}"
    with whole_folder(target) as partial:
        shutil.copytree(release, partial)
        shutil.rmtree(target, ignore_errors=True)
    return f"it replaces {describe_release(before)}, a copy of which is in {target}"


def _accuracy(manifest: Mapping[str, Any]) -> float:
    return float(manifest["score"]["execution_accuracy"])
