"""The next token of each row of a batch, chosen with one wait for the device.

What a step needs on the host (the likeliest tokens, the draws, their logits) comes over in one tensor. Whether names
can be right after a token is asked on the host, for the rows that have `References` only, one token after the other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from text2sql.errors import UserError

if TYPE_CHECKING:
    from text2sql.model.constraint import Constraint

#: tokens of each row that come to the host: the likeliest ones, or draws
PROPOSED = 8
#: tokens that are asked about at most where none of the proposed ones will do, the likeliest first
TRIED = 1024
#: the log probability below which a token is unlikely
UNLIKELY = math.log(0.05)


#: the logit of what is not allowed
NEVER = float("-inf")
Numbers = Sequence[float]


class Choice(NamedTuple):
    """A token with its log probability, and how far its logit lies above that of the next one (of samples: nothing)."""

    token: int
    score: float
    margin: float
    #: of the likeliest token under a constraint: the other allowed ones that are not unlikely, with their log
    #: probabilities; and whether names were not checked, as none could be right
    others: tuple[tuple[int, float], ...] = ()
    dead_end: bool = False


def choose_tokens(
    logits: torch.Tensor,
    constraints: Sequence[Constraint | None],
    draws: Sequence[random.Random | None],
    temperature: float = 1.0,
) -> list[Choice]:
    """The likeliest token of each row of `logits` (rows, vocabulary), or a sampled one, that its constraint allows.

    A row at whose step no token will do has come to a dead end: only the grammar holds it from then on.

    Args:
        draws: for each row None, or the source of its samples at `temperature`.

    Raises:
        UserError: a row has no logit that is a number.
    """
    logits = logits.float()
    norms = torch.logsumexp(logits, dim=-1)
    if any(constraint is not None for constraint in constraints):
        from text2sql.model.constraint import allowed_tokens

        allowed = allowed_tokens(constraints, logits.shape[-1], logits.device)
        logits = logits.masked_fill(~allowed, NEVER)
    best = logits.topk(min(PROPOSED, logits.shape[-1]), dim=-1)
    tokens, values = best.indices, best.values
    if drawing := [slot for slot, draw in enumerate(draws) if draw is not None]:
        drawn = _draw(logits[drawing], [draws[slot] for slot in drawing], temperature, tokens.shape[1])
        tokens[drawing], values[drawing] = drawn, logits[drawing].gather(1, drawn)
    # In double precision tokens and logits are exact: one copy for all.
    host = torch.cat([norms[:, None].double(), tokens.double(), values.double()], dim=1).tolist()
    choices = []
    for slot, (norm, *numbers) in enumerate(host):
        proposed = numbers[: tokens.shape[1]], numbers[tokens.shape[1] :]
        if not math.isfinite(norm):
            raise UserError("the model computes no numbers", "its weights or its adapter's are not finite: train again")
        choices.append(_choose(logits[slot], constraints[slot], draws[slot] is None, norm, proposed))
    return choices


def _choose(
    logits: torch.Tensor, constraint: Constraint | None, greedy: bool, norm: float, proposed: tuple[Numbers, Numbers]
) -> Choice:
    """The first of a row's proposed tokens that will do, or else of all that are allowed."""
    for tokens, values in _in_turn(logits, constraint, greedy, *proposed):
        numbered = list(zip(map(int, tokens), values, values[1:], strict=False))
        for place, (token, value, following) in enumerate(numbered):
            if value > NEVER and (constraint is None or constraint.refers(token)):
                others = numbered[place + 1 :] if constraint is not None and greedy else ()
                likely = ((other, logit - norm) for other, logit, _ in others if logit - norm >= UNLIKELY)
                kept = tuple(other for other in likely if constraint.refers(other[0]))
                return Choice(token, value - norm, value - following, kept)
    if constraint is None or constraint.released:
        raise UserError("the model computes no numbers", "its weights or its adapter's are not finite: train again")
    constraint.release()
    return _choose(logits, constraint, greedy, norm, proposed)._replace(dead_end=True)


def _in_turn(
    logits: torch.Tensor, constraint: Constraint | None, greedy: bool, tokens: Numbers, values: Numbers
) -> Iterator[tuple[Numbers, Numbers]]:
    """The proposed tokens with their logits, then the likeliest of all, then those of single bytes, with which any text
    can be spelled. Each list ends with the logit after the last token, which of the proposed likeliest ones is not
    here: the last of them counts as that."""
    yield tokens, values if greedy else [*values, NEVER]
    likeliest = logits.topk(min(TRIED, len(logits)))
    yield likeliest.indices.tolist(), [*likeliest.values.tolist(), NEVER]
    spelling = [] if constraint is None else constraint.bytes
    spelled = logits[spelling].sort(descending=True)
    yield [spelling[i] for i in spelled.indices.tolist()], [*spelled.values.tolist(), NEVER]


def _draw(logits: torch.Tensor, draws: Sequence[random.Random | None], temperature: float, count: int) -> torch.Tensor:
    """`count` samples of each row, (rows, count). The first that will do is a sample of those that will do."""
    numbers = [[draw.random() for _ in range(count)] for draw in draws if draw is not None]
    cumulative = functional.softmax(logits / temperature, dim=-1).double().cumsum(-1)
    wanted = torch.tensor(numbers, dtype=torch.float64, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted).clamp(max=logits.shape[-1] - 1)
