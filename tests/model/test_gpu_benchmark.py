"""benchmarks/gpu.py is ready for a machine with a GPU: the same code, on the tiny model, on whatever there is."""

import runpy
import sys

import pytest
import torch


def test_measures_the_small_model_on_any_device(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--steps", "2"])
    runpy.run_path("benchmarks/gpu.py", run_name="__main__")
    report = capsys.readouterr().out.splitlines()[-1]
    assert ": 32 examples, 2 steps, " in report
    for figure in ("examples/s", "tokens/s", "GB", "three epochs of Spider"):
        assert figure in report


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path("benchmarks/gpu.py", run_name="__main__")
    assert end.value.code == 1
    assert "no CUDA GPU here: run with --small" in capsys.readouterr().err
