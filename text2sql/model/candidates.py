"""Which of several generated queries to take, by what came of executing them.

Execution-guided decoding (Wang et al., 2018) drops queries that fail; self-consistency (Wang et al., 2023) takes the
answer that most samples agree on. For SQL agreeing means equal results. The executing is the caller's, so that this
module, like all of text2sql.model, knows nothing of servers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from text2sql.model.generation import Generation

Result = TypeVar("Result")


def choose(
    candidates: Sequence[Generation],
    execute: Callable[[str], Result],
    failed: Callable[[Result], bool],
    same: Callable[[str, Result, Result], bool],
) -> int:
    """The index of the candidate to take: from the largest group of equal results, the one the model finds likeliest.

    Candidates with the same text are executed once and count as often as they occur. Groups of one size are ordered by
    their likeliest member, then by position, so the choice is the same every time. Where all fail, or none is
    finished, it is the first candidate.

    Args:
        execute: a query's result.
        failed: whether a result is an error.
        same: (text, its result, another's result): whether the two results are equal.
    """
    texts: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        if candidate.finished:
            texts.setdefault(" ".join(candidate.text.split()), []).append(i)
    groups: list[tuple[str, Result, list[int]]] = []
    for members in texts.values():
        text = candidates[members[0]].text
        result = execute(text)
        if failed(result):
            continue
        for leader, known, joined in groups:
            if same(leader, known, result):
                joined.extend(members)
                break
        else:
            groups.append((text, result, list(members)))

    def likelihood(i: int) -> tuple[float, int]:
        return candidates[i].score, -i

    if not groups:
        return 0
    best = max(groups, key=lambda group: (len(group[2]), max(map(likelihood, group[2]))))
    return max(best[2], key=likelihood)
