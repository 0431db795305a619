"""Which of several generated queries to take, by executing them.

Execution-guided decoding (Wang et al., 2018) drops queries that fail, and those that find nothing: these mostly compare
with a text that is written otherwise in the database. Of the others, the one is taken that the model finds likeliest by
token, as beam search ranks its hypotheses (Wu et al., 2016). The score is the model's alone, also where a constraint
decided a token: a candidate that had to leave what the model wanted to write scores low for it. Taking the result that
most samples agree on (self-consistency) gets fewer of them right (docs/PREDICTION.md). The executing is the caller's,
so that this module, like all of text2sql.model, knows nothing of servers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from text2sql.model.generation import Generation

#: what executing a query shows: an error; no rows, or only NULLs and zeros; other rows
Outcome = Literal["fails", "nothing", "rows"]
#: a query that finds rows takes the place of one that finds nothing unless it is this many times less probable
LESS_PROBABLE = 100.0


def likeliest_that_runs(candidates: Sequence[Generation], outcome: Callable[[str], Outcome]) -> int:
    """The index of the candidate to take: the likeliest by token of those that are finished and find rows.

    If one that finds nothing is likelier, it is taken where the one that finds rows is less than a hundredth as
    probable. They are executed in this order, the same text once. Of equally likely ones it is the first; where none
    runs, the first of all.

    Args:
        outcome: executes a query.
    """
    tried: set[str] = set()
    nothing: int | None = None
    for i in sorted(range(len(candidates)), key=lambda i: -likelihood(candidates[i])):
        text = " ".join(candidates[i].text.split())
        if not candidates[i].finished or text in tried:
            continue
        tried.add(text)
        least = -math.inf if nothing is None else candidates[nothing].score - math.log(LESS_PROBABLE)
        if candidates[i].score < least:
            continue
        shown = outcome(candidates[i].text)
        if shown == "rows":
            return i
        if shown == "nothing" and nothing is None:
            nothing = i
    return nothing or 0


def likelihood(candidate: Generation) -> float:
    """The mean log probability of its tokens, the end included."""
    return candidate.score / (len(candidate.token_ids) + 1)


def is_sure(greedy: Generation, least_probability: float) -> bool:
    """Whether the model gives a greedy query, all its tokens together, at least that probability."""
    return math.exp(greedy.score) >= least_probability
