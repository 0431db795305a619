"""Training is right by construction, deterministic, and goes on exactly where it was stopped."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState

from stages.train import curves, figures
from tests.model.conftest import NF4
from tests.model.tiny_training import LORA, TRAIN, VALIDATION, Stop, recipe
from text2sql.errors import UserError
from text2sql.files import read_json, sha256_tree, write_json
from text2sql.model import checkpoint
from text2sql.model.checkpoint_copies import forget_copies
from text2sql.model.lora import save_adapter
from text2sql.model.loss import answer_loss
from text2sql.model.packing import TrainingExample, collate, pack
from text2sql.model.training import Watch, train, trainer_arguments


@pytest.fixture
def run(tiny_base, tmp_path):
    """Trains in a folder of its own; returns the adapter's checksums and the trainer."""

    def run(options, where="a", callbacks=(), examples=TRAIN):
        trainer = train(options, tiny_base, examples, VALIDATION, tmp_path / where, callbacks)
        save_adapter(trainer.model, tmp_path / f"{where}-adapter")
        return sha256_tree(tmp_path / f"{where}-adapter"), trainer

    return run


def test_same_bytes_twice_and_with_validation_in_between(run, whole_training):
    validated, trainer = run(recipe(evaluate_every=2))
    assert trainer.state.global_step == trainer.planned.steps == 8
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert len([entry for entry in trainer.state.log_history if "eval_loss" in entry]) == 4
    whole = sha256_tree(whole_training.adapter)
    assert set(whole) == {"adapter_config.json", "adapter_model.safetensors"}
    assert validated == whole


@pytest.mark.parametrize("changes", [{"log_every": 100}, {"log_every": 100, "epochs": 0.01}])
def test_a_training_shorter_than_log_every_has_a_loss(run, changes):
    _, trainer = run(recipe(**changes))
    said = figures(trainer, None, "float32")
    assert said["steps"] == (1 if "epochs" in changes else 8)
    assert said["train_loss"] > 0
    assert len(curves(trainer.state.log_history).splitlines()) == 2


def test_interrupted_training_ends_with_the_same_bytes(run, tmp_path):
    """In 4 bits, where the weights of a checkpoint have another type than those of the base model."""
    whole, _ = run(recipe(NF4), "whole")
    for step in (2, 5, 7):  # before the first checkpoint, and after each
        with pytest.raises(KeyboardInterrupt):
            run(recipe(NF4), "cut", [Stop(step)])
    assert checkpoint.last_whole(tmp_path / "cut").name == "checkpoint-6"
    resumed, trainer = run(recipe(NF4), "cut")
    assert resumed == whole
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == list(range(1, 9))


