"""What is drawn, and what is not."""

from decimal import Decimal

import pytest

from app.views import bars_html, confidence_html
from text2sql.postgres.compare import Result


def result(*rows):
    return Result(tuple(f"c{i}" for i in range(len(rows[0]))), list(rows))


@pytest.mark.parametrize(
    ("rows", "bars"),
    [
        ([("a", 1), ("b", 2)], 2),
        ([(1, "a"), (2, "b"), (3, None)], 3),
        ([(2020, Decimal("1.5")), (2021, Decimal("-2"))], 2),
        ([("a", 0), ("b", 0)], 2),
        ([("a", 1)], 0),
        ([("a", 1, 2), ("b", 2, 3)], 0),
        ([("a", "b"), ("c", "d")], 0),
        ([("a", None), ("b", 2)], 0),
        ([("a", float("nan")), ("b", 2.0)], 0),
        ([("a", True), ("b", False)], 0),
        ([("a", i) for i in range(31)], 0),
    ],
)
def test_one_label_and_one_number_a_row_are_drawn(rows, bars):
    assert bars_html(result(*rows)).count("<tr>") == bars


def test_bars_start_at_zero():
    drawn = bars_html(result(("a", -1), ("b", 3)))
    assert "margin-left:0.00%;width:25.00%" in drawn
    assert "margin-left:25.00%;width:75.00%" in drawn


def test_markup_in_labels_is_text():
    drawn = bars_html(result(('"<b>', 1), ("c", 2)))
    assert "<b>" not in drawn
    assert 'title="&quot;&lt;b&gt;"' in drawn, "a label that is cut is there in whole"


def test_confidence():
    assert confidence_html(None) == ""
    assert "88% sure</p>" in confidence_html(0.88)
