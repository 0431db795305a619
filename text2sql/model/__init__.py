"""The model: prompt, packing, base model, LoRA and quantization, training, generation.

Modules of this package import torch and its company; this file only sets what must be set before they are imported.
"""

import logging
import os
import warnings

# Threads that spin while they wait slow two torch processes on few cores down 80-fold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# bitsandbytes looks for a kernel on the model hub, which nothing here needs, and warns that it is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# transformers warns about its own use of a name that it is about to drop.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
