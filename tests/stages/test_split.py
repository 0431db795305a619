"""The split: no database twice, every example accounted for, the same on every machine, limits nested."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.split import SplitOptions, draw, split, split_report
from text2sql.config import typed
from text2sql.errors import UserError

VERIFIED = ("verified", "verified_ties")
OPTIONS = SplitOptions(
    validation_databases=2,
    train_statuses=VERIFIED,
    test_statuses=VERIFIED,
    train_limit=None,
    validation_limit=None,
    test_limit=None,
)


def example(number: int, db: str, status: str = "verified", stem: str = "train_spider") -> dict:
    return {
        "id": f"{stem}-{number}",
        "db_id": db,
        "question": f"q{number}",
        "postgres": "SELECT 1",
        "status": status,
        "hardness": "easy",
    }


def examples(per_database: int = 6, databases: int = 5) -> list[dict]:
    rows = [example(d * 100 + i, f"db{d}") for d in range(databases) for i in range(per_database)]
    return rows + [example(i, f"test{i % 2}", stem="dev") for i in range(8)]


def databases(part):
    return {row["db_id"] for row in part}


@given(seed=st.integers(0, 2**32), per_database=st.integers(1, 9))
def test_no_database_is_in_two_splits(seed, per_database):
    parts = split(examples(per_database), OPTIONS, seed)
    train, val, test = (databases(parts[name]) for name in ("train", "val", "test"))
    assert train.isdisjoint(val | test)
    assert val.isdisjoint(test)
    assert len(val) == 2
    assert test == {"test0", "test1"}


@given(seed=st.integers(0, 2**32), small=st.integers(1, 30), more=st.integers(0, 30))
def test_limits_are_nested_and_even(seed, small, more):
    rows = examples()
    few, many = draw(rows, small, seed), draw(rows, small + more, seed)
    assert {r["id"] for r in few} <= {r["id"] for r in many}
    assert len(few) == min(small, len(rows))
    counts = [sum(r["db_id"] == d for r in few) for d in databases(rows)]
    assert max(counts) - min(counts) <= 1 or max(counts) > 4  # test databases hold 4 examples, the others 6


def test_a_training_example_on_a_test_database_is_not_used():
    rows = [*examples(), example(999, "test0")]
    assert all(r["id"] != "train_spider-999" for r in split(rows, OPTIONS, 1)["train"])


@pytest.mark.parametrize("limit", [None, 4])
def test_embedded_examples_are_trained_on_besides(limit):
    options = replace(OPTIONS, train_limit=limit)
    made = [
        *(example(i, f"mini{i % 3}", stem="embedded") for i in range(9)),
        example(9, "mini0", "rejected", "embedded"),
    ]
    without, parts = split(examples(), options, 1), split([*examples(), *made], options, 1)
    assert parts == without | {"train": without["train"] + made[:9]}
    assert split_report([*examples(), *made], parts)["unused_by_status"]["rejected"] == 1


def test_no_embedded_example_is_on_a_validation_or_test_database():
    names = ("db0", "db1", "db2", "db3", "db4", "test0")
    made = [example(i, name, stem="embedded") for i, name in enumerate(names)]
    without, parts = split(examples(), OPTIONS, 1), split([*examples(), *made], OPTIONS, 1)
    added = [row for row in parts["train"] if row not in without["train"]]
    assert databases(added) == databases(without["train"])
    assert (parts["val"], parts["test"]) == (without["val"], without["test"])


def test_every_example_is_accounted_for():
    rows = [*examples(), example(998, "db0", "rejected"), example(997, "db1", "invalid_source")]
    rows.append({**rows[0], "id": "train_spider-996"})
    parts = split(rows, OPTIONS, 3)
    made = split_report(rows, parts)
    used = sum(made[name]["examples"] for name in ("train", "val", "test"))
    assert used + sum(made["unused_by_status"].values()) == len(rows)
    assert made["unused_by_status"] == {"invalid_source": 1, "rejected": 1, "verified": 1}


def test_known_order():
    """Pins the draw itself: a change of it would silently change every data set."""
    assert [r["id"] for r in draw(examples(), 5, 42)] == KNOWN


KNOWN = ["train_spider-1", "train_spider-101", "train_spider-202", "train_spider-302", "dev-0"]


def test_an_empty_split_says_what_to_do():
    with pytest.raises(UserError, match="no example is left for the train split"):
        split(examples(databases=2), OPTIONS, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("validation_databases", 0), ("train_limit", -5), ("train_statuses", ["rejected"]), ("test_statuses", [])],
)
def test_impossible_values_are_refused(key, value):
    good = {
        "validation_databases": 2,
        "train_statuses": ["verified"],
        "test_statuses": ["verified"],
        "train_limit": None,
        "validation_limit": None,
        "test_limit": None,
    }
    with pytest.raises(UserError, match=key):
        typed(SplitOptions, {**good, key: value}, "data.split")
