"""The loss: the mean negative log-likelihood of the answer tokens of a whole step, on all processes.

The output layer (`lm_head`, a quarter of the small model's work) is applied only at positions that predict an answer
token. TRL does so on GPUs; on a CPU it computes every position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from text2sql.model.fused import TokenLoss


@dataclass(frozen=True)
class Loss:
    """Sums over the answer tokens of a flat sequence: `nll` in nats (differentiable), `correct` and `entropy` (not)."""

    nll: torch.Tensor
    correct: torch.Tensor
    entropy: torch.Tensor
    tokens: int


def answer_loss(model: torch.nn.Module, batch: dict[str, Any]) -> Loss:
    """The loss sums of a batch of `packing.collate`.

    `model` may be wrapped for several processes: it is called as a whole, once.
    """
    labels = batch["labels"][0]
    predicting = batch["predicting"]
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        layout=batch["layout"],
        logits_to_keep=predicting,
        use_cache=False,
    ).logits.squeeze(0)
    # In float32: in bfloat16 the log-likelihood of a likely token would be rounded to zero.
    targets = labels[predicting + 1]
    nll, best, entropy = TokenLoss.apply(logits, targets)
    return Loss(nll.sum(), (best == targets).sum(), entropy.sum(), targets.numel())
