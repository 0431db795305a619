"""The weights that predict are those that were trained; packed ones follow them; vLLM is used as its interface says."""

import sys
import types
from pathlib import Path

import pytest

from text2sql.errors import UserError
from text2sql.model.base import QuantizationOptions, load_model, load_tokenizer
from text2sql.model.generation import GenerationOptions
from text2sql.model.inference import TransformersEngine, load_engine, load_for_inference

PLAIN = QuantizationOptions(bits=None, type=None, double=False, compute_dtype="float32")
NF4 = QuantizationOptions(bits=4, type="nf4", double=True, compute_dtype="float32")


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory):
    """NF4 base with an adapter as training has it, and the folder of the adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(load_model(tiny_base, NF4, device="cpu"), config).train()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return model, folder


def test_merged_weights_give_the_logits_of_training(tiny_base, trained):
    import torch

    model, adapter = trained
    ids = torch.randint(3, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    merged = load_for_inference(tiny_base, NF4, adapter, device="cpu")
    with torch.no_grad():
        difference = (merged(ids).logits - model(ids).logits).abs().max()
        other = (
            (load_for_inference(tiny_base, PLAIN, adapter, device="cpu")(ids).logits - model(ids).logits).abs().max()
        )
    assert difference < 1e-4
    assert other > 100 * difference  # 4-bit weights are not the original ones: the test would see a difference
    assert not any("lora" in name for name, _ in merged.named_modules())


def test_packed_weights_follow_a_change(tiny_base):
    import torch
    from torch import nn

    from text2sql.model.packed import pack, packed_weights

    model = nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 8, bias=False))
    x = torch.randn(5, 24)
    for _ in range(2):
        pack(model)
        with torch.inference_mode():
            plain = model(x)
            with packed_weights():
                torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            model[0].weight.add_(1.0)
    loss = model(x).sum()
    loss.backward()  # outside of `packed_weights` it trains as ever
    assert model[1].weight.grad is not None


def test_the_plain_engine_neither_samples_nor_constrains(tiny_base):
    engine = TransformersEngine(load_model(tiny_base, PLAIN, device="cpu"), load_tokenizer(tiny_base), shared=False)
    with pytest.raises(UserError, match="neither samples nor constrains"):
        list(engine.stream([[5, 6]], GenerationOptions(max_new_tokens=2), seeds=["1"]))


def test_vllm_is_given_the_merged_model(tiny_base, trained, monkeypatch):
    """vLLM itself wants a GPU: this holds it to the interface that it documents."""
    calls = {}

    class LLM:
        def __init__(self, model, **options):
            merged = load_model(Path(model), PLAIN, device="cpu")
            calls.update(options, merged=merged)

        def generate(self, prompts, params, use_tqdm):
            calls.update(prompts=prompts, params=params)
            ends = [("stop", [7, 8, 2]), ("stop", [7]), ("length", [9, 9])]
            outputs = [types.SimpleNamespace(finish_reason=r, token_ids=t, cumulative_logprob=-1.5) for r, t in ends]
            return [types.SimpleNamespace(outputs=[out]) for out in outputs]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **options: options
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "vllm", module)
    engine = load_engine("vllm", tiny_base, NF4, trained[1], "float32")
    made = dict(engine.stream([[4], [5], [6]], GenerationOptions(max_new_tokens=2), [None, "a", "b"]))
    assert [(made[i].token_ids, made[i].finished, made[i].score) for i in range(3)] == [
        ((7, 8), True, -1.5),
        ((7,), True, -1.5),
        ((9, 9), False, -1.5),
    ]
    assert calls["prompts"] == [{"prompt_token_ids": [4]}, {"prompt_token_ids": [5]}, {"prompt_token_ids": [6]}]
    assert [p["temperature"] for p in calls["params"]] == [0.0, 1.0, 1.0]
    assert calls["params"][1]["seed"] != calls["params"][2]["seed"]
    assert calls["enable_prefix_caching"]
    merged = load_for_inference(tiny_base, NF4, trained[1], device="cpu").state_dict()
    assert all((value == merged[name]).all() for name, value in calls["merged"].state_dict().items())
