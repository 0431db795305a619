"""The configuration: conf/ composed into params.yaml as `dvc exp run` does (`make params`), and read as typed options.

DVC composes conf/ into params.yaml in `dvc exp run` only. `dvc repro` takes the file as it lies there: an edit in conf/
would go unseen, and what the last experiment changed would stay: every stage compares first (text2sql/stage.py).
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from text2sql.errors import UserError

CONF = Path("conf")
PARAMS = Path("params.yaml")
MARK = "# Composed by hand, with: "  # and the overrides as a JSON list: the first line of such a params.yaml
T = TypeVar("T")


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


def section(cls: type[T], dotted: str, params: dict[str, Any] | None = None) -> T:
    """The part of params.yaml at `dotted` ("train", "data.source") as an instance of the dataclass `cls`.

    Raises:
        UserError: a key is missing, unknown, of the wrong type, or refused by `cls.__post_init__`.
    """
    value: Any = read_params() if params is None else params
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"params.yaml has no section {dotted}", "run `make params` to compose it from conf/")
        value = value[key]
    return build(cls, value, dotted)


def read_seed(params: dict[str, Any]) -> int:
    """The seed of every random choice.

    Raises:
        UserError: it is no whole number from 0 to 2^32 - 1, which is what all the libraries take.
    """
    seed = params.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed!r}", "allowed: whole numbers from 0 to 4294967295")
    return seed


def build(cls: type[T], value: Any, where: str) -> T:
    """`value` (plain containers) as the dataclass `cls`; `where` is its dotted place, for messages."""
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a section with {', '.join(fields)}, not {value!r}", "see conf/")
    if unknown := sorted(set(value) - set(fields)):
        raise UserError(f"{where}.{unknown[0]} is not a known key", f"known keys of {where}: {', '.join(fields)}")
    needed = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - set(value)):
        raise UserError(f"{where}.{missing[0]} is missing", "see conf/, and run `make params`")
    hints = get_type_hints(cls)
    converted = {key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()}
    try:
        return cls(**converted)
    except ValueError as error:
        raise UserError(f"{where}.{error}", f"change it in conf/ or with --set-param {where}.<key>=<value>") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        return _convert(next(a for a in get_args(hint) if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in get_args(hint):
            raise UserError(f"{where} is {value!r}", f"allowed: {', '.join(map(str, get_args(hint)))}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_convert(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise UserError(f"{where} must be of type {plain.__name__}, not {value!r}", "see conf/")
    return value


def require(condition: bool, message: str) -> None:
    """For `__post_init__` of a params dataclass: `message` starts with the field's name."""
    if not condition:
        raise ValueError(message)


def compare(actual: dict[str, Any], composed: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs, in words: `train.epochs is 2.0, conf/ says 1.0`."""
    differences = []
    for key in [*composed, *(k for k in actual if k not in composed)]:
        name, here, there = f"{prefix}{key}", actual.get(key), composed.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            differences += compare(here, there, f"{name}.")
        elif key not in actual:
            differences.append(f"{name} is missing, conf/ says {there!r}")
        elif key not in composed:
            differences.append(f"{name} is {here!r}, conf/ does not have it")
        elif here != there:
            differences.append(f"{name} is {here!r}, conf/ says {there!r}")
    return differences


def plain(text: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return dict(OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]


def overrides_of_params() -> list[str]:
    """The overrides that params.yaml was composed with by hand."""
    first = PARAMS.read_text(encoding="utf-8").partition("\n")[0]
    return list(json.loads(first.removeprefix(MARK))) if first.startswith(MARK) else []
