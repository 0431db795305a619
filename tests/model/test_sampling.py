"""The tokens of a batch are those of each row alone; what a row may not say, it does not."""

import random
from types import SimpleNamespace

import pytest
import torch

from text2sql.errors import UserError
from text2sql.model import constraint, sampling
from text2sql.model.sampling import choose_tokens

VOCABULARY = 200


class Names:
    """A constraint: the grammar allows the even tokens, names only what is in `right`."""

    words = -(-VOCABULARY // 32)

    def __init__(self, right):
        self.right, self.asked, self.released, self.bytes = right, [], False, [6, 150, 20]
        self.matcher = SimpleNamespace(unsafe_compute_mask_ptr=self.fill)

    def fill(self, pointer, size):
        import ctypes

        ctypes.memmove(pointer, b"\x55" * size, size)

    def refers(self, token):
        self.asked.append(token)
        return self.released or token in self.right

    def release(self):
        self.released = True


class Threads:
    """Stands for llguidance's, with matchers of `Names`."""

    def unsafe_compute_mask_ptr(self, matchers, pointer, size, rows):
        for matcher, row in matchers:
            assert row < rows
            matcher.unsafe_compute_mask_ptr(pointer + row * size, size)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(constraint, "_threads", Threads)


@pytest.fixture
def logits():
    return torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0))


def test_a_batch_chooses_as_its_rows_do(logits):
    def rows():
        return [None, Names({4, 8, 100}), None, Names(set(range(VOCABULARY))), None, Names({2})]

    def draws():
        return [None, None, random.Random(1), None, random.Random(2), random.Random(3)]

    together = choose_tokens(logits, rows(), draws(), 0.7)
    alone = [choose_tokens(logits[i : i + 1], [rows()[i]], [draws()[i]], 0.7)[0] for i in range(6)]
    assert [c.token for c in together] == [c.token for c in alone]
    assert [c.score for c in together] == pytest.approx([c.score for c in alone])


def test_choices(logits):
    constraint = Names({4, 8, 100})
    free, held = choose_tokens(logits[:2], [None, constraint], [None, None])
    best = logits[0].topk(2)
    assert free.token == best.indices[0]
    assert free.margin == pytest.approx(float(best.values[0] - best.values[1]))
    assert free.score == pytest.approx(float(logits[0].log_softmax(-1).max()), abs=1e-5)
    assert held.token == max((4, 8, 100), key=lambda token: logits[1, token])
    assert all(token % 2 == 0 for token in constraint.asked)


def test_where_no_likely_token_will_do_a_byte_may(logits, monkeypatch):
    """Once 'Y' had been written of 'Yes', "es" was not among the likeliest thousand: the text went astray."""
    monkeypatch.setattr(sampling, "TRIED", 16)
    unlikely = logits[0].argsort()[:100].tolist()
    logits[0, 150] = logits[0, 20] + 1  # the likelier of two bytes, neither of which is likely
    byte = Names({150, 20, 4} & set(unlikely) | {150, 20})
    logits[0, [150, 20]] -= 10
    (choice,) = choose_tokens(logits[:1], [byte], [None])
    assert choice.token == 150
    assert not byte.released


def test_a_dead_end_releases_the_row(logits):
    constraint = Names(set())
    (choice,) = choose_tokens(logits[:1], [constraint], [None])
    assert constraint.released
    assert choice.token == logits[0, ::2].argmax() * 2


def test_samples_follow_the_probabilities():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2] + [1e-9] * 5]))
    draw = random.Random(0)
    tokens = [choose_tokens(logits, [None], [draw])[0].token for _ in range(2000)]
    assert [tokens.count(i) / 2000 for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_numbers_that_are_none_are_said():
    with pytest.raises(UserError, match="computes no numbers"):
        choose_tokens(torch.full((1, 9), float("nan")), [None], [None])


def test_one_copy_to_the_host_for_a_batch(logits, monkeypatch):
    """Each `tolist` waits for the device: there is one, however many rows there are."""
    copies = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: copies.append(x.shape) or tolist(x))
    constraints = [Names(set(range(VOCABULARY))) for _ in range(6)]
    choose_tokens(logits, constraints, [None, random.Random(1)] * 3)
    assert copies == [(6, 1 + 2 * sampling.PROPOSED)]
