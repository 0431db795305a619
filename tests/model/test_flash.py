"""Flash attention of packs: two calls joined. The kernels are a GPU's; here what they compute is written out."""

import copy

import pytest
import torch

from tests.model.test_packing import assert_equal, databases, layout, packed_gradients, separate_gradients
from tests.model.test_packing import model as model
from text2sql.model import flash, packing
from text2sql.model.flash import FLASH, flash_error, joined_flash_attention

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")


def documents(query_bounds, key_bounds):
    for n in range(len(query_bounds) - 1):
        yield slice(*query_bounds[n : n + 2].tolist()), slice(*key_bounds[n : n + 2].tolist())


def scores(query, key, causal, scale):
    """(heads, queries, keys) of one document."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    products = torch.einsum("qhw,khw->hqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    ahead = torch.ones(products.shape[1:], dtype=torch.bool).triu(1)
    return products.masked_fill(ahead, float("-inf")) if causal else products


def forward(query, key, value, query_bounds, key_bounds, longest_query, longest_key, causal, scale):
    out, sums = torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
    for rows, columns in documents(query_bounds, key_bounds):
        assert rows.stop - rows.start <= longest_query
        assert 0 < columns.stop - columns.start <= longest_key
        own = scores(query[rows], key[columns], causal, scale).float()
        values = value[columns].repeat_interleave(query.shape[1] // value.shape[1], 1)
        out[rows] = torch.einsum("hqk,khw->qhw", own.softmax(-1), values.float()).to(out.dtype)
        sums[:, rows] = own.logsumexp(-1)
    return out, sums, ()


def backward(gradient, query, key, value, out, sums, query_bounds, key_bounds, _, __, causal, ___, scale):
    """The kernels' formula: the weights are taken from the log-sum-exp given, which may be of more keys than these."""
    shares = [torch.zeros_like(x) for x in (query, key, value)]
    repeat = query.shape[1] // key.shape[1]
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    for rows, columns in documents(query_bounds, key_bounds):
        weights = torch.exp(scores(query[rows], key[columns], causal, scale) - sums[:, rows].unsqueeze(-1))
        keys, values = (x[columns].repeat_interleave(repeat, 1) for x in (key, value))
        of_weights = torch.einsum("qhw,khw->hqk", gradient[rows], values)
        along = (gradient[rows] * out[rows]).sum(-1).T.unsqueeze(-1)
        of_scores = weights * (of_weights - along) * factor
        shares[0][rows] += torch.einsum("hqk,khw->qhw", of_scores, keys)
        for share, part in (
            (shares[1], torch.einsum("hqk,qhw->khw", of_scores, query[rows])),
            (shares[2], torch.einsum("hqk,qhw->khw", weights, gradient[rows])),
        ):
            share[columns] += part.unflatten(1, (-1, repeat)).sum(2)
    return tuple(shares)


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(flash, "_flash", forward)
    monkeypatch.setattr(flash, "_flash_backward", backward)


@pytest.mark.parametrize(
    "packs",
    [[(20, (5, 9, 1))], [(7, (3,)), (30, (2, 8)), (1, (1, 1, 1))], [(0, (4, 2))], [(9, (3, 3)), (0, (5,))]],
    ids=["one pack", "three packs", "no prefix", "one without a prefix"],
)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_joined_calls_are_one_softmax(kernels, packs, scale):
    torch.manual_seed(0)
    lies = layout(*packs)
    inputs = [torch.randn(1, heads, lies.spans[-1].end, 8, requires_grad=True) for heads in (6, 2, 2)]
    weights = torch.randn(1, lies.spans[-1].end, 6, 8)
    results = []
    for attend in (joined_flash_attention, packing.shared_prefix_attention):
        out, _ = attend(torch.nn.Module(), *inputs, None, layout=lies, scaling=scale)
        results.append((out, *torch.autograd.grad((out * weights).sum(), inputs)))
    for joined, exact in zip(*results, strict=True):
        torch.testing.assert_close(joined, exact, rtol=1e-4, atol=1e-5)


def test_loss_and_gradients_are_those_of_separate_sequences(kernels, model):
    groups = list(databases(1, [1, 7, 3], [30, 5, 1]).values())
    separate = separate_gradients(model, [example for group in groups for example in group])
    assert_equal(separate, packed_gradients(model, [groups], FLASH))


def test_kernels_that_are_wrong_or_missing_are_told(kernels, model, monkeypatch):
    packs = [packing.pack(group) for group in databases(1, [4, 3], [30, 5]).values()]
    assert flash_error(model.config, packs, "cpu", torch.float32) is None

    def nan(*arguments):
        out, sums, state = forward(*arguments)
        return out.index_fill(0, torch.tensor([3]), float("nan")), sums, state

    monkeypatch.setattr(flash, "_flash", nan)
    assert "values differ by nan" in flash_error(model.config, packs, "cpu", torch.float32)
    monkeypatch.undo()
    assert "Error" in flash_error(model.config, packs, "cpu", torch.float32)  # a CPU has no such kernel


@NO_GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernels_of_this_gpu(model, dtype):
    config = copy.deepcopy(model.config)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 12, 2, 128
    packs = [packing.pack(group) for group in databases(1, [8, 3, 8], [222, 5, 265]).values()]
    assert flash_error(config, packs, "cuda", dtype) is None
