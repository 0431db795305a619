"""The loss: the mean negative log-likelihood of the answer tokens of a whole step, on all processes.

The output layer (`lm_head`, a quarter of the small model's work) is applied only at positions that predict an answer
token. TRL does so on GPUs; on a CPU it computes every position.
"""

from __future__ import annotations

from typing import Any

import torch

from text2sql.model.fused import TokenLoss


def answer_loss(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The negative log-likelihood of all answer tokens of a batch of `packing.collate`, in nats.

    `model` may be wrapped for several processes: it is called as a whole, once.
    """
    predicting = batch["predicting"]
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        layout=batch["layout"],
        logits_to_keep=predicting,
        use_cache=False,
    ).logits.squeeze(0)
    # In float32: in bfloat16 the log-likelihood of a likely token would be rounded to zero.
    return TokenLoss.apply(logits, batch["labels"][0, predicting + 1]).sum()
