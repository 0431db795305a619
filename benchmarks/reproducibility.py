"""The same adapter bytes: trained twice, and killed three times on the way.

    python benchmarks/reproducibility.py           # after `dvc repro preflight`; takes the time of three trainings
    python benchmarks/reproducibility.py --killed  # after `dvc repro`: beside the adapter that is there; takes one

Runs the train stage of the configuration in params.yaml in scratch folders beside the real one (same prompts and base
model, nothing tracked): once undisturbed, once more, and once killed with SIGKILL at three random moments and run again
each time. Prints the sha256 of each adapter; ends with status 1 if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from scratch import run, start, workspace

from text2sql.files import sha256
from text2sql.model.adapter import WEIGHTS
from text2sql.workspace import ADAPTER, METRICS

WEIGHTS_FILE = ADAPTER / WEIGHTS
INPUTS = ("data/prompts", "models/base", "metrics/preflight.json")


def finish(folder: Path) -> str:
    """Train to the end; the adapter's sha256."""
    run(folder, "train")
    return sha256(folder / WEIGHTS_FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--killed", action="store_true", help="only that, beside models/adapter")
    options = parser.parse_args()
    chance = random.Random()
    with tempfile.TemporaryDirectory() as scratch:
        if options.killed:
            adapters = [sha256(WEIGHTS_FILE)]
            seconds = json.loads((METRICS / "train.json").read_text())["seconds"]
            print(f"there     {adapters[0]}  ({seconds:.0f} s)", flush=True)
        else:
            started = time.perf_counter()
            adapters = [finish(workspace(Path(scratch) / "first", INPUTS))]
            seconds = time.perf_counter() - started
            print(f"first     {adapters[0]}  ({seconds:.0f} s)", flush=True)
            adapters.append(finish(workspace(Path(scratch) / "again", INPUTS)))
            print(f"again     {adapters[1]}", flush=True)
        folder = workspace(Path(scratch) / "killed", INPUTS)
        for _ in range(3):
            process = start(folder, "train")
            time.sleep(chance.uniform(0.15, 0.3) * seconds)
            ended = process.poll() is not None
            if not ended:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            kept = sorted(p.name for p in folder.glob("checkpoints/*/checkpoint-*"))
            print(
                f"{'ended before the kill' if ended else 'killed'}, checkpoints: {', '.join(kept) or 'none'}",
                flush=True,
            )
        adapters.append(finish(folder))
        print(f"killed    {adapters[-1]}", flush=True)
        shutil.rmtree(folder)
    sys.exit(0 if len(set(adapters)) == 1 else "the adapters differ")


if __name__ == "__main__":
    main()
