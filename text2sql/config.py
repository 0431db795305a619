"""The configuration: conf/ composed into params.yaml as `dvc exp run` does (`make params`), and read as typed options.

DVC composes conf/ into params.yaml in `dvc exp run` only. `dvc repro` takes the file as it lies there: an edit in conf/
would go unseen, and what the last experiment changed would stay: every stage compares first (text2sql/stage.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Gt, Le

from text2sql.errors import UserError, as_made
from text2sql.workspace import SCORE

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

CONF = Path("conf")
PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
#: sections of params.yaml that decide an adapter, and those that decide its score
TRAINING_SECTIONS = ("seed", "data", "model", "quantization", "lora", "prompt", "train")
SCORING_SECTIONS = ("predict", "score")
MARK = "# Composed by hand, with: "  # and the overrides as a JSON list: the first line of such a params.yaml
T = TypeVar("T")
#: a timeout of PostgreSQL, which counts milliseconds in 32 bits: a day at most
Seconds = Annotated[float, Gt(0), Le(86_400)]


def compose(overrides: list[str] | None = None, conf: Path = CONF) -> str:
    """The composition of conf/config.yaml with Hydra `overrides`, as YAML text, the same that DVC writes.

    Raises:
        UserError: an unknown group, option or key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            config = hydra_compose("config", overrides=overrides or [])
    except HydraException as error:
        raise UserError(f"conf/ cannot be composed with {overrides}: {error}", "see the files of conf/") from None
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """The whole of params.yaml as plain containers.

    OmegaConf reads it, because PyYAML takes `2e-4` for a string.

    Raises:
        UserError: the file is missing, or is not a YAML mapping without aliases (a few lines of which can stand for
            gigabytes).
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    again = "`make params` composes the file again"
    if not path.exists():
        raise UserError(f"{path} is missing", f"run this in the repository's root; {again}")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UserError(f"{path} has YAML aliases", again)
        params = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}", again) from None
    if not params or not isinstance(params, dict) or not all(isinstance(key, str) for key in params):
        raise UserError(f"{path} is no list of sections, as conf/ composes them", again)
    return typing.cast(dict[str, Any], params)


def dvc_stages(path: Path = Path("dvc.yaml")) -> dict[str, Any]:
    """The stages of dvc.yaml or dvc.lock by their names, in its order."""
    import yaml

    # By libyaml: in Python, reading dvc.lock takes half a second.
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)["stages"]


def require_made_with(params: dict[str, Any]) -> None:
    """Refuse a workspace whose score DVC made with other parameters than `params`: an experiment that failed leaves its
    own in params.yaml, beside the adapter and the figures of the run before.

    What stages made without DVC is not in dvc.lock: of it nothing is known, and nothing refused.

    Raises:
        UserError: with the parameters that differ.
    """
    with as_made(LOCK, "`git checkout dvc.lock`"):
        # Not by `dvc_stages`: to libyaml, which reads YAML 1.1, 5e-05 is a text.
        stages = parse_yaml(LOCK.read_text(encoding="utf-8"))["stages"] if LOCK.exists() else {}
        made = {out["path"]: out.get("md5") for stage in stages.values() for out in stage["outs"]}
        if not SCORE.exists() or made.get(SCORE.as_posix()) != hashlib.md5(SCORE.read_bytes()).hexdigest():
            return
        for name, stage in stages.items():
            for key, value in stage.get("params", {}).get(PARAMS.as_posix(), {}).items():
                if value_at(params, key) != value:
                    what = f"{SCORE} is of other parameters than {PARAMS}: of another {key} (stage {name})"
                    remedy = "`dvc repro` makes it with these; `make params` or `dvc exp apply NAME` brings those back"
                    raise UserError(what, remedy)


def section(cls: type[T], dotted: str, params: dict[str, Any] | None = None) -> T:
    """The part of params.yaml at `dotted` ("train", "data.source") as an instance of the dataclass `cls`.

    Raises:
        UserError: a key is missing, unknown, of the wrong type, or refused by `cls.__post_init__`.
    """
    return typed(cls, value_at(read_params() if params is None else params, dotted), dotted)


def value_at(params: dict[str, Any], dotted: str) -> Any:
    """What params.yaml has at `dotted` ("train.max_length").

    Raises:
        UserError: nothing is there.
    """
    value: Any = params
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"params.yaml has no {dotted}", "see conf/, and run `make params` to compose it")
        value = value[key]
    return value


def read_seed(params: dict[str, Any]) -> int:
    """The seed of every random choice.

    Raises:
        UserError: it is no whole number from 0 to 2^32 - 1, which is what all the libraries take.
    """
    seed = params.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed!r}", "allowed: whole numbers from 0 to 4294967295")
    return seed


def typed(cls: type[T], value: Any, where: str) -> T:
    """`value` (plain containers) as the dataclass `cls`; `where` is its dotted place, for messages.

    Raises:
        UserError: with the key, what it is, and what is allowed.
    """
    from pydantic import TypeAdapter, ValidationError

    _be_strict(cls)
    try:
        # From JSON: there strictness takes a list for a tuple, but no text for a number and no 1 for true.
        return TypeAdapter(cls).validate_json(json.dumps(value))
    except ValidationError as error:
        raise _refusal(cls, error.errors()[0], where) from None


def _be_strict(cls: Any) -> None:
    """Let pydantic refuse unknown keys and values of other types for the dataclass `cls` and those in its fields."""
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True}
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            _be_strict(hint)


def _refusal(cls: type, problem: ErrorDetails, where: str) -> UserError:
    """What pydantic found first, in the words of params.yaml."""
    place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    value, context = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "unexpected_keyword_argument":
            known = ", ".join(_keys(cls, problem["loc"][:-1]))
            return UserError(f"{place} is not a known key", f"known keys beside it: {known}")
        case "missing":
            return UserError(f"{place} is missing", "see conf/, and run `make params`")
        case "literal_error":
            return UserError(f"{place} is {value!r}", f"allowed: {context['expected']}")
        case "value_error":
            change = f"change it in conf/ or with --set-param {place}.<key>=<value>"
            return UserError(f"{place}.{context['error']}", change)
        case "dataclass_type":
            return UserError(f"{place} must be a section, not {value!r}", "see conf/")
    expected = problem["msg"].replace("Input should", "it should")
    return UserError(f"{place} is {value!r}: {expected}", f"change it in conf/ or with --set-param {place}=<value>")


def _keys(cls: Any, place: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `place` below `cls`."""
    for part in place:
        cls = typing.get_type_hints(cls)[part]
    return [field.name for field in dataclasses.fields(cls)]


