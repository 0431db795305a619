"""What tracking costs a training: seconds at its start and end, and how much slower its steps become.

    python benchmarks/tracking.py                       # against the last training, as metrics/train.json has it
    python benchmarks/tracking.py --seconds 1465 --adapter-mb 20

Trains nothing: each step multiplies matrices on all cores for about `--step-seconds`, as a training does, and logs what
a training logs. Runs with tracking off and on take turns, as the machine's speed drifts. The steps compare by their
median, the start and the end by the median over the runs. The first run with tracking imports MLflow and is
reported apart; making the database, once in a clone's life, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from text2sql.config import read_params
from text2sql.track import CURVES, training_run
from text2sql.workspace import ADAPTER, METRICS

NAMES = (*CURVES.values(), "training/examples_per_second", "training/memory_gib")


@dataclass(frozen=True)
class Times:
    """Seconds of one run: before the first step, after the last, and of the step at the median."""

    start: float
    end: float
    step: float


def act(params: dict[str, Any], name: str, steps: int, size: int) -> Times:
    """Train in appearance: `steps` products of two matrices of `size` rows, each logged."""
    matrix = torch.rand(size, size)
    begin, taken = time.perf_counter(), []
    with training_run(name, params) as run:
        started = time.perf_counter()
        for step in range(1, 1 + steps):
            before = time.perf_counter()
            matrix @ matrix
            run.metrics(dict.fromkeys(NAMES, 1 / step), step=step)
            taken.append(time.perf_counter() - before)
        stopped = time.perf_counter()
    return Times(started - begin, time.perf_counter() - stopped, median(taken))


def size_for(seconds: float) -> int:
    """Rows of square matrices whose product takes about `seconds` here."""
    matrix = torch.rand(1024, 1024)
    matrix @ matrix
    before = time.perf_counter()
    matrix @ matrix
    return round(1024 * (seconds / (time.perf_counter() - before)) ** (1 / 3))


@contextmanager
def scratch(megabytes: float) -> Iterator[None]:
    """A clone with an adapter and nothing else, as the working directory."""
    project = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("DVC_ROOT", None)
        os.environ["PYTHONPATH"] = str(project)
        os.chdir(folder)
        Path(".dvc").mkdir()
        ADAPTER.mkdir(parents=True)
        (ADAPTER / "adapter_model.safetensors").write_bytes(os.urandom(int(megabytes * 1e6)))
        yield
        os.chdir(project)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="how long the training takes that the cost is compared with")
    parser.add_argument("--adapter-mb", type=float, default=20.0, help="size of the adapter; of SmolLM2-135M, r 16: 20")
    parser.add_argument("--step-seconds", type=float, default=0.3, help="of a step; shorter ones make tracking dearer")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--pairs", type=int, default=3, help="runs with tracking off and on")
    chosen = parser.parse_args()
    seconds = chosen.seconds or json.loads((METRICS / "train.json").read_text())["seconds"]
    params, times = read_params(), {"none": [], "mlflow": []}
    params["tracking"] |= {"uri": None, "system_seconds": 10.0}
    with scratch(chosen.adapter_mb):
        subprocess.run([sys.executable, "-c", "from text2sql.registry import connect; connect()"], check=True)
        size = size_for(chosen.step_seconds)
        for pair in range(-1, chosen.pairs):
            for kind in times:
                params["tracking"]["kind"] = kind
                times[kind].append(act(params, f"pair {pair}", chosen.steps, size))
    table = Table("tracking", "start", "end", "a step")
    rows = {}
    for kind, runs in times.items():
        rows[kind] = Times(*(median(getattr(run, part) for run in runs[1:]) for part in ("start", "end", "step")))
        table.add_row(kind, f"{rows[kind].start:.2f} s", f"{rows[kind].end:.2f} s", f"{rows[kind].step:.4f} s")
    first = times["mlflow"][0]
    off, on = rows["none"], rows["mlflow"]
    once = first.start + on.end  # the first run of a process imports MLflow, as a training does
    slower = on.step / off.step - 1
    table.add_row("", "", "", f"{slower:+.2%}")
    Console().print(table)
    print(f"{once:.1f} s once (a first start: {first.start:.1f} s) and {slower:+.2%} a step:", end=" ")
    print(f"{once / seconds + max(0.0, slower):.2%} of {seconds:.0f} s")


if __name__ == "__main__":
    main()
