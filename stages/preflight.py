"""Eight checks that fail in a minute or two what would otherwise fail in an hour.

Data loads; the model initialises as configured, with LoRA; ten steps lower the loss; a checkpoint saves, also to the
bucket; it loads and goes on exactly; packs give the loss and gradients of separate sequences; inference gives SQL
that parses; memory stays under the limit.

Reads data/prompts and models/base. Writes metrics/preflight.json: the verdicts and the device that they hold for, which
are the same every time; what was measured is printed. `packs: plain`: a GPU's kernels for packs are wrong there, and
training does without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from text2sql.config import read_params, section
from text2sql.files import repository_root, write_json
from text2sql.model.process import prepare
from text2sql.model.recipe import Recipe, read_recipe
from text2sql.model.sources import ModelOptions
from text2sql.stage import run
from text2sql.workspace import BASE, METRICS, PROMPTS

REPORT = METRICS / "preflight.json"


def read_options(params: dict[str, Any]) -> tuple[Recipe, str]:
    """The recipe that is to be trained, and where the model comes from."""
    return read_recipe(params), section(ModelOptions, "model", params).source


def main() -> str:
    prepare()
    recipe, source = read_options(read_params())
    from text2sql.model.base import load_tokenizer
    from text2sql.model.device import device_name
    from text2sql.model.preflight import Preflight, report
    from text2sql.model.training import read_examples

    examples = read_examples(PROMPTS / "train.jsonl", load_tokenizer(BASE))
    checks = []
    folder = repository_root() / "checkpoints"  # on the disk that training needs
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="preflight-", dir=folder) as scratch:
        preflight = Preflight(recipe, BASE, examples, Path(scratch), writes_sql=source != "random")
        for check in preflight.run():
            print(f"preflight: {check.name}: {'passed' if check.passed else 'FAILED'}: {check.found}", flush=True)
            checks.append(check)
    verdicts = {check.name: "passed" if check.passed else "failed" for check in checks}
    verdicts |= {"packs": "plain"} if preflight.plain else {}
    write_json(REPORT, verdicts | {"device": device_name()})
    report(checks)
    return f"{len(checks)} checks passed"


if __name__ == "__main__":
    run(main)
