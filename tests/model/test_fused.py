"""A step of few operations computes what PEFT's layers, transformers' norms and torch's loss compute."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.model.random_models import BASES, LORA, adapted
from text2sql.model.base import QuantizationOptions, load_model
from text2sql.model.fused import RmsNorm, TokenLoss, fuse
from text2sql.model.lora import add_adapter


def loss_and_gradients(model, dtype):
    model.zero_grad()
    ids = torch.randint(0, 97, (2, 23), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("base", BASES)
def test_loss_and_gradients_are_those_of_peft(base):
    stock = adapted(base)
    fused = copy.deepcopy(stock)
    assert fuse(fused) == 14
    expected, gradients = loss_and_gradients(stock, torch.float32)
    loss, own = loss_and_gradients(fused, torch.float32)
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        assert own[name].dtype == torch.float32
        assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item()), name


def test_in_bfloat16_it_is_as_near_to_float32_as_peft_is():
    exact = loss_and_gradients(adapted(), torch.float32)[1]
    stock = adapted()
    stock.get_base_model().to(torch.bfloat16)
    for parameter in stock.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for name, p in adapted().named_parameters():
        if p.requires_grad:
            stock.get_parameter(name).data = p.data.clone()
    fused = copy.deepcopy(stock)
    assert fuse(fused) == 14

    size = sum(gradient.norm().item() for gradient in exact.values())

    def error(model):
        found = loss_and_gradients(model, torch.bfloat16)[1]
        return sum((found[name] - gradient).norm().item() for name, gradient in exact.items()) / size

    assert error(fused) <= 1.2 * error(stock) < 0.2


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_other_kinds_of_layers_stay_as_they_are(changes):
    assert fuse(adapted(options=dataclasses.replace(LORA, **changes))) == 0


def test_a_fused_model_still_saves_and_merges(tmp_path):
    model = adapted()
    fuse(model)
    model.save_pretrained(tmp_path)
    ids = torch.arange(9)[None]
    before = model.eval()(input_ids=ids).logits
    assert torch.allclose(model.merge_and_unload()(input_ids=ids).logits, before, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_loss(dtype):
    torch.manual_seed(0)
    logits = (torch.randn(7, 50) * 30).to(dtype).requires_grad_()  # some far below the best: denormal shares
    targets, weights = torch.randint(0, 50, (7,)), torch.rand(7)
    nll = TokenLoss.apply(logits, targets)
    (nll * weights).sum().backward()
    own, logits.grad = logits.grad, None
    log_probs = functional.log_softmax(logits.float(), -1)
    expected = functional.nll_loss(log_probs, targets, reduction="none")
    (expected * weights).sum().backward()
    assert torch.allclose(nll, expected, rtol=1e-6)
    assert torch.allclose(own, logits.grad, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-7)


def test_rms_norm():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 16, requires_grad=True), torch.rand(16)
    expected = nn.functional.rms_norm(x, (16,), weight, 1e-5)
    out = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, x, out)
    found = RmsNorm.apply(x, weight, 1e-5)
    (own,) = torch.autograd.grad(found, x, out)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(own, wanted, atol=1e-6)


def test_4_bit_weights_are_those_that_peft_multiplies_by(tiny_base):
    quantization = QuantizationOptions(bits=4, type="nf4", double=True, compute_dtype="float32")
    torch.manual_seed(0)
    stock = add_adapter(load_model(tiny_base, quantization), LORA).train()
    fused = add_adapter(load_model(tiny_base, quantization), LORA)
    for name, parameter in stock.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.1)
            fused.get_parameter(name).data = parameter.data.clone()
    assert fuse(fused) == 7 * stock.config.num_hidden_layers
    expected, gradients = loss_and_gradients(stock, torch.float32)
    loss, own = loss_and_gradients(fused, torch.float32)
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item()), name
