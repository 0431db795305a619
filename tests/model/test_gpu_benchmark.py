"""benchmarks/gpu.py is ready for a machine with a GPU: the same code, on the tiny model, on whatever there is."""

import subprocess
import sys

import pytest
import torch

COMMAND = [sys.executable, "benchmarks/gpu.py"]


def test_measures_the_small_model_on_any_device():
    run = subprocess.run([*COMMAND, "--small", "--steps", "2"], capture_output=True, text=True, check=True)
    report = run.stdout.splitlines()[-1]
    assert ": 32 examples, 2 steps, " in report
    for figure in ("examples/s", "tokens/s", "GB", "three epochs of Spider"):
        assert figure in report


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_says_what_it_needs():
    run = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "no CUDA GPU here: run with --small" in run.stderr