def test_half_written_checkpoints_are_passed_over(run, whole_training, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), "cut", [Stop(7)])
    newest = tmp_path / "cut" / "checkpoint-6"
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    without_seal = tmp_path / "cut" / "checkpoint-7"
    shutil.copytree(newest, without_seal)
    (without_seal / checkpoint.SEAL).unlink()
    for file in sha256_tree(tmp_path / "cut" / "checkpoint-3"):
        half = tmp_path / "half"
        shutil.copytree(tmp_path / "cut" / "checkpoint-3", half)
        os.truncate(half / file, (half / file).stat().st_size // 2)
        assert not checkpoint.is_whole(half), file
        shutil.rmtree(half)
    resumed, _ = run(recipe(), "cut")
    assert resumed == sha256_tree(whole_training.adapter)
    assert checkpoint.is_whole(tmp_path / "cut" / "checkpoint-6")


def test_goes_on_from_a_copy_on_another_machine(run, whole_training, tmp_path):
    copies = recipe(checkpoint_copy=str(tmp_path / "bucket"))
    with pytest.raises(KeyboardInterrupt):
        run(copies, "cut", [Stop(7)])
    shutil.rmtree(tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    resumed, trainer = run(copies, "cut")
    assert trainer.earlier_seconds > 0
    assert resumed == sha256_tree(whole_training.adapter)
    forget_copies(tmp_path / "cut", str(tmp_path / "bucket"))
    assert not list((tmp_path / "bucket").rglob("*.safetensors"))


def test_an_optimizer_that_nobody_knows_is_refused(run):
    with pytest.raises(UserError, match="optimizer is adamw, which transformers does not know") as error:
        run(recipe(optimizer="adamw"))
    assert "give auto, or" in error.value.remedy


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_each_schedule_warms_up(run, schedule):
    _, trainer = run(recipe(schedule=schedule, warmup=0.5, epochs=1.0))
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] < 0.6 * max(rates)
    assert (rates[-1] == max(rates)) == (schedule == "constant")


def test_a_process_that_sees_several_gpus_takes_one(tmp_path, monkeypatch):
    """Else transformers spreads each batch over them, which TRL refuses."""
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", 2)
    arguments = trainer_arguments(recipe(), "cpu", 8, 1, False, tmp_path, None)
    assert arguments._n_gpu == 1


@pytest.mark.parametrize(("window", "fits"), [(24, False), (25, True), (None, True)])
def test_an_example_longer_than_the_models_window_is_refused(tiny_base, tmp_path, window, fits):
    """The attention of packs sees all of it, which the model at prediction does not."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = read_json(base / "config.json")
    write_json(base / "config.json", {**config, "model_type": "mistral", "sliding_window": window})
    with nullcontext() if fits else pytest.raises(UserError, match=r"has 25 tokens, .* last 24") as error:
        train(recipe(epochs=0.01), base, TRAIN[:1], [], tmp_path / "checkpoints")
    assert fits or error.value.remedy.endswith("train.max_length=24")


def test_another_configuration_has_another_fingerprint():
    base = checkpoint.fingerprint({"recipe": dataclasses.asdict(recipe())})
    assert base == checkpoint.fingerprint({"recipe": dataclasses.asdict(recipe())})
    assert base != checkpoint.fingerprint({"recipe": dataclasses.asdict(recipe(learning_rate=1e-4))})


@pytest.mark.parametrize(
    ("losses", "norm", "fp16", "said"),
    [
        ([2.0] * 5 + [float("nan")], 1.0, False, "not a number"),
        ([2.0] * 5 + [float("inf")], 1.0, False, "not a number"),
        ([2.0] * 5 + [float("nan")], 1.0, True, "not a number"),
        ([2.0] * 5, float("inf"), False, "not a number"),
        ([2.0] * 5, float("inf"), True, None),  # an overflow, which the scaler of float16 is for
        ([2.0] * 5 + [7.0] * 5, 1.0, False, "has risen from 2.00 to 7.00"),
        ([2.0] * 5 + [5.0] * 5, 1.0, False, None),
        ([2.0, 9.0, 9.0, 9.0], 1.0, False, None),
    ],
)
def test_a_loss_that_is_no_number_or_explodes_stops_the_training(tmp_path, losses, norm, fp16, said):
    watch = Watch(explosion=3.0, checkpoints=tmp_path)
    state = TrainerState(global_step=len(losses), log_history=[{"loss": loss} for loss in losses])
    logs, arguments = {**state.log_history[-1], "grad_norm": norm}, SimpleNamespace(fp16=fp16)
    if said is None:
        watch.on_log(arguments, state, None, logs=logs)
        return
    with pytest.raises(UserError, match=said) as error:
        watch.on_log(arguments, state, None, logs=logs)
    assert "learning_rate" in error.value.remedy


class Fail(TrainerCallback):
    """Does what fails after the fourth step, when there is a checkpoint of the third."""

    def __init__(self, action):
        self.action = action

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 4:
            self.action()


@pytest.mark.parametrize(
    ("action", "said", "remedy"),
    [
        (lambda: torch.empty(10**17), r"memory ran out at .* GB; the largest pack has 37 tokens", "pack_tokens=18"),
        (lambda: bytes(2**62), r"memory ran out at .* GB; the largest pack has 37 tokens", "pack_tokens=18"),
        (lambda: Path("/dev/full").write_bytes(b"0" * 10_000), "the disk of .* is full", "run again"),
    ],
)
def test_what_runs_out_is_said_and_the_checkpoint_kept(run, tmp_path, action, said, remedy):
    with pytest.raises(UserError, match=said) as error:
        run(recipe(), callbacks=[Fail(action)])
    assert remedy in error.value.remedy
    assert checkpoint.last_whole(tmp_path / "a").name == "checkpoint-3"


def test_gradients_after_a_validation_are_those_before(run):
    """bitsandbytes repacks 4-bit weights in eval mode on some CPUs, for a kernel that has no backward pass."""
    _, trainer = run(recipe(NF4, lora=dataclasses.replace(LORA, lora_dropout=0.0), epochs=1.0))

    def gradient():
        trainer.model.zero_grad()
        answer_loss(trainer.model, collate([pack(TRAIN[:1])])).backward()
        return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}

    before = gradient()
    trainer.evaluate()
    after = gradient()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({"use_rslora": True}, lambda m: m.peft_config["default"].use_rslora),
        ({"use_dora": True}, lambda m: any("magnitude" in n for n, _ in m.named_parameters())),
        (
            {"layers_to_transform": [1], "target_modules": ["q_proj", "v_proj"]},
            lambda m: all(".layers.1." in n for n, p in m.named_parameters() if p.requires_grad),
        ),
    ],
    ids=["rslora", "dora", "the last block"],
)
def test_lora_options(run, change, holds):
    _, trainer = run(recipe(NF4, lora=dataclasses.replace(LORA, **change), epochs=1.0))
    assert holds(trainer.model)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters() if p.requires_grad)


def test_the_loss_of_a_step_is_the_mean_over_its_answer_tokens(run):
    """Over all packs of the step: answers of unlike lengths, in packs of unlike sizes; the first loss is logged
    before anything is learned."""
    chance = random.Random(3)
    mixed = [
        TrainingExample(e.db_id, e.prompt, (*(chance.randrange(60, 90) for _ in range(chance.randrange(12))), 2))
        for e in TRAIN
    ]
    options = recipe(lora=dataclasses.replace(LORA, lora_dropout=0.0), epochs=1.0, learning_rate=1e-9)
    _, trainer = run(options, examples=mixed)
    first = [example for group in trainer.planned.groups[: trainer.planned.per_step] for example in group]
    assert len({len(example.answer) for example in first}) > 2
    assert trainer.planned.per_step > 1
    trainer.model.eval()
    with torch.no_grad():
        losses = [answer_loss(trainer.model, collate([pack([example])])).item() for example in first]
    mean = sum(losses) / sum(len(example.answer) for example in first)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(mean, abs=1e-4)


def test_options_that_peft_refuses_are_said(run):
    with pytest.raises(UserError, match="PEFT refuses conf/lora"):
        run(recipe(lora=dataclasses.replace(LORA, target_modules=["no_such_layer"]), epochs=1.0))


SCRIPT = """
import dataclasses, sys
from pathlib import Path
from tests.model import fsdp_on_cpu
from tests.model.conftest import NF4, UNQUANTIZED
from tests.model.tiny_training import LORA, TRAIN, VALIDATION, Stop, recipe
from text2sql.model.lora import save_adapter
from text2sql.model.launch import is_first
from text2sql.model.training import train
base, folder, processes, wrapper, stop = sys.argv[1:]
base, folder, processes = Path(base), Path(folder), int(processes)
if wrapper == "fsdp":
    fsdp_on_cpu.allow()
whole = dataclasses.replace(LORA, lora_dropout=0.0)
options = recipe(NF4 if wrapper else UNQUANTIZED, LORA if wrapper == "" else whole, processes=processes,
                 fsdp=wrapper == "fsdp" and processes > 1, epochs=6.0)
callbacks = [Stop(int(stop))] if int(stop) else []
try:
    trainer = train(options, base, TRAIN, VALIDATION[:5], folder, callbacks)
except KeyboardInterrupt:
    sys.exit()
if wrapper and processes > 1:
    from torch.distributed.fsdp import FSDPModule
    assert isinstance(trainer.model_wrapped, FSDPModule) == (wrapper == "fsdp")
val = trainer.evaluate()["eval_loss"]
weights = trainer.adapter_weights()
if is_first():
    save_adapter(trainer.model, folder / "adapter", weights)
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    (folder / "losses").write_text(repr([*losses, val]))
"""


@pytest.mark.slow
def test_killed_three_times(tiny_base, tmp_path):
    """kill -9 at any moment: run again, it ends with the bytes of the run that nothing stopped."""
    command = [sys.executable, "-c", SCRIPT, str(tiny_base)]
    end = ["1", "", "0"]
    subprocess.run([*command, str(tmp_path / "whole"), *end], check=True)
    cut = tmp_path / "cut"
    for step in (3, 9, 18):
        process = subprocess.Popen([*command, str(cut), *end])
        while process.poll() is None and not list(cut.glob(f"checkpoint-{step}")):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(cut), *end], check=True)
    assert sha256_tree(cut / "adapter") == sha256_tree(tmp_path / "whole" / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(tiny_base, tmp_path, wrapper):
    """DDP, and FSDP of the 4-bit base model: also when stopped on the way."""
    script = [sys.executable, "-c", SCRIPT, str(tiny_base)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    subprocess.run([*script, str(tmp_path / "one"), "1", wrapper, "0"], check=True)
    subprocess.run([*torchrun, *script, str(tmp_path / "two"), "2", wrapper, "0"], check=True)
    for stop in ("13", "0"):
        subprocess.run([*torchrun, *script, str(tmp_path / "cut"), "2", wrapper, stop], check=True)
    one, two, cut = (eval((tmp_path / name / "losses").read_text()) for name in ("one", "two", "cut"))
    assert len(two) == 25  # steps and the validation
    assert two == pytest.approx(one, abs=1e-4)
    assert cut == two
    assert sha256_tree(tmp_path / "cut" / "adapter") == sha256_tree(tmp_path / "two" / "adapter")
    weights = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    for (name, alone), shared in zip(next(weights).items(), next(weights).values(), strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4, msg=name)
