"""conf/ and params.yaml: composed as `dvc exp run` does (`make params`), and checked before a stage uses them.

DVC composes conf/ into params.yaml in `dvc exp run` only. `dvc repro` takes the file as it lies there: an edit in conf/
would go unseen, and what the last experiment changed would stay. So each stage asks `check` first, which also builds
every stage's options, for a wrong value of the last stage to be said before the first one starts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import write_text
from text2sql.stage import PARAMS, read_params, section

CONF = Path("conf")
MARK = "# Composed by hand, with: "  # and the overrides as a JSON list: the first line of such a params.yaml
SHOWN = 5  # differences named in the message
# The last state that was found good, so that Hydra (0.5 s) is imported once, and not by each stage.
CHECKED = Path(".dvc/tmp/params-checked")


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


def check() -> None:
    """Refuse a params.yaml that is not what conf/ composes, or that any stage would refuse.

    In an experiment DVC has just composed the file with the experiment's overrides, so it is right by construction and
    only its values are checked. A file composed by hand (`python -m text2sql.compose model=tiny`) names its overrides.
    A folder without conf/ has nothing to compare with.

    Raises:
        UserError: with the differing keys and the command that mends it, or with the wrong value.
    """
    if not CONF.is_dir():
        return
    params = read_params()
    experiment = "DVC_EXP_NAME" in os.environ
    overrides = _overrides()
    if overrides and not experiment:
        print(f"notice: params.yaml is composed with {' '.join(overrides)} (`make params`: the default)", flush=True)
    state = _state(experiment)
    if CHECKED.exists() and CHECKED.read_text() == state:
        return
    validate(params)
    if not experiment and (differences := compare(params, _plain(compose(overrides)))):
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise UserError(
            f"params.yaml is not what conf/ composes: {'; '.join(differences[:SHOWN])}{more}",
            "`make params` composes it again; to try other values: `dvc exp run -S <key>=<value>`; "
            "to keep them: change conf/",
        )
    if CHECKED.parent.parent.is_dir():
        write_text(CHECKED, state)


def validate(params: dict[str, Any]) -> None:
    """Build the options of every stage of the pipeline.

    Raises:
        UserError: a value is missing, of the wrong type, or impossible.
    """
    from text2sql.tracking import Tracking

    for name in stage_names():
        importlib.import_module(f"stages.{name}").read_options(params)
    section(Tracking, "tracking", params)


def stage_names() -> list[str]:
    """The pipeline's stages, in dvc.yaml's order."""
    from omegaconf import OmegaConf

    return [str(name) for name in OmegaConf.load("dvc.yaml").stages]


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


def _plain(text: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return dict(OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]


def _overrides() -> list[str]:
    """The overrides that params.yaml was composed with by hand."""
    first = PARAMS.read_text(encoding="utf-8").partition("\n")[0]
    return list(json.loads(first.removeprefix(MARK))) if first.startswith(MARK) else []


def _state(experiment: bool) -> str:
    """A hash of all that `check` looks at."""
    digest = hashlib.sha256(f"experiment: {experiment}".encode())
    for path in [PARAMS, Path("dvc.yaml"), *sorted(CONF.rglob("*.yaml")), *_code()]:
        digest.update(f"\n{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _code() -> list[Path]:
    return sorted([*Path("stages").glob("*.py"), *Path("text2sql").rglob("*.py")])


def main(overrides: list[str]) -> str:
    """Write params.yaml; returns what was done."""
    text = compose(overrides)
    mark = f"{MARK}{json.dumps(overrides)}\n" if overrides else ""
    validate(_plain(text))
    write_text(PARAMS, mark + text)
    return f"{PARAMS}: composed from conf/ ({' '.join(overrides) or 'default'})"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"compose: {error}")
