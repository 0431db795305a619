"""A sweep of six experiments, queued, two workers, the tiny model: do DVC's experiments and MLflow's runs match?

    python dev/sweep.py            # six experiments
    python dev/sweep.py --kill     # the same, but a training and then both workers are killed in the middle
    python dev/sweep.py --keep F   # leave the clone in the folder F, to look around

Works in a scratch clone of the last commit. An experiment and a run match if they have one name and one adapter: the
hash that MLflow has as a tag must be that of the files in DVC's cache which the experiment's dvc.lock names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

SWEEP = ["lora.r=4,8,16", "train.learning_rate=5.0e-4,1.0e-3"]
NAMES = [f"sweep-{n}" for n in range(1, 7)]
WORKERS = 2
DEADLINE = 1800  # seconds


def sh(*command: str, check: bool = True) -> str:
    """Run a command in the clone; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def prepare(folder: Path) -> None:
    """A clone whose baseline has run with the tiny model, so that the experiments start at training."""
    project = Path(__file__).resolve().parents[1]
    subprocess.run(["git", "clone", "--quiet", project, folder], check=True)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sh("git", "config", "user.name", "sweep")
    sh("git", "config", "user.email", "sweep@localhost")
    sh("git", "switch", "--quiet", "--create", "sweep")
    sh("text2sql", "remote", "none")
    sh("dvc", "exp", "run", "--set-param", "experiment=tiny", "--name", "base")
    sh("git", "add", "--all")
    sh("git", "commit", "--quiet", "--message", "tiny baseline")


def queue() -> None:
    """Queue the sweep, but for what is finished already."""
    sets = [part for override in ["experiment=tiny", *SWEEP] for part in ("--set-param", override)]
    sh("dvc", "exp", "run", "--queue", "--name", "sweep", *sets)


def start() -> None:
    """Start the workers. They stay, so their output must not be a pipe that `sh` reads to its end."""
    quiet = subprocess.DEVNULL
    subprocess.run(["dvc", "queue", "start", "--jobs", str(WORKERS)], check=True, stdout=quiet, stderr=quiet)


def tasks() -> dict[str, str]:
    """Name -> status of each task in DVC's queue."""
    rows = [line.split() for line in sh("dvc", "queue", "status").splitlines()]
    return {row[1]: row[-1] for row in rows if len(row) > 2 and row[1] in NAMES}


def wait(condition: str) -> None:
    """Until no task is queued or running, or until one is `training`."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if condition == "training" and processes("stages.train"):
            return
        if condition == "done" and not {"Queued", "Running"} & set(tasks().values()):
            return
        time.sleep(1)
    raise SystemExit(f"not {condition} within {DEADLINE} s")


def processes(word: str) -> list[psutil.Process]:
    """Processes of this clone that have `word` among their arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in process.cmdline() and Path(process.cwd()).is_relative_to(Path.cwd()):
                found.append(process)
        except psutil.Error:  # it has just ended, or is another user's
            continue
    return found


def kill_in_the_middle() -> None:
    """A training is killed, then both workers with everything that they run, as by a machine that goes down."""
    wait("training")
    time.sleep(5)
    for process in processes("stages.train")[:1]:
        process.send_signal(signal.SIGKILL)
    wait("training")
    time.sleep(5)
    doomed = [
        p for worker in processes("exp") + processes("celery") for p in [worker, *worker.children(recursive=True)]
    ]
    for process in [*doomed, *processes("stages.train")]:
        with suppress(psutil.Error):  # it has just ended
            process.send_signal(signal.SIGKILL)


def again() -> None:
    """What a user does after that: clear the queue, queue what is missing, start."""
    sh("dvc", "queue", "remove", "--all", check=False)
    done = set(experiments())
    for number, name in enumerate(NAMES):
        if name not in done:
            r, rate = number // 2, number % 2
            chosen = [
                f"{o.split('=')[0]}={o.split('=')[1].split(',')[i]}" for o, i in zip(SWEEP, (r, rate), strict=True)
            ]
            sets = [part for override in ["experiment=tiny", *chosen] for part in ("--set-param", override)]
            sh("dvc", "exp", "run", "--queue", "--force", "--name", name, *sets)
    start()


def experiments() -> dict[str, str]:
    """Name -> commit of each DVC experiment."""
    lines = sh("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    pairs = (line.split() for line in lines if "/exec/" not in line and "/stash" not in line and "celery" not in line)
    return {ref.rpartition("/")[2]: commit for ref, commit in pairs if ref.rpartition("/")[2] in NAMES}


def adapter_of(commit: str) -> str:
    """The adapter's hash by the files that the commit's dvc.lock names, out of DVC's cache."""
    lock = OmegaConf.create(sh("git", "show", f"{commit}:dvc.lock"))
    md5 = next(out.md5 for out in lock.stages.train.outs if out.path == "models/adapter")
    cache = Path(".dvc/cache/files/md5")
    listing = json.loads((cache / md5[:2] / md5[2:]).read_text())
    hashes = {
        f["relpath"]: hashlib.sha256((cache / f["md5"][:2] / f["md5"][2:]).read_bytes()).hexdigest() for f in listing
    }
    return hashlib.sha256(json.dumps(dict(sorted(hashes.items())), sort_keys=True).encode()).hexdigest()


def report() -> bool:
    """Experiments beside runs, as a table; whether all match."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
    group = client.get_experiment_by_name("text2sql").experiment_id
    runs = [r for r in client.search_runs([group]) if r.info.run_name in NAMES]
    table = Table("experiment", "adapter in DVC", "runs", "status", "adapter in MLflow", "steps", "match")
    good = True
    found = experiments()
    for name in NAMES:
        mine = [r for r in runs if r.info.run_name == name]
        digest = adapter_of(found[name]) if name in found else "none"
        tagged = mine[0].data.tags.get("adapter_sha256", "none") if mine else "none"
        steps = [m.step for m in client.get_metric_history(mine[0].info.run_id, "loss/train_nats")] if mine else []
        scored = bool(mine) and "execution_accuracy" in mine[0].data.metrics
        match = len(mine) == 1 and mine[0].info.status == "FINISHED" and digest == tagged and scored
        match = match and sorted(steps) == list(range(1, len(steps) + 1))
        good = good and match
        status = mine[0].info.status if mine else "none"
        table.add_row(name, digest[:12], str(len(mine)), status, tagged[:12], str(len(steps)), "yes" if match else "NO")
    Console().print(table)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", action="store_true", help="kill a training and both workers in the middle")
    parser.add_argument("--keep", type=Path, help="leave the clone in this folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        prepare(chosen.keep.resolve() if chosen.keep else Path(scratch) / "clone")
        print(f"baseline after {time.monotonic() - started:.0f} s", flush=True)
        started = time.monotonic()
        queue()
        start()
        if chosen.kill:
            kill_in_the_middle()
            print(f"killed after {time.monotonic() - started:.0f} s: {tasks()}", flush=True)
            again()
        wait("done")
        print(f"{len(NAMES)} experiments with {WORKERS} workers in {time.monotonic() - started:.0f} s: {tasks()}")
        good = report()
        os.chdir(Path(__file__).parent)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
