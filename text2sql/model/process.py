"""What training and prediction set in their process: stages and engines call `prepare`; importing sets nothing."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import warnings
from pathlib import Path

#: glibc's mallopt: no allocation of its own for large blocks, no memory given back, 256 MB taken at a time
MALLOC = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def prepare() -> None:
    """Set threads, caches and memory for torch; to be called before torch is imported, which reads them once.

    What the user has set in the environment stays.
    """
    # How long torch's threads spin before they sleep, in turns of a loop (GNU OpenMP). Sleeping and waking between the
    # many small operations of a training step takes a third of its time; but spinning slows two torch processes on the
    # same few cores down more than twofold (80-fold where it is endless): DVC's queue workers, in .dvc/tmp, do not.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "0" if ".dvc" in Path.cwd().parts else "5000"
    # How many prepared operations oneDNN, and torch's use of it, keep for the shapes that they meet. A step needs some
    # dozens, of its own number of tokens, which hardly any other step has; of the usual 1,024 the old ones lie
    # scattered over the heap, so that malloc walks longer and longer lists of the gaps between them.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "100")
    # A step allocates and frees gigabytes, in tensors of megabytes. Malloc gives such memory back to the system at
    # once, which clears it for the next tensor: a tenth of a training's time. Here malloc keeps it.
    if platform.libc_ver()[0] == "glibc":
        for option, value in MALLOC:
            ctypes.CDLL(None).mallopt(option, value)
    # TRL reports to the model hub that a trainer was made.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # bitsandbytes looks for a kernel on the model hub, which nothing here needs, and warns that it is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # transformers warns about its own use of a name that it is about to drop.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
