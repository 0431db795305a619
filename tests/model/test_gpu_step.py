"""What a step on a GPU is made of, as far as a machine without one can tell: passes, memory, number of operations."""

import itertools
import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.model.conftest import NF4, UNQUANTIZED
from tests.model.test_packing import ATTENTION, databases, model  # noqa: F401
from text2sql.model import flash, packing
from text2sql.model.flash import FLASH
from text2sql.model.fused import fuse
from text2sql.model.loss import answer_loss
from text2sql.model.memory import Budget, training_budget
from text2sql.model.packing import Plan, collate, pack, passes, plan

#: what launches nothing on a GPU
VIEWS = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "transpose", "t", "slice", "select", "expand", "as_strided",
    "unsqueeze", "squeeze", "permute", "detach", "alias", "flatten", "unflatten", "split", "split_with_sizes", "narrow",
    "numpy_T", "matrix_H", "empty", "empty_like", "new_empty", "lift_fresh", "result_type", "to", "resolve_conj",
    "resolve_neg", "is_nonzero", "item", "_local_scalar_dense",
}  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("tokens", [0, 60, 150, 10**6])
def test_passes_are_the_steps_cut(processes, tokens):
    examples = list(itertools.chain(*databases(2, [32, 30, 31, 7], [9, 20, 3, 5]).values()))
    planned = plan(examples, 4, 9999, 32, 1.0, seed=5, processes=processes)
    cut, count = passes(planned, processes, tokens)
    assert [group for groups in cut for group in groups] == planned.groups
    assert len(cut) == planned.steps * count * processes
    assert len({len(groups) for groups in cut}) == 1
    largest = max(sum(pack(group).tokens for group in groups) for groups in cut)
    assert largest <= tokens or all(len(groups) == 1 for groups in cut)
    assert tokens < 10**6 or count == 1


@pytest.mark.parametrize("left", [2, 4, 6])
def test_a_short_last_step_has_as_many_passes_for_each_process(left):
    groups = [tuple(x) for x in databases(2, [1] * (8 + left), [4] * (8 + left)).values()]
    cut, _ = passes(Plan(groups, 8), processes=2, tokens=10**6)
    assert [group for groups in cut for group in groups] == groups
    assert [len(groups) for groups in cut] == [4, 4, left // 2, left // 2]


@pytest.mark.parametrize(
    ("gigabytes", "checkpointing", "expected"),
    [
        (None, "auto", (4096, 0, False, True)),
        (80, "auto", (None, None, False, True)),
        (141, "auto", (None, None, False, True)),
        (24, "auto", (None, None, True, False)),
        (80, True, (None, None, True, False)),
        (80, False, (None, None, False, True)),
    ],
)
def test_what_fits_a_gpu(tmp_path, monkeypatch, gigabytes, checkpointing, expected):
    """Mistral-7B in NF4: all of it on a card of 80 GB, the activations twice on one of 24."""
    monkeypatch.setattr("text2sql.model.memory.parameter_count", lambda base: 7_240_000_000)
    config = {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    total = gigabytes and gigabytes * 10**9
    budget = training_budget(tmp_path, NF4, "auto", checkpointing, total)
    assert budget[2:] == expected[2:]
    if total is None:
        assert budget == Budget(*expected)
    else:
        assert 4096 <= budget.tokens == budget.pass_tokens <= 32768
        assert training_budget(tmp_path, NF4, 3000, checkpointing, total)[:2] == (3000, 3000)
    assert not training_budget(tmp_path, UNQUANTIZED, "auto", "auto", 10**11).keeps_weights


def operations(step):
    """How many of torch's operations that compute something are called in it."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    inside = [event for event in record.events() if event.name.startswith("aten::")]
    return sum(
        event.name.removeprefix("aten::") not in VIEWS
        and not any(child.name.startswith("aten::") and child.name[6:] not in VIEWS for child in event.cpu_children)
        for event in inside
    )


@pytest.mark.parametrize("packs", [4])
def test_a_step_has_a_third_of_the_operations(model, monkeypatch, packs):  # noqa: F811
    """Against one pack at a time, attention by matrix products, PEFT's layers and transformers' norms."""

    def forward(query, *_):
        return torch.zeros_like(query), torch.zeros(query.shape[1], query.shape[0]), ()

    monkeypatch.setattr(flash, "_flash", forward)  # each is one operation, as is the kernel
    monkeypatch.setattr(flash, "_flash_backward", lambda _, *x: tuple(torch.zeros_like(part) for part in x[:3]))
    monkeypatch.setattr(packing, "_attend_fused", packing._attend_products)  # as on a GPU
    groups = [pack(group) for group in databases(1, [8] * packs, [40] * packs).values()]

    def step(batches, attention):
        model.set_attn_implementation(attention)
        for batch in batches:
            answer_loss(model, batch).backward()

    old = operations(lambda: step([collate([one]) for one in groups], ATTENTION))
    forwards = {module: module.forward for module in model.modules()}
    fuse(model)
    try:
        new = operations(lambda: step([collate(groups)], FLASH))
    finally:
        for module, own in forwards.items():
            module.forward = own
    print(f"{old} operations, {new} now")
    assert 0 < 3 * new <= old
