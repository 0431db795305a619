"""One's own database: whether the new adapter answers it better than the adapter that its training went on from.

Both answer the same held-back questions with the same prompts, and are compared in pairs. The earlier adapter is asked
and judged by the stages predict and score themselves, in a folder beside the workspace where it lies in the new one's
place: so nothing but the adapter differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import repository_root, sha256, write_json
from text2sql.model.adapter import WEIGHTS
from text2sql.model.initial import initial_adapter
from text2sql.release.manifest import ROOT
from text2sql.scoring.versus import Difference, difference, from_csv
from text2sql.workspace import ADAPTER, BASE, DUMPS, INDEX, PROMPTS, SPLITS, VERDICTS_CSV

#: what the two stages read, beside the adapter
SHARED = (PROMPTS, SPLITS, DUMPS, INDEX, BASE)
#: as conf/tracking/none.yaml
UNTRACKED = {"tracking": {"kind": "none", "uri": None, "experiment": "none", "system_seconds": 0}}


def against_initial(params: dict[str, Any]) -> Difference | None:
    """The test questions that the workspace's adapter gained and lost against the one that `train.init` names.

    None: there is no such adapter, or it is the same one, or the data are not one's own.

    Raises:
        UserError: the earlier adapter cannot be had, or its predictions or score fail.
    """
    if params["data"]["source"]["kind"] != "custom":
        return None
    with initial_adapter(params["train"]["init"], BASE) as initial:
        if initial is None or sha256(initial / WEIGHTS) == sha256(ADAPTER / WEIGHTS):
            return None
        there = verdicts_of(initial, params)
    return difference(from_csv(VERDICTS_CSV.read_text(encoding="utf-8")), there, "verdict_suite")


def verdicts_of(adapter: Path, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts on the answers of `adapter` to the workspace's test questions; MLflow gets none of them.

    Args:
        params: the sections of params.yaml that the stages predict and score take.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, place in (*((path, path) for path in SHARED), (ADAPTER, adapter)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(place.resolve())
        # JSON is YAML; validation questions are for the confidence of the new adapter only.
        write_json(folder / "params.yaml", params | {"predict": params["predict"] | {"validation": 0}} | UNTRACKED)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(repository_root())}
        for stage in ("predict", "score"):
            command = [sys.executable, "-m", f"stages.{stage}"]
            done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
            if done.returncode:
                what = f"the adapter of train.init could not be compared: stage {stage} failed with it"
                raise UserError(what, "see its message above, then `dvc repro release`")
        return from_csv((folder / VERDICTS_CSV).read_text(encoding="utf-8"))
