"""FSDP without GPUs: accelerate shards on accelerators only, torch with gloo on CPUs as well.

What is replaced is the question for a device, twice; the sharding itself is torch's, and accelerate prepares the model
for it as it does on GPUs.
"""

from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from text2sql.model import training


def allow() -> None:
    made = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    state.AcceleratorState.__init__ = init
    training._check_shards = lambda device: None
