"""The tiny model, made once for all tests."""

from pathlib import Path

import pytest

from text2sql.model.base import QuantizationOptions
from text2sql.model.sources import ModelOptions, obtain

TINY = ModelOptions(name="tiny", source="random", template="mistral", seed=0)
UNQUANTIZED = QuantizationOptions(bits=None, type=None, double=False, compute_dtype="float32")
NF4 = QuantizationOptions(bits=4, type="nf4", double=True, compute_dtype="float32")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tiny") / "base"
    obtain(TINY, target)
    return target


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base: Path):
    from text2sql.model.base import load_tokenizer

    return load_tokenizer(tiny_base)
