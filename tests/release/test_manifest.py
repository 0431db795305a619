"""A better release is kept, and a release says what it is."""

import pytest

from text2sql.files import read_json, write_json
from text2sql.release.manifest import describe_release, keep_better


def manifest(model, data, accuracy):
    return {
        "params": {"model": {"name": model}, "data": {"name": data}},
        "score": {"n": 50, "execution_accuracy": accuracy},
    }


def replace(folder, model, data, accuracy):
    """Put a new release in the place of what is there; returns what is said."""
    new = manifest(model, data, accuracy)
    said = keep_better(folder / "release", new["params"], new["score"], folder / "kept")
    write_json(folder / "release/manifest.json", new)
    return said


@pytest.mark.parametrize(
    ("model", "data", "accuracy", "kept"),
    [
        ("tiny", "mini", 0.0, True),
        ("qwen", "mini", 0.65, True),
        ("qwen", "mini", 0.66, False),
        ("qwen", "mini", 0.7, False),
        ("qwen", "spider", 0.9, True),  # other questions: the two figures cannot be compared
    ],
)
def test_a_release_that_is_not_surpassed_is_kept(tmp_path, model, data, accuracy, kept):
    assert replace(tmp_path, "qwen", "mini", 0.66) is None
    said = replace(tmp_path, model, data, accuracy)
    assert (tmp_path / "kept/qwen-mini/manifest.json").exists() == kept
    if kept:
        assert "qwen trained on mini, 66.0 % of 50 test questions right" in said
        assert str(tmp_path / "kept/qwen-mini") in said


def test_of_each_model_and_data_the_best_is_kept(tmp_path):
    for accuracy in (0.5, 0.4, 0.7, 0.1, 0.6, 0.0):
        replace(tmp_path, "qwen", "mini", accuracy)
    assert describe_release(read_json(tmp_path / "kept/qwen-mini/manifest.json")).startswith(
        "qwen trained on mini, 70.0"
    )


@pytest.mark.parametrize("broken", [[], {}, {"score": 3}, {"score": {"execution_accuracy": None}}])
def test_a_broken_copy_is_replaced(tmp_path, broken):
    write_json(tmp_path / "kept/qwen-mini/manifest.json", broken)
    replace(tmp_path, "qwen", "mini", 0.7)
    assert "a copy of which is in" in replace(tmp_path, "qwen", "mini", 0.1)
    write_json(tmp_path / "release/manifest.json", broken)
    assert replace(tmp_path, "qwen", "mini", 0.0) is None
