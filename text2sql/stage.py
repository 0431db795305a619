"""What every pipeline stage has in common: its parameters, how it fails, its last line.

A stage is `python -m stages.NAME`. Its `read_options(params)` builds all that it takes from params.yaml, and nothing
else reads params there: so every stage's values can be checked before the first one works (text2sql/compose.py), and
that dvc.yaml declares exactly what a stage reads (tests/test_dvc_yaml.py).
"""

from __future__ import annotations

import dataclasses
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from text2sql.errors import UserError

PARAMS = Path("params.yaml")
T = TypeVar("T")
Row = TypeVar("Row")


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """The whole of params.yaml as plain containers.

    OmegaConf reads it, because PyYAML takes `2e-4` for a string.

    Raises:
        UserError: the file is missing.
    """
    from omegaconf import OmegaConf

    if not path.exists():
        raise UserError(f"{path} is missing", "run this in the repository's root; `make params` composes the file")
    return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path), resolve=True))


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


def run(main: Callable[[], str]) -> None:
    """Run a stage's `main`, which returns what it made, as the last line; a `UserError` ends with status 1."""
    started = time.perf_counter()
    name = Path(sys.argv[0]).stem
    from text2sql.compose import check

    try:
        check()
        made = main()
    except UserError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted")
    print(f"{name}: {made} ({time.perf_counter() - started:.1f} s)", flush=True)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields `advance(n)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n=1: bar.advance(task, n)


def track(rows: Iterable[Row], label: str, total: int | None = None) -> Iterator[Row]:
    """Yield `rows` under a progress bar."""
    if total is None and hasattr(rows, "__len__"):
        total = len(rows)
    with progress(label, total) as advance:
        for row in rows:
            yield row
            advance(1)
