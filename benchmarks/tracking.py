"""What tracking costs a training: seconds that it waits, and processor time that is taken from it.

    python benchmarks/tracking.py                     # of the last training, as metrics/train.json has it
    python benchmarks/tracking.py --steps 100 --seconds 600 --adapter-mb 20

Records what such a training records, at its pace, into a scratch folder: for 20 and for 80 seconds, from which follows
what tracking costs once (MLflow's import, the adapter) and what it costs each second. The cost is the time in which the
training waits for the recorder, and the processor time of the process that sends to MLflow, shared by the cores, both
against the training's seconds. Processor time depends little on what else the machine does; waiting does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from text2sql.config import read_params
from text2sql.tracking import training_run

ACTED = (20.0, 80.0)  # seconds


def act(seconds: float, step_seconds: float, megabytes: float, enabled: bool) -> dict[str, float]:
    """Record a training; seconds that it waited, and processor seconds of itself and of the sender."""
    params = read_params()
    params["tracking"]["kind"] = "mlflow" if enabled else "none"
    params["tracking"]["uri"] = None
    adapter = Path("adapter")
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_model.safetensors").write_bytes(os.urandom(int(megabytes * 1e6)))
    waited = -time.perf_counter()
    sender = -sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    with training_run(f"benchmark-{seconds}", params) as run:
        waited += time.perf_counter()
        for step in range(1, 1 + round(seconds / step_seconds)):
            time.sleep(step_seconds)
            waited -= time.perf_counter()
            names = (
                "train_loss",
                "learning_rate",
                "grad_norm",
                "token_accuracy",
                "examples_per_second",
                "memory_bytes",
            )
            run.metrics(dict.fromkeys(names, 1 / step), step=step)
            waited += time.perf_counter()
        waited -= time.perf_counter()
        run.adapter(adapter, val_loss=0.5)
    waited += time.perf_counter()
    return {"waited": waited, "sender": sender + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="optimizer steps of the training")
    parser.add_argument("--seconds", type=float, help="how long it takes")
    parser.add_argument("--adapter-mb", type=float, default=20.0, help="size of the adapter; of SmolLM2-135M, r 16: 20")
    chosen = parser.parse_args()
    if not (chosen.steps and chosen.seconds):
        last = json.loads(Path("metrics/train.json").read_text())
        chosen.steps, chosen.seconds = last["steps"], last["seconds"]
    cores = len(os.sched_getaffinity(0))
    project = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "params.yaml").write_text((project / "params.yaml").read_text())
        (Path(scratch) / ".dvc").mkdir()
        os.environ["PYTHONPATH"] = str(project)
        os.environ.pop("DVC_ROOT", None)
        os.chdir(scratch)
        act(1, 1, 0, enabled=True)  # makes the database, which is done once in a clone's life
        short, long = (act(t, chosen.seconds / chosen.steps, chosen.adapter_mb, enabled=True) for t in ACTED)
        off = act(ACTED[0], chosen.seconds / chosen.steps, chosen.adapter_mb, enabled=False)
        os.chdir(project)
    table = Table("", "once", "a minute", f"in {chosen.seconds:.0f} s")
    total = 0.0
    for name, key, share in (("training waits", "waited", 1), ("sender's processor seconds", "sender", cores)):
        slope = max(0.0, (long[key] - short[key]) / (ACTED[1] - ACTED[0]))
        once = max(0.0, short[key] - slope * ACTED[0])
        table.add_row(name, f"{once:.2f} s", f"{60 * slope:.2f} s", f"{once + slope * chosen.seconds:.2f} s")
        total += (once + slope * chosen.seconds) / share / chosen.seconds
    table.add_row("cost", "", "", f"{total:.2%}")
    table.add_row("cost of tracking=none", "", "", f"{off['waited'] / ACTED[0]:.2%}")
    Console().print(table)


if __name__ == "__main__":
    main()
