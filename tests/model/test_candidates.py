"""Which candidate wins, as a table."""

import pytest

from text2sql.model.candidates import is_sure, likeliest_that_runs
from text2sql.model.generation import Generation

#: what the queries of the cases find
OUTCOMES = dict.fromkeys(("a", "b", "b b b", "c"), "rows")
OUTCOMES |= {"bad": "fails", "worse": "fails", "none": "nothing", "zero": "nothing"}


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([("a", -1)], 0),
        ([("bad", -1), ("a", -9)], 1),  # one that runs before one that does not
        ([("bad", -1), ("worse", -2)], 0),  # nothing runs: the first
        ([("a", -2), ("b", -5), ("c", -1)], 2),  # the likeliest
        ([("a", -2), ("b", -3), ("b", -3)], 0),  # how often it was made does not count
        ([("a", -3), ("b b b", -4)], 1),  # by token
        ([("a", -2), ("b", -2)], 0),  # as likely: the first
        ([("bad", -1), ("b", -3), (" bad ", -1.5)], 1),  # what failed is not executed again
        ([("a", -1, False), ("b", -9)], 1),  # a query that was cut is not executed
        ([("a", -1, False)], 0),
        ([("none", -1), ("a", -5)], 1),  # rows before none,
        ([("none", -1), ("a", -5.7)], 0),  # unless that is a hundred times less probable
        ([("none", -1), ("a", -5.7), ("bad", -1.1), ("b", -4)], 3),
        ([("bad", -1), ("none", -2), ("zero", -3)], 1),  # nothing anywhere: the likeliest that runs
        ([("a", -1), ("none", -0.9), ("b", -3)], 0),
    ],
)
def test_choice(candidates, chosen):
    generations = [
        Generation(tuple(range(len(text.split()))), text, *(rest or [True]), score=score)
        for text, score, *rest in candidates
    ]
    executed = []

    def outcome(sql):
        executed.append(sql.strip())
        return OUTCOMES[sql.strip()]

    assert likeliest_that_runs(generations, outcome) == chosen
    assert len(executed) == len(set(executed))


@pytest.mark.parametrize(
    ("score", "least", "sure"), [(-0.1, 0.3, True), (-1.2, 0.3, True), (-1.3, 0.3, False), (-99, 0.0, True)]
)
def test_sure(score, least, sure):
    assert is_sure(Generation((1,), "a", True, score=score), least) is sure
