"""Which candidate wins, as a table."""

import pytest

from text2sql.model.candidates import choose
from text2sql.model.generation import Generation

#: what the queries of the cases give; None: an error
RESULTS = {"a": 1, "a2": 1, "b": 2, "b2": 2, "c": 3, "bad": None, "worse": None}


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([("a", -1)], 0),
        ([("bad", -1), ("a", -9)], 1),  # one that runs before one that does not
        ([("bad", -1), ("worse", -2)], 0),  # nothing runs: the first
        ([("a", -1), ("b", -5), ("b2", -4)], 2),  # two with one result; of them the likelier
        ([("a", -1), ("b", -5), ("b", -4)], 2),  # the same text twice counts twice
        ([("b", -5), ("a", -1), ("a2", -2), ("b2", -9)], 1),  # as many: the likeliest member decides
        ([("a", -2), ("b", -2)], 0),  # as likely: the first
        ([("a ", -2), (" a", -1), ("b", -1.5)], 1),  # white space is no difference
        ([("a", -1, False), ("b", -9)], 1),  # a query that was cut is not executed
        ([("a", -1, False)], 0),
    ],
)
def test_choice(candidates, chosen):
    generations = [Generation((), text, *(rest or [True]), score=score) for text, score, *rest in candidates]
    executed = []

    def execute(sql):
        executed.append(sql.strip())
        return RESULTS[sql.strip()]

    assert choose(generations, execute, lambda r: r is None, lambda _, x, y: x == y) == chosen
    assert len(executed) == len(set(executed))
