"""The tiny model, made once for all tests."""

from pathlib import Path

import pytest

from tests.conftest import made_once
from text2sql.model.base import QuantizationOptions
from text2sql.model.sources import ModelOptions, obtain

TINY = ModelOptions(name="tiny", source="random", template="mistral", seed=0)
UNQUANTIZED = QuantizationOptions(bits=None, type=None, double=False, compute_dtype="float32")
NF4 = QuantizationOptions(bits=4, type="nf4", double=True, compute_dtype="float32")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tiny-base", lambda folder: obtain(TINY, folder / "base")) / "base"


@pytest.fixture(scope="session")
def whole_training(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """See `tiny_training.Whole`."""
    from tests.model.tiny_training import read_whole, train_whole

    return read_whole(made_once(tmp_path_factory, "whole-training", lambda folder: train_whole(tiny_base, folder)))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base: Path):
    from text2sql.model.base import load_tokenizer

    return load_tokenizer(tiny_base)
