"""Which of several generated queries to take, by executing them.

Execution-guided decoding (Wang et al., 2018) drops queries that fail. Of those that run, the one is taken that the
model finds likeliest by token, as beam search ranks its hypotheses (Wu et al., 2016). The score is the model's alone,
also where a constraint decided a token: a candidate that had to leave what the model wanted to write scores low for
it. Taking the result that most samples agree on (self-consistency) gets fewer of them right (docs/PREDICTION.md). The
executing is the caller's, so that this module, like all of text2sql.model, knows nothing of servers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from text2sql.model.generation import Generation


def likeliest_that_runs(candidates: Sequence[Generation], runs: Callable[[str], bool]) -> int:
    """The index of the candidate to take: the likeliest by token of those that are finished and run.

    They are executed in this order until one runs, the same text once. Of equally likely ones it is the first; where
    none runs, the first of all.

    Args:
        runs: executes a query, and says whether it runs without an error.
    """
    tried: set[str] = set()
    for i in sorted(range(len(candidates)), key=lambda i: -likelihood(candidates[i])):
        text = " ".join(candidates[i].text.split())
        if candidates[i].finished and text not in tried:
            tried.add(text)
            if runs(candidates[i].text):
                return i
    return 0


def likelihood(candidate: Generation) -> float:
    """The mean log probability of its tokens, the end included."""
    return candidate.score / (len(candidate.token_ids) + 1)


def is_sure(greedy: Generation, least_probability: float) -> bool:
    """Whether the model gives a greedy query, all its tokens together, at least that probability."""
    return math.exp(greedy.score) >= least_probability
