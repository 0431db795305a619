"""Stage release: the adapter as others get it, with its model card and a manifest that ties it to the bytes it came of.

The folder is complete in itself: adapter, tokenizer, card, and in the manifest the prompt's form, without which the
adapter cannot be asked correctly.

Where the release before was better, or was scored on other data, a copy of it goes to models/kept/ of the repository:
an experiment must not replace hours of training by random weights without a word. With `data=custom` the adapter that
the training went on from (`train.init`) answers the test questions too; where the new one answers worse, the release
that is there stays. It also stays where the base model was scored without the adapter (`predict.zero_shot`); an adapter
that nothing is released before is then released without score and card.

Reads models/adapter/, the metrics and the data folders. Writes models/release/.
"""

from __future__ import annotations

import shutil
from typing import Any

from text2sql.config import SCORING_SECTIONS, TRAINING_SECTIONS, read_params
from text2sql.files import read_json, repository_root, write_json, write_text
from text2sql.release.before import against_initial
from text2sql.release.card import render_card
from text2sql.release.manifest import describe_release, keep_better, make_manifest
from text2sql.stage import run
from text2sql.track import record
from text2sql.workspace import ADAPTER, BASE, KEPT, METRICS, RELEASE

#: the base model's tokenizer goes along, so that the folder can be asked without looking for it
TOKENIZER = "tokenizer*"


def read_options(params: dict[str, Any]) -> dict[str, Any]:
    """The recipe: what others need in order to make and to ask the adapter."""
    return {name: params[name] for name in (*TRAINING_SECTIONS, *SCORING_SECTIONS)}


def main() -> str:
    params = read_options(read_params())
    change = against_initial(params)
    compared = "" if change is None else f"; {change.in_words('the adapter that it went on from')}"
    if change is not None and change.change < 0 and (RELEASE / "manifest.json").exists():
        record()
        return f"{RELEASE}/ stays as it was: the new adapter, in {ADAPTER}/, answers worse{compared}"
    scored = not params["predict"]["zero_shot"]
    if not scored and (RELEASE / "manifest.json").exists():
        record()
        return f"{RELEASE}/ stays as it was: what was scored is the base model without the adapter"
    # Only metrics that are the same every time may shape the release: dvc.lock pins its bytes.
    metrics = {name: read_json(METRICS / f"{name}.json") for name in ("source", "split", "prompts", "score")}
    replaced = keep_better(RELEASE, params, metrics["score"], repository_root() / KEPT) if scored else None
    shutil.rmtree(RELEASE, ignore_errors=True)
    shutil.copytree(ADAPTER, RELEASE)
    for path in sorted(BASE.glob(TOKENIZER)):
        shutil.copy(path, RELEASE)
    (RELEASE / "README.md").unlink(missing_ok=True)  # PEFT's, of the adapter
    if scored:
        write_text(RELEASE / "README.md", render_card(metrics, params))
    manifest = make_manifest(RELEASE, params, metrics["score"] if scored else {})
    write_json(RELEASE / "manifest.json", manifest)
    record()
    size = sum(path.stat().st_size for path in RELEASE.rglob("*"))
    if replaced:
        print(f"notice: {replaced}", flush=True)
    return f"{describe_release(manifest)}: {RELEASE}/ ({size / 1e6:.1f} MB){compared}"


if __name__ == "__main__":
    run(main)
