"""The loss: the mean negative log-likelihood over the whole global batch, of its answer tokens or of its answers.

The output layer (`lm_head`, a quarter of the small model's work) is applied only at positions that predict an answer
token. TRL does so on GPUs; on a CPU it computes every position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from text2sql.model.fused import TokenLoss
from text2sql.model.packing import IGNORED
from text2sql.model.recipe import LossAggregation


@dataclass(frozen=True)
class Loss:
    """Sums over the answer tokens of a flat sequence: `nll` in nats (differentiable), `correct` and `entropy` (not).

    With sequence_mean `nll` is the sum over answers, of each the mean over its tokens.
    """

    nll: torch.Tensor
    correct: torch.Tensor
    entropy: torch.Tensor
    tokens: int


def answer_loss(model: torch.nn.Module, batch: dict[str, Any], aggregation: LossAggregation = "token_mean") -> Loss:
    """The loss sums of a batch of `packing.collate`.

    `model` may be wrapped for several processes: it is called as a whole, once.
    """
    labels = batch["labels"][0]
    predicting = (labels[1:] != IGNORED).nonzero().squeeze(1)
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        spans=batch["spans"],
        logits_to_keep=predicting,
        use_cache=False,
    ).logits.squeeze(0)
    # In float32: in bfloat16 the log-likelihood of a likely token would be rounded to zero.
    targets = labels[predicting + 1]
    nll, best, entropy = TokenLoss.apply(logits, targets)
    if aggregation == "sequence_mean":
        # Every question keeps a token of its prompt to itself: where positions do not follow, another answer begins.
        answer = F.pad(predicting.diff() > 1, (1, 0)).cumsum(0)
        nll = nll / torch.bincount(answer)[answer]
    return Loss(nll.sum(), (best == targets).sum(), entropy.sum(), targets.numel())