def require(condition: bool, message: str) -> None:
    """For `__post_init__` of a params dataclass: `message` starts with the field's name."""
    if not condition:
        raise ValueError(message)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections by dotted keys.

    >>> flatten({"seed": 1, "train": {"epochs": 1.0, "limits": {}}})
    {'seed': 1, 'train.epochs': 1.0, 'train.limits': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def list_differences(actual: dict[str, Any], composed: dict[str, Any]) -> list[str]:
    """What differs, in words: `train.epochs is 2.0, conf/ says 1.0`."""
    here, there = flatten(actual), flatten(composed)
    differing = [
        name for name in {**there, **here} if name not in here or name not in there or here[name] != there[name]
    ]
    ours = {name: f"is {here[name]!r}" if name in here else "is missing" for name in differing}
    theirs = {name: f"says {there[name]!r}" if name in there else "does not have it" for name in differing}
    return [f"{name} {ours[name]}, conf/ {theirs[name]}" for name in differing]


def parse_yaml(text: str) -> dict[str, Any]:
    """A YAML mapping as plain containers."""
    from omegaconf import OmegaConf

    return dict(OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]


def overrides_of_params() -> list[str]:
    """The overrides that params.yaml was composed with by hand."""
    first = PARAMS.read_text(encoding="utf-8").partition("\n")[0]
    return list(json.loads(first.removeprefix(MARK))) if first.startswith(MARK) else []
