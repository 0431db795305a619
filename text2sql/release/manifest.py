"""manifest.json of a release: the bytes that it is, the bytes that it was made of, and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import digest, sha256_tree

#: what the adapter was made of, in the order of the pipeline
INPUTS = ("data/source", "data/postgres/examples.jsonl", "data/splits", "data/prompts", "models/base")
CODE = ("stages", "text2sql")
SCORE = ("n", "execution_accuracy", "execution_accuracy_strict", "valid_sql")


def make_manifest(release: Path, params: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    """Checksums (SHA-256) of the released files, of the data, models and code behind them; parameters and score.

    Args:
        release: the folder with adapter, tokenizer and card.
        params: the sections of params.yaml that decide what the adapter is and how it is asked.
        score: metrics/score.json.
    """
    return {
        "files": sha256_tree(release),
        "made_of": {name: digest(Path(name)) for name in INPUTS},
        "code": {name: digest(Path(name)) for name in code_paths()},
        "params": params,
        "score": {key: score[key] for key in SCORE},
    }


def code_paths(pipeline: Path = Path("dvc.yaml")) -> list[str]:
    """The code that the stage release depends on in dvc.yaml, which is the code of every stage before it.

    Raises:
        UserError: there is no pipeline in this folder.
    """
    from omegaconf import OmegaConf

    if not pipeline.exists():
        raise UserError(f"{pipeline} is missing", "run this in the repository's root")
    dependencies = OmegaConf.load(pipeline).stages.release.deps
    return [path for path in dependencies if path.split("/")[0] in CODE]
