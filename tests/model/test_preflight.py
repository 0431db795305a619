"""The preflight passes where training would, and says what is wrong where it would not."""

import dataclasses
import platform
import shutil
from pathlib import Path

import pytest
import torch

from stages import preflight as stage
from tests.model.conftest import UNQUANTIZED
from tests.model.random_models import BASES
from tests.model.tiny_training import examples, recipe
from text2sql.errors import UserError
from text2sql.files import write_text
from text2sql.model import packing
from text2sql.model.device import cgroup_limits, peak_memory_bytes, reset_peak_memory
from text2sql.model.preflight import Preflight, report


def checks(tiny_base, tmp_path, options, count=24):
    preflight = Preflight(options, tiny_base, examples(count), tmp_path / "scratch", writes_sql=False)
    return list(preflight.run())


def test_all_pass_and_the_bucket_is_left_empty(tiny_base, tmp_path):
    options = recipe(checkpoint_copy=str(tmp_path / "bucket"))
    done = checks(tiny_base, tmp_path, options)
    assert [(c.name, c.passed) for c in done] == [
        (name, True) for name in ("data", "model", "learns", "saves", "loads", "packs", "answers", "memory")
    ]
    assert "copied to" in done[3].found
    assert not [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]


def test_too_little_data_stops_at_the_first_check(tiny_base, tmp_path):
    done = checks(tiny_base, tmp_path, recipe(), count=5)
    assert [(c.name, c.passed) for c in done] == [("data", False)]
    with pytest.raises(UserError, match="data"):
        report(done)


def test_a_bucket_that_refuses_is_said(tiny_base, tmp_path):
    (tmp_path / "bucket").write_text("a file, not a folder")
    done = checks(tiny_base, tmp_path, recipe(checkpoint_copy=str(tmp_path / "bucket")))
    assert (done[-1].name, done[-1].passed) == ("saves", False)


def test_processes_share_the_memory_of_a_machine_without_gpus(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr("text2sql.model.preflight.total_memory_bytes", lambda: 2.5 * peak_memory_bytes())
    alone = checks(tiny_base, tmp_path, recipe())[-1]
    shared = checks(tiny_base, tmp_path, recipe(processes=4))[-1]
    assert (alone.name, alone.passed, shared.name, shared.passed) == ("memory", True, "memory", False)
    assert "pack_tokens" in shared.remedy


def test_a_system_that_cannot_forget_its_peak_counts_from_the_start(monkeypatch):
    def refused(path, text):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "write_text", refused)
    before = peak_memory_bytes()
    reset_peak_memory()
    assert peak_memory_bytes() >= before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere counted from the start of the process")
def test_memory_that_was_given_back_is_not_counted():
    taken = bytes(bytearray(400_000_000))
    before = peak_memory_bytes()
    del taken
    reset_peak_memory()
    assert peak_memory_bytes() < before - 300_000_000


@pytest.mark.parametrize(
    ("line", "files", "limits"),
    [
        ("0::/box/inner", {"box/inner/memory.max": "max", "box/memory.max": "7", "memory.max": "9"}, [7, 9]),
        ("4:memory:/box", {"memory/box/memory.limit_in_bytes": "5"}, [5]),
        ("4:memory:/docker/1", {"memory/memory.limit_in_bytes": "6", "memory.max": "1"}, [6]),
        ("1:cpu:/", {"memory.max": "1"}, []),
        ("", {"memory.max": "1"}, []),
    ],
)
def test_the_memory_of_a_container(tmp_path, line, files, limits):
    for name, text in files.items():
        write_text(tmp_path / "sys" / name, text + "\n")
    write_text(tmp_path / "proc", f"9:name=systemd:/\n{line}\n")
    assert list(cgroup_limits(tmp_path / "proc", tmp_path / "sys")) == limits


def test_checkpoints_are_tried_where_training_writes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(stage, "read_params", dict)
    monkeypatch.setattr(stage, "read_options", lambda _: (recipe(), "random"))
    monkeypatch.setattr("text2sql.model.base.load_tokenizer", lambda _: None)
    monkeypatch.setattr("text2sql.model.training.read_examples", lambda *_: [])
    tried = []
    monkeypatch.setattr("text2sql.model.preflight.Preflight", lambda *arguments, **_: tried.append(arguments[3]))
    with pytest.raises(AttributeError):
        stage.main()
    assert tried[0].parent == tmp_path / "checkpoints"


def test_a_wrong_attention_is_told(tiny_base, tmp_path, monkeypatch):
    """What a kernel did on a GPU: values that are no numbers for some packs, which only the loss would show."""
    right = packing._attend_fused

    def wrong(*arguments):
        prefix, questions = right(*arguments)
        return prefix, questions * float("nan") if active else questions

    active = False
    preflight = Preflight(recipe(), tiny_base, examples(24), tmp_path / "scratch", writes_sql=False)
    monkeypatch.setattr(packing, "_attend_fused", wrong)
    done = []
    for check in preflight.run():
        done.append(check)
        active = check.name == "loads"
    assert (done[-1].name, done[-1].passed) == ("packs", False)
    with pytest.raises(UserError, match="gradients differ from float32's by inf"):
        report(done)


@pytest.fixture
def loud_base(tiny_base, tmp_path):
    """A random Qwen2 with large weights: its scores are large, and rounded, as those of Qwen2.5-Coder."""
    folder = tmp_path / "loud"
    shutil.copytree(tiny_base, folder)
    torch.manual_seed(0)
    model = BASES["qwen2"]()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.mul_(20)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("blind", [False, True])
def test_rounding_in_bfloat16_is_told_from_questions_without_their_schema(loud_base, tmp_path, monkeypatch, blind):
    """In bfloat16 the packed and the plain gradients of the default differ by 0.11 of their length, both are right."""
    attend = packing._attend_products

    def without(query, key, value, span, scale):
        prefix, _ = attend(query, key, value, span, scale)
        return prefix, attend(query, key, value, dataclasses.replace(span, prefix=0), scale)[1]

    quantization = dataclasses.replace(UNQUANTIZED, compute_dtype="bfloat16")
    preflight = Preflight(recipe(quantization), loud_base, examples(24), tmp_path / "scratch", writes_sql=False)
    assert [check.passed for _, check in zip(range(3), preflight.run(), strict=False)] == [True, True, True]
    if blind:
        monkeypatch.setattr(packing, "_attend_products", without)
    check = preflight.packs()
    assert check.passed is not blind
