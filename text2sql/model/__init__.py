"""The model: prompt, packing, base model, LoRA and quantization, training, generation.

Modules of this package import torch and its company; this file only sets what must be set before they are imported.
"""

import ctypes
import logging
import os
import platform
import warnings
from pathlib import Path

# How long torch's threads spin before they sleep, in turns of a loop (GNU OpenMP). Sleeping and waking between the many
# small operations of a training step takes a third of its time; but spinning slows two torch processes on the same few
# cores down more than twofold (80-fold where it is endless), so that DVC's queue workers, in .dvc/tmp, do not.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "0" if ".dvc" in Path.cwd().parts else "5000"
# How many prepared operations oneDNN, and torch's use of it, keep for the shapes that they meet. A step needs some
# dozens, of its own number of tokens, which hardly any other step has; of the usual 1,024 the old ones lie scattered
# over the heap, so that malloc walks longer and longer lists of the gaps between them.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "100")
# A step allocates and frees gigabytes, in tensors of megabytes. Malloc gives such memory back to the system at once,
# which clears it for the next tensor: a tenth of a training's time. Here it keeps it (glibc's mallopt).
if platform.libc_ver()[0] == "glibc":
    _mallopt = ctypes.CDLL(None).mallopt
    for _option, _value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        _mallopt(_option, _value)
# bitsandbytes looks for a kernel on the model hub, which nothing here needs, and warns that it is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# transformers warns about its own use of a name that it is about to drop.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
