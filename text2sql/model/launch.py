"""Several processes for one training, by torchrun: one a GPU, or on the CPU with gloo.

Nothing here is home-made: torchrun starts the processes, DDP (or FSDP) averages their gradients. It is only made sure
that there are as many as configured, since launchers have been seen to start one in silence.
"""

from __future__ import annotations

import os
import sys

from text2sql.errors import UserError


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return os.environ.get("RANK", "0") == "0"


def launch(module: str, processes: int) -> None:
    """Become torchrun with `processes` processes of `python -m module`; returns at once if there is nothing to do.

    This process is replaced, so that what stops it stops torchrun, which stops the rest.

    Raises:
        UserError: torchrun started another number of processes than configured, or there are too few GPUs.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process
        started = int(os.environ["WORLD_SIZE"])
        if started != processes:
            raise UserError(
                f"train.processes is {processes}, but torchrun started {started}",
                "start nnodes * nproc_per_node processes, as many as train.processes says",
            )
        return
    if processes == 1:
        return
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise UserError(
            f"train.processes is {processes}, but this machine has {torch.cuda.device_count()} GPUs",
            "lower it; for several machines start torchrun on each (docs/TRAINING.md)",
        )
    sys.stdout.flush()
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", module]
    os.execv(sys.executable, [sys.executable, *command])
