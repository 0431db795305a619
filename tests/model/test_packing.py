"""Packing is exact: loss and gradients are those of the separate sequences, and no question sees another."""

import functools
import itertools
import random
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.model.random_models import BASES, adapted
from text2sql.model import packing
from text2sql.model.loss import answer_loss
from text2sql.model.packing import ATTENTION, IGNORED, TrainingExample, collate, pack, plan


@pytest.fixture(scope="module", params=list(BASES))
def model(request):
    """All of its weights are large: attention that is wrong anywhere would show."""
    model = adapted(request.param)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    return model


def separate_gradients(model, examples, reduction="sum"):
    """The stock way: one sequence an example, logits for all positions, transformers' own attention and shift."""
    model.set_attn_implementation("eager")
    model.zero_grad()
    total = 0.0
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answer]])
        labels = ids.clone()
        labels[:, : len(example.prompt)] = IGNORED
        logits = model(input_ids=ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction=reduction)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def packed_gradients(model, batches, attention=ATTENTION):
    model.set_attn_implementation(attention)
    model.zero_grad()
    total = 0.0
    for groups in batches:
        loss = answer_loss(model, collate([pack(group) for group in groups]))
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_equal(one, two, tolerance=1e-5):
    (loss_a, grads_a), (loss_b, grads_b) = one, two
    assert loss_a == pytest.approx(loss_b, rel=tolerance)
    assert grads_a.keys() == grads_b.keys()
    largest = max(gradient.abs().max() for gradient in grads_a.values())
    for name in grads_a:
        assert grads_a[name].abs().max() > 0, f"{name} has no gradient to compare"
        scale = max(grads_a[name].abs().max(), 1e-3 * largest)  # the small ones are rounded like those they come from
        assert (grads_a[name] - grads_b[name]).abs().max() <= tolerance * scale, name


def example(chance, db, prefix, longest=12):
    def tokens(low, high):
        return tuple(chance.randrange(3, 97) for _ in range(chance.randint(low, high)))

    return TrainingExample(db, (*prefix, *tokens(1, longest)), (*tokens(0, longest), 2))


def databases(seed, counts, prefix_lengths):
    chance = random.Random(seed)
    made = {}
    for n, (count, length) in enumerate(zip(counts, prefix_lengths, strict=True)):
        prefix = tuple(chance.randrange(3, 97) for _ in range(length))
        made[f"db{n}"] = [example(chance, f"db{n}", prefix) for _ in range(count)]
    return made


