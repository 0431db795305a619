"""The adapter that answers best is kept; the training is the same with and without measuring."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.model.conftest import NF4, UNQUANTIZED
from tests.model.tiny_training import TRAIN, VALIDATION, Stop, recipe
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.model.generation import GenerationOptions, generate, plain
from text2sql.model.inference import load_for_inference
from text2sql.model.lora import save_adapter
from text2sql.model.training import train


class Answers:
    """Stands for answering questions: the next of the given accuracies; it moves the random state, as sampling does."""

    def __init__(self, *accuracies):
        self.accuracies, self.seen = list(accuracies), []

    def __call__(self, model):
        torch.manual_seed(len(self.seen))
        self.seen.append({name: p.clone() for name, p in model.named_parameters() if p.requires_grad})
        return self.accuracies.pop(0)


@pytest.fixture
def run(tiny_base, tmp_path):
    """Trains for 8 steps with a checkpoint at 3 and 6; measured at 3, 6 and 8."""

    def run(where, measure=None, callbacks=(), **changes):
        options = recipe(**{"choose_every": 0.34 if measure else 0} | changes)
        return train(options, tiny_base, TRAIN, VALIDATION, tmp_path / where, callbacks, measure=measure)

    return run


def losses(trainer, name="loss"):
    return [(entry["step"], entry[name]) for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(("accuracies", "step"), [((0.2, 0.5, 0.4), 6), ((0.5, 0.4, 0.5), 8)])
def test_the_best_is_kept_and_of_equal_ones_the_later(run, tmp_path, whole_training, accuracies, step):
    answers = Answers(*accuracies)
    measured = run("a", answers)
    chooser = measured.chooser
    assert (chooser.step, chooser.accuracy) == (step, max(accuracies))
    best = load_file(chooser.adapter / "adapter_model.safetensors")
    measured_weights = answers.seen[[3, 6, 8].index(step)]
    assert {f"base_model.model.{name.replace('.default', '')}" for name in measured_weights} == set(best)
    for name, weight in measured_weights.items():
        assert torch.equal(weight, best[f"base_model.model.{name.replace('.default', '')}"])
    assert chooser.val_loss == dict(losses(chooser.trainer, "eval_loss"))[step]
    assert losses(measured, "eval_execution_accuracy") == list(zip((3, 6, 8), accuracies, strict=True))
    # Measuring changes nothing of the training.
    assert losses(measured) == whole_training.losses
    save_adapter(measured.model, tmp_path / "adapter")
    assert sha256_tree(tmp_path / "adapter") == sha256_tree(whole_training.adapter)
    if step == 6:
        saved = load_file(tmp_path / "a/checkpoint-6/adapter_model.safetensors")
        kept = load_file(chooser.adapter / "adapter_model.safetensors")
        assert all(torch.equal(saved[name], kept[name]) for name in saved)


def test_an_interrupted_training_goes_on_with_the_best_so_far(run, tmp_path):
    whole = run("whole", Answers(0.5, 0.4, 0.3)).chooser
    copies = {"checkpoint_copy": str(tmp_path / "bucket")}
    with pytest.raises(KeyboardInterrupt):
        run("cut", Answers(0.5, 0.4), [Stop(7)], **copies)
    shutil.rmtree(tmp_path / "cut")  # another machine
    (tmp_path / "cut").mkdir()
    rest = Answers(0.3)
    resumed = run("cut", rest, **copies).chooser
    assert rest.accuracies == []
    assert (resumed.step, resumed.accuracy, resumed.val_loss) == (3, 0.5, whole.val_loss)
    assert sha256_tree(resumed.adapter) == sha256_tree(whole.adapter)
    assert losses(resumed.trainer, "eval_execution_accuracy") == [(3, 0.5), (6, 0.4), (8, 0.3)]


def test_what_a_run_without_a_checkpoint_knew_is_forgotten(run):
    with pytest.raises(KeyboardInterrupt):
        run("cut", Answers(0.9, 0.8), [Stop(7)], save_every=100)
    assert run("cut", Answers(0.1, 0.2, 0.3), save_every=100).chooser.step == 8


@pytest.mark.parametrize("quantization", [UNQUANTIZED, NF4], ids=["plain", "nf4"])
def test_the_model_that_trains_answers_as_its_saved_adapter_does(tiny_base, tiny_tokenizer, tmp_path, quantization):
    prompts = [[1, *range(20, 40), n] for n in range(50, 55)]
    options = GenerationOptions(max_new_tokens=12)
    answers = []

    def measure(model):
        answers.append(generate(model, tiny_tokenizer, prompts, options))
        answers.append(plain(model, tiny_tokenizer, prompts, options))
        return 1.0

    short = recipe(quantization, choose_every=100, epochs=0.25, learning_rate=0.05)  # more, and every answer is empty
    trainer = train(short, tiny_base, TRAIN, VALIDATION, tmp_path / "run", measure=measure)
    saved = load_for_inference(tiny_base, quantization, trainer.chooser.adapter)
    expected = [row.token_ids for row in generate(saved, tiny_tokenizer, prompts, options)]
    assert [[row.token_ids for row in rows] for rows in answers] == [expected, expected]
    assert len(set(expected)) > 1
    assert not any(hasattr(layer, "packed") for layer in trainer.model.modules())
    assert trainer.model.training


def test_a_sharded_model_cannot_answer():
    with pytest.raises(ValueError, match="choose_every needs a whole model"):
        recipe(choose_every=0.5, fsdp=True, processes=2)


def test_choosing_needs_validation_questions(tiny_base, tmp_path):
    with pytest.raises(UserError, match="needs validation questions"):
        train(recipe(choose_every=0.5), tiny_base, TRAIN, [], tmp_path, measure=Answers())
