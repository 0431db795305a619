"""What there is: the workspace's adapter (the end of `make repro`), and the experiments beside it (`make experiments`).

python -m text2sql.results                  # accuracy, where adapter and report lie, what to type next
python -m text2sql.results --experiments    # each DVC experiment with its figures and what it changed
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from text2sql.config import PARAMS, read_params, require_made_with
from text2sql.errors import UserError, as_made, exits
from text2sql.files import git, read_json
from text2sql.track import flat, record
from text2sql.workspace import ADAPTER, PLOTS, RELEASE, SCORE, accuracy_in_words, is_released

#: columns of the table: metrics/brief/ has these
FIGURES = {"accuracy": "accuracy", "strict": "strict", "valid_sql": "valid", "val_loss": "val loss", "minutes": "min"}
#: sections of which a name says all, and what changes no result
NAMED = ("data.source.", "model.", "tracking.")

#: what git does not bring into a new clone
ABSENT = "not in this clone: `make repro` makes it, `dvc pull` fetches it"


def workspace_summary() -> str:
    """What the pipeline left in the workspace, and what to do with it.

    Raises:
        UserError: it has not been run.
    """
    params, score = read_params(), read_json(SCORE)
    same = not ADAPTER.is_dir() or is_released()
    parts = "adapter, tokenizer, card" if same else "not of this adapter: see what the stage release said"
    alone = f"; the adapter alone: {ADAPTER}/" if ADAPTER.is_dir() else ""
    release = f"{RELEASE}/ ({parts}){alone}" if RELEASE.is_dir() else ABSENT
    report = PLOTS / "report.html"
    with as_made(f"{SCORE} or {PARAMS}", "`dvc repro score`, `make params`"):
        how = "without the adapter" if params["predict"]["zero_shot"] else f"trained on {params['data']['name']}"
        asked = f"{params['model']['name']} {how}"
        right = f"{accuracy_in_words(score)}, {100 * score['valid_sql']:.1f} % valid SQL"
    return "\n".join(
        (
            f"{asked}: {right}",
            f"  release   {release}",
            f"  report    {report if report.exists() else ABSENT}",
            "  ask       text2sql ask --schema examples/shop.sql",
            "  demo      make demo",
            "  compare   make experiments",
        )
    )


@dataclass(frozen=True)
class Experiment:
    """One of `dvc exp show --json`: `state` is success, failed, queued or running; parameters by dotted names."""

    name: str
    state: str
    figures: Mapping[str, float]
    params: Mapping[str, str]


def baselines() -> list[str]:
    """HEAD, and the commits that experiments started from, without which `dvc exp show` has those of HEAD only.

    DVC keeps experiment NAME on commit 123456... as the git reference refs/exps/12/3456.../NAME.
    """
    references = git("for-each-ref", "--format=%(refname)", "refs/exps")
    matches = re.findall(r"^refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/", references, re.MULTILINE)
    return ["HEAD", *sorted({"".join(match) for match in matches})]


def read_experiments(rows: list[dict[str, Any]]) -> list[Experiment]:
    """The workspace, and every experiment of every commit that `dvc exp show --json` gave.

    One that did not end has no figures: DVC shows those of the commit that it started from. What DVC could not read (it
    gives an error instead of data) is left out.
    """
    given = [("workspace", "success", row.get("data")) for row in rows[:1]]
    for row in rows[1:]:
        for one in row.get("experiments") or []:
            state = (one["executor"] or {}).get("state", "success")
            first = one["revs"][0]
            given.append((one["name"] or first["name"] or first["rev"][:7], state, first.get("data")))
    experiments = []
    for name, state, data in given:
        metrics = _mappings(data, "metrics") if state == "success" else []
        figures = {key: value for part in metrics for key, value in part.items() if isinstance(value, int | float)}
        params = flat({key: value for part in _mappings(data, "params") for key, value in part.items()})
        experiments.append(Experiment(name, state, figures, params))
    return experiments


def _mappings(data: dict[str, Any] | None, kind: str) -> list[dict[str, Any]]:
    """The content of the files of a kind, as far as they are mappings and DVC could read them."""
    files = [file.get("data") for file in (data or {}).get(kind, {}).values()]
    return [content for content in files if isinstance(content, dict)]


def experiment_table(experiments: list[Experiment]) -> Table:
    """Best first, each with the parameters in which it differs from the workspace, the first of `experiments`."""
    base = experiments[0].params if experiments else {}
    table = Table("experiment", *FIGURES.values(), "changed")
    table.columns[0].overflow = table.columns[-1].overflow = "fold"
    for column in table.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    for one in sorted(experiments, key=lambda one: -one.figures.get("accuracy", -1.0)):
        changed = {name: value for name, value in one.params.items() if base.get(name) != value and is_shown(name)}
        figures = [f"{one.figures[name]:.4g}" if name in one.figures else "-" for name in FIGURES]
        said = "\n".join(f"{name}={value}" for name, value in changed.items())
        title = one.name if one.state == "success" else f"{one.name} ({one.state})"
        table.add_row(Text(title), *figures, Text(said))
    return table


def is_shown(name: str) -> bool:
    """Whether a parameter says something that no other says: a data set's and a model's name stand for the rest."""
    return name in ("data.name", "model.name") or not name.startswith(NAMED)


def main() -> None:
    """Print the summary, or the experiments; MLflow gets what it lacks of the workspace first."""
    parser = argparse.ArgumentParser(prog="python -m text2sql.results", description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", action="store_true", help="the DVC experiments instead of the workspace")
    with exits("results"):
        if parser.parse_args().experiments:
            command = ["dvc", "exp", "show", "--json", *(f"--rev={commit}" for commit in baselines())]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise UserError("`dvc exp show` failed", "see its message above")
            Console().print(experiment_table(read_experiments(json.loads(done.stdout))))
            return
        require_made_with(read_params())
        link = record()
        print(workspace_summary() + (f"\n  MLflow    mlflow ui, then {link}" if link else ""))


if __name__ == "__main__":
    main()