CASES = {
    "one database": ([5], [20]),
    "three databases of unlike sizes": ([1, 7, 3], [30, 5, 1]),
    "no shared prefix": ([3, 2], [0, 0]),
    "single questions": ([1, 1, 1], [9, 9, 9]),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_separate_sequences(model, case):
    groups = list(databases(1, *CASES[case]).values())
    examples = list(itertools.chain(*groups))
    separate = separate_gradients(model, examples)
    assert_equal(separate, packed_gradients(model, [groups]))  # all in one flat sequence
    assert_equal(separate, packed_gradients(model, [[group] for group in groups]))  # accumulated
    halves = [[half] for group in groups for half in (group[: len(group) // 2], group[len(group) // 2 :]) if half]
    assert_equal(separate, packed_gradients(model, halves))  # other pack sizes


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_any_mixture(model, seed, counts):
    chance = random.Random(seed)
    groups = list(databases(seed, counts, [chance.randint(0, 25) for _ in counts]).values())
    separate = separate_gradients(model, list(itertools.chain(*groups)))
    assert_equal(separate, packed_gradients(model, [groups]))


def test_identical_and_nested_prompts(model):
    """One prompt given twice, and one prompt that begins another: each keeps its last token to itself."""
    same = TrainingExample("a", (5, 6, 7), (8, 2))
    groups = [(same, same, TrainingExample("a", (5, 6, 7, 9), (4, 2)))]
    assert_equal(separate_gradients(model, groups[0]), packed_gradients(model, [groups]))


def test_no_token_sees_another_question(model):
    """Changing one question changes its own predictions only, and not even by rounding."""
    model.set_attn_implementation(ATTENTION)
    group = databases(3, [4], [10])["db0"]
    changed = [*group[:1], TrainingExample("db0", (*group[1].prompt[:10], 50, 51), (52, 2)), *group[2:]]
    lengths = [len(e.prompt) + len(e.answer) for e in group]

    def hidden(examples):
        batch = collate([pack(examples)])
        del batch["labels"], batch["predicting"]
        with torch.no_grad():
            return model(**batch, use_cache=False).logits[0]

    one, two = hidden(group), hidden(changed)
    shared = len(pack(group).prefix)
    assert len(pack(changed).prefix) == shared == 10
    first = lengths[0] - shared
    assert torch.equal(one[: shared + first], two[: shared + first])
    last = sum(n - shared for n in lengths[2:])
    assert torch.allclose(one[-last:], two[-last:], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one[shared + first], two[shared + first])


def test_positions_labels_and_ids():
    group = (TrainingExample("a", (1, 5, 6, 7), (8, 2)), TrainingExample("a", (1, 5, 9), (2,)))
    batch = collate([pack(group), pack(group[:1])])
    assert batch["input_ids"].tolist() == [[1, 5, 1, 5, 6, 6, 7, 8, 2, 9, 2, 7, 8, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 2, 3, 4, 5, 2, 3, 3, 4, 5]]
    none = IGNORED
    assert batch["labels"].tolist() == [[none] * 7 + [8, 2, none, 2, none, 8, 2]]
    assert batch["predicting"].tolist() == [6, 7, 9, 11, 12]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    size=st.integers(1, 12),
    tokens=st.integers(1, 200),
    batch=st.integers(1, 24),
    epochs=st.sampled_from([1.0, 2.0, 3.0]),
    processes=st.integers(1, 3),
)
def test_plan_uses_every_example_once_an_epoch(counts, size, tokens, batch, epochs, processes):
    made = databases(7, counts, [8] * len(counts))
    examples = list(itertools.chain(*made.values()))
    assume(len(examples) >= processes)  # `train` refuses fewer
    planned = plan(examples, size, tokens, batch, epochs, seed=1, processes=processes)
    used = Counter(id(e) for group in planned.groups for e in group)
    unused = Counter({id(e): int(epochs) for e in examples})
    unused.subtract(used)
    assert min(unused.values()) >= 0
    assert len(planned.groups) % processes == planned.per_step % processes == 0
    # An epoch whose groups are single examples already cannot be evened out.
    uneven = any(len(group) == 1 for group in planned.groups)
    assert uneven or len(planned.groups) % planned.per_step == 0
    assert sum(unused.values()) <= (size * (processes - 1) if uneven else 0)
    for group in planned.groups:
        assert len({e.db_id for e in group}) == 1
        assert len(group) <= size
        assert len(group) == 1 or pack(group).tokens <= tokens


def test_a_step_mixes_databases():
    examples = list(itertools.chain(*databases(2, [32, 32, 32, 32], [9] * 4).values()))
    planned = plan(examples, size=8, tokens=9999, batch=32, epochs=2.0, seed=5)
    assert (planned.per_step, planned.steps, planned.examples) == (4, 8, 256)
    for start in range(0, len(planned.groups), 4):
        assert len({group[0].db_id for group in planned.groups[start : start + 4]}) == 4
    assert planned.groups[:16] != planned.groups[16:]
    assert planned == plan(examples, 8, 9999, 32, 2.0, 5)
    assert planned != plan(examples, 8, 9999, 32, 2.0, 6)
    assert plan(examples, 8, 9999, 32, 0.5, 5).groups == plan(examples, 8, 9999, 32, 1.0, 5).groups[:8]


@pytest.mark.parametrize(
    ("heads", "groups", "prefix", "questions"),
    [(9, 3, 50, (7, 1, 30, 12)), (4, 2, 0, (3, 9)), (9, 3, 31, (5,)), (8, 8, 1, (1, 1, 1)), (8, 1, 17, (20, 4))],
)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_both_ways_of_attention_agree(heads, groups, prefix, questions, scale):
    """The fused kernel and the matrix products, values and gradients, with tokens of other packs around."""
    torch.manual_seed(1)
    span = packing.Span(3, prefix, prefix + 5, questions)
    shapes = [(1, n, span.end + 4, 16) for n in (heads, groups, groups)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    results = []
    for attend in (packing._attend_fused, packing._attend_products):
        output = torch.cat([part for part in attend(*inputs, span, scale) if part is not None], dim=2)
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    for fused, products in zip(*results, strict=True):
        torch.testing.assert_close(products, fused, rtol=1e-4, atol=1e-5)


def layout(*packs):
    """Of packs with these lengths: (prefix, questions)."""
    return packing.flat_layout(
        [
            packing.Pack((0,) * prefix, tuple(TrainingExample("", (0,) * n, ()) for n in questions))
            for prefix, questions in packs
        ]
    )


def test_bfloat16_attention_is_as_near_as_its_rounding():
    torch.manual_seed(1)
    inputs = [torch.randn(1, n, 120, 16) for n in (6, 2, 2)]
    attend = functools.partial(packing.shared_prefix_attention, torch.nn.Module(), layout=layout((60, (20, 31, 9))))
    exact, _ = attend(*inputs, None)
    rounded, _ = attend(*(x.bfloat16() for x in inputs), None)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() / exact.norm() < 0.01


def test_no_fused_kernel_with_a_mask_off_the_cpu(monkeypatch):
    """GPUs' kernels for masked attention gave NaN: off the CPU, packs use matrix products. "meta" stands for a GPU."""
    monkeypatch.setattr(packing, "_attend_fused", None)
    inputs = [torch.empty(1, n, 60, 16, device="meta") for n in (6, 2, 2)]
    output, _ = packing.shared_prefix_attention(torch.nn.Module(), *inputs, None, layout=layout((40, (13, 7))))
    assert output.shape == (1, 60, 6, 16)
