"""The adapter that a training goes on from (`train.init`): where it comes from, and whether it fits.

An adapter is worth something on its own base model and in its own shape only. So the base model's checksum in its
manifest and the keys of conf/lora are compared before the first step.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.errors import UserError
from text2sql.files import commit_of, digest, read_json, repository_root, sha256
from text2sql.model.adapter import CONFIG, WEIGHTS, check_adapter, check_form
from text2sql.workspace import BASE, KEPT, RELEASE

if TYPE_CHECKING:
    from peft import PeftModel

FORMS = re.compile(r"auto|models:/[^/@]+(@|/)[^/@]+|git:[^\s-]\S*")
#: keys of conf/lora that decide the shape of an adapter, and what its weights mean
SHAPE = ("r", "lora_alpha", "use_rslora", "use_dora", "init_lora_weights", "layers_to_transform", "target_modules")


def is_folder(name: str) -> bool:
    """Whether `train.init` names a folder, and not one of the other forms."""
    return not FORMS.fullmatch(name)


def folder_of(name: str) -> Path:
    """A folder as it is seen from here or, for experiments that run in a copy, from the repository's main folder."""
    return Path(name) if (Path(name) / CONFIG).exists() else repository_root() / name


@contextmanager
def initial_adapter(name: str | None, base: Path) -> Iterator[Path | None]:
    """The folder of the adapter that `train.init` names, for the length of the block; None: there is none.

    Raises:
        UserError: it cannot be had, is broken, or was trained on another base model or in another form.
    """
    with tempfile.TemporaryDirectory() as scratch:
        base_digest = digest(base) if name else ""
        adapter = _locate(name, base_digest, Path(scratch) / "adapter") if name else None
        if adapter is not None:
            check_adapter(adapter)
            manifest = _manifest(adapter)
            check_form(adapter, manifest)
            if manifest.get("made_of", {}).get(BASE.as_posix(), base_digest) != base_digest:
                what = f"train.init={name}: the adapter was trained on another base model than the one in {base}"
                raise UserError(what, "choose that one with -S model=..., or start afresh: -S train.init=null")
        yield adapter


def _locate(name: str, base_digest: str, target: Path) -> Path | None:
    if name == "auto":
        return _best_trained(base_digest)
    if name.startswith("models:/"):
        from text2sql.registry import fetch

        fetch(name.removeprefix("models:/"), target)
        return target
    if name.startswith("git:"):
        from text2sql.bucket import run_dvc

        root, commit = str(repository_root()), _commit(name.removeprefix("git:"))
        run_dvc("get", root, RELEASE.as_posix(), "--rev", commit, "--out", str(target), url=f"train.init={name}")
        return target
    return folder_of(name)


def _commit(revision: str) -> str:
    """`revision` as a commit: DVC does not read main~1.

    Raises:
        UserError: git does not know it.
    """
    if (commit := commit_of(revision)) is None:
        raise UserError(f"train.init=git:{revision}: git knows no such revision", "`git log --oneline` lists them")
    return commit


def _best_trained(base_digest: str) -> Path | None:
    """models/release, or else the best of models/kept: on the base model with this checksum, and of general data.

    An adapter of one's own database (`data.source.kind: custom`) is none to go on from: the questions that it learned
    may be among the held-back ones of a new split.
    """
    scores: dict[Path, float] = {}
    for folder in (RELEASE, *sorted((repository_root() / KEPT).glob("*"))):
        # Without a manifest, or of an adapter that was never scored, or is too old.
        with suppress(LookupError, TypeError, UserError):
            manifest = _manifest(folder)
            check_form(folder, manifest)
            accuracy = manifest["score"]["execution_accuracy"]
            if (
                manifest["made_of"][BASE.as_posix()] == base_digest
                and manifest["params"]["data"]["source"]["kind"] != "custom"
            ):
                scores[folder] = accuracy
    return RELEASE if RELEASE in scores else max(scores, key=scores.__getitem__, default=None)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    if not isinstance(manifest, dict) or not isinstance(manifest.get("params", {}), dict):
        raise UserError(f"{path} is no manifest of a release", "restore it (`dvc checkout`), or start afresh")
    return manifest


def checksums(adapter: Path | None) -> dict[str, str]:
    """SHA-256 of the adapter's two files; nothing for none."""
    return {name: sha256(adapter / name) for name in (CONFIG, WEIGHTS)} if adapter else {}


def check_shape(adapter: Path, lora: Mapping[str, Any], where: str) -> None:
    """Compare the adapter's configuration with `lora`, the keys of conf/lora (all linear layers: by name or in words).

    Raises:
        UserError: they differ, with the options that fit.
    """
    config = read_json(adapter / CONFIG)
    differing = {key: config.get(key) for key in SHAPE if _plain(config.get(key)) != _plain(lora[key])}
    if lora["target_modules"] == "all-linear":  # which PEFT turns into names when it sees the model
        differing.pop("target_modules", None)
    if differing:
        said = ", ".join(f"lora.{key} is {lora[key]}, the adapter's {value}" for key, value in differing.items())
        fitting = " ".join(f"-S 'lora.{key}={json.dumps(value)}'" for key, value in differing.items())
        raise UserError(f"{where} does not fit: {said}", f"{fitting}, or start afresh: -S train.init=null")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | set | tuple) else value


def load_weights(model: PeftModel, adapter: Path) -> None:
    """Give the fresh adapter of `model` the weights of `adapter`, in float32.

    Raises:
        UserError: the adapter has another shape.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    check_shape(adapter, vars(model.peft_config["default"]), "the adapter of train.init")
    weights = {name: weight.float() for name, weight in load_file(adapter / WEIGHTS).items()}
    try:
        result = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:  # another size
        raise _misfit(str(error)) from None
    unfilled = [name for name in result.missing_keys if ".lora_" in name]
    if unfilled or result.unexpected_keys:
        raise _misfit(", ".join([*unfilled, *result.unexpected_keys]))


def _misfit(what: str) -> UserError:
    said = " ".join(what.split())[:200]
    return UserError(f"train.init does not fit the base model: {said}", "start afresh: -S train.init=null")
