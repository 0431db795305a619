"""benchmarks/gpu.py is ready for a machine with a GPU: the same code, on the tiny model, on whatever there is."""

import json
import runpy
import sys

import pytest
import torch

from text2sql.model.base import QuantizationOptions
from text2sql.model.device import pick_device, pick_dtype


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    monkeypatch.syspath_prepend("benchmarks")
    runpy.run_path("benchmarks/gpu.py", run_name="__main__")


def test_measures_the_small_model_on_any_device(monkeypatch, capsys, tmp_path):
    # speed-1.5b is speed-7b without quantization, which equality and steps train with
    parts = ["equality", "steps", "speed-7b", "predict"]
    run(monkeypatch, "--small", "--out", tmp_path / "gpu.json", "--only", *parts)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    in_float32 = pick_dtype(QuantizationOptions(None, None, False, "auto"), pick_device()) == torch.float32
    assert parts["equality"]["gradient_error"] < (1e-4 if in_float32 else 0.05)
    assert parts["steps"]["steps"] == 4
    assert parts["steps"]["band"] == 0 or torch.cuda.is_available()
    losses = [figures["loss"] for figures in parts["speed-7b"].values()]
    assert len(losses) == 4
    assert max(losses) - min(losses) < 0.1
    assert parts["predict"]["same_as_cpu"] == 1
    lines = capsys.readouterr().out.splitlines()
    for part in ("equality", "steps", "speed-7b, SFTTrainer, packing", "speed-7b, ours", "predict"):
        assert any(line.startswith(part) for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_says_what_it_needs(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch)
    assert end.value.code == 1
    assert "no CUDA GPU here: run with --small" in capsys.readouterr().err
