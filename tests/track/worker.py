"""A training and its score in a process and a copy of the clone of their own: NAME FIRST-STEP LAST-STEP finish|hang."""

import os
import sys
import time
from pathlib import Path

import mlflow

from tests.track.workspace import finish, loss, params, score
from text2sql.track import training_run


def act(name, first, last, end):
    os.environ["DVC_ROOT"] = str(Path.cwd())
    Path(f"copy-{name}").mkdir(exist_ok=True)
    os.chdir(f"copy-{name}")
    with training_run(name, params(tracking__system_seconds=0.2)) as run:
        for step in range(int(first), int(last)):
            run.metrics({"loss/train_nats": loss(step)}, step=step)
            time.sleep(0.1)  # so that the system's measures are taken, too
        mlflow.flush_async_logging()
        print("trained", flush=True)
        time.sleep(60 if end == "hang" else 0)
        adapter = finish(name, range(int(last)), 0.5, name)
    score(adapter)


if __name__ == "__main__":
    act(*sys.argv[1:])
