"""The weights that predict are those that were trained, and reordered ones follow them."""

import pytest

from text2sql.model.base import QuantizationOptions, load_model
from text2sql.model.inference import load_for_inference

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


@pytest.mark.parametrize(("asked", "computed"), [("auto", "float32"), ("bfloat16", "bfloat16"), ("float32", "float32")])
def test_the_precision_that_is_asked_for_where_plain_weights_do_not_fit(
    tiny_base, trained, monkeypatch, asked, computed
):
    import torch

    monkeypatch.setattr("text2sql.model.inference._fits", lambda *_: False)
    model = load_for_inference(tiny_base, NF4, trained[1], asked, device="cpu")
    assert {m.compute_dtype for m in model.modules() if hasattr(m, "compute_dtype")} == {getattr(torch, computed)}


def test_reordered_weights_follow_a_change(tiny_base):
    import torch
    from torch import nn

    from text2sql.model.reordered import reorder_weights, reordered_weights

    model = nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 8, bias=False))
    x = torch.randn(5, 24)
    for _ in range(2):
        reorder_weights(model)
        with torch.inference_mode():
            plain = model(x)
            with reordered_weights():
                torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            model[0].weight.add_(1.0)
    loss = model(x).sum()
    loss.backward()  # outside of `reordered_weights` it trains as ever
    assert model[1].weight.grad is not None
