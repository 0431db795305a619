"""What every pipeline stage has in common: its parameters are checked, how it fails, its last line.

A stage is `python -m stages.NAME`. Its `read_options(params)` builds all that it takes from params.yaml, and nothing
else reads params there: so every stage's values can be checked before the first one works (`validate`), and that
dvc.yaml declares exactly what a stage reads (tests/test_dvc_yaml.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from text2sql.config import (
    CONF,
    MARK,
    PARAMS,
    compose,
    dvc_stages,
    flatten,
    list_differences,
    overrides_of_params,
    parse_yaml,
    read_params,
    section,
)
from text2sql.errors import UserError, exits
from text2sql.files import write_text

SHOWN = 5  # differences named in the message
# The last state that was found good, so that Hydra (0.5 s) is imported once, and not by each stage.
CHECKED = Path(".dvc/tmp/params-checked")


def run(main: Callable[[], str], arguments: bool = False) -> None:
    """Run a stage's `main`, which returns what it made, as the last line; a `UserError` ends with status 1.

    `--help` prints what the stage does. `arguments`: the stage reads arguments of its own, others take none.
    """
    started = time.perf_counter()
    name = Path(sys.argv[0]).stem
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(inspect.getdoc(sys.modules["__main__"]))
        return
    if len(sys.argv) > 1 and not arguments:
        sys.exit(f"{name}: a stage takes no arguments but --help; parameters are in params.yaml (`make params`)")
    with exits(name):
        check()
        summary = main()
    print(f"{name}: {summary} ({time.perf_counter() - started:.1f} s)", flush=True)


def check() -> None:
    """Refuse a params.yaml that is not what conf/ composes, or that any stage would refuse.

    In an experiment DVC has just composed the file with the experiment's overrides, so it is right by construction and
    only its values are checked. A file composed by hand (`text2sql params model=tiny`) names its overrides.
    A folder without conf/ has nothing to compare with.

    Raises:
        UserError: with the differing keys and the command that mends it, or with the wrong value.
    """
    if not CONF.is_dir():
        return
    params = read_params()
    experiment = "DVC_EXP_NAME" in os.environ
    overrides = overrides_of_params()
    if overrides and not experiment:
        print(f"notice: params.yaml is composed with {' '.join(overrides)} (`make params`: the default)", flush=True)
    state = _state(experiment)
    if CHECKED.exists() and CHECKED.read_text() == state:
        return
    try:
        validate(params)
    except UserError as error:  # `dvc exp run -S` leaves the refused value in params.yaml
        remedy = f"{error.remedy or 'give another value'}; `make params` goes back to the default"
        raise UserError(error.what, remedy) from None
    if not experiment and (differences := list_differences(params, parse_yaml(compose(overrides)))):
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        experiment_left = f"to go on with these values, `text2sql params {shlex.join(overrides_for(params))}`"
        raise UserError(
            f"params.yaml is not what conf/ composes: {'; '.join(differences[:SHOWN])}{more}",
            f"to go back to the default, `make params`; {experiment_left}; to try others, "
            "`dvc exp run -S <key>=<value>`; to keep them, change conf/",
        )
    if CHECKED.parent.parent.is_dir():
        write_text(CHECKED, state)


def overrides_for(params: dict[str, Any]) -> list[str]:
    """Hydra overrides that compose `params`: the nearest recipe of conf/experiment, and each value that differs."""
    candidates = []
    for recipe in [None, *sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))]:
        chosen = [f"experiment={recipe}"] if recipe else []
        with contextlib.suppress(UserError):  # a recipe that cannot be composed is not the one that was
            candidates.append(chosen + _changes(flatten(params), flatten(parse_yaml(compose(chosen)))))
    return min(candidates, key=len)


def _changes(actual: dict[str, Any], composed: dict[str, Any]) -> list[str]:
    """Hydra overrides that turn the flat `composed` into `actual`."""
    changed = [key for key, value in actual.items() if key not in composed or composed[key] != value]
    added = {key: "" if key in composed else "+" for key in changed}
    removed = [f"~{key}" for key in composed if key not in actual]
    return [f"{added[key]}{key}={json.dumps(actual[key], ensure_ascii=False)}" for key in changed] + removed


def validate(params: dict[str, Any]) -> None:
    """Build the options of every stage of the pipeline.

    Raises:
        UserError: a value is missing, of the wrong type, or impossible.
    """
    from text2sql.track import Tracking

    for name in stage_names():
        importlib.import_module(f"stages.{name}").read_options(params)
    section(Tracking, "tracking", params)


def stage_names() -> list[str]:
    """The pipeline's stages, in dvc.yaml's order."""
    return list(dvc_stages())


def _state(experiment: bool) -> str:
    """A hash of all that `check` looks at."""
    digest = hashlib.sha256(f"experiment: {experiment}".encode())
    code = sorted([*Path("stages").glob("*.py"), *Path("text2sql").rglob("*.py")])
    for path in [PARAMS, Path("dvc.yaml"), *sorted(CONF.rglob("*.yaml")), *code]:
        digest.update(f"\n{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def write_params(overrides: list[str]) -> str:
    """Compose params.yaml from conf/ with Hydra `overrides`; returns what was done."""
    text = compose(overrides)
    mark = f"{MARK}{json.dumps(overrides)}\n" if overrides else ""
    validate(parse_yaml(text))
    write_text(PARAMS, mark + text)
    return f"{PARAMS}: composed from conf/ ({' '.join(overrides) or 'default'})"
