"""A CPU's training step with fewer operations: LoRA layers, RMS norms and the loss, each one operation of autograd.

On a CPU a step on a small model is spent less in its matrix products than between them: PEFT's layer casts its input,
both adapter matrices and their gradients, scales and adds in tensors of their own, some thirty operations in all; a
norm is another twenty. Here each is one `autograd.Function` that keeps what its backward pass needs and writes into
what it has. Loss and gradients are the same up to rounding (tests/model/test_fused.py);
`python benchmarks/fused.py` compares the times.

GPUs have kernels of their own for this, and keep PEFT's layers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

#: exp of less is nothing beside 1, but at 1e-38 a denormal number, with which a CPU computes fifty times as slowly
LEAST = -60.0
Tensors = tuple[torch.Tensor | None, ...]
#: classes of transformers that compute the same norm
NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm"}


class LoraProduct(torch.autograd.Function):
    """x W' + bias + scale (x A') B' for a frozen W (out, in) and bias (out), A (r, in) and B (out, r).

    x is (..., in) in the type of W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = a.to(weight.dtype), (b * scale).to(weight.dtype)
        low = rows @ down.T
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(low, up.T)
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.scale, ctx.shape, ctx.types = scale, x.shape, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tensors:
        rows, weight, down, up, low = ctx.saved_tensors
        out = gradients[0].reshape(-1, weight.shape[0])
        through = out @ up
        x = (out @ weight).addmm_(through, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        a = (through.T @ rows).to(ctx.types[0])
        b = (out.T @ low).to(ctx.types[1]).mul_(ctx.scale)
        return x, None, None, a, b, None


class RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) over the last dimension, computed in float32; weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        normal = (wide * inverse).to(x.dtype)
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tensors:
        normal, inverse, weight = ctx.saved_tensors
        wide = (gradients[0] * weight).float()
        along = torch.linalg.vecdot(wide, normal.float()).unsqueeze(-1) / normal.shape[-1]
        return wide.sub_(normal * along).mul_(inverse).to(normal.dtype), None, None


class TokenLoss(torch.autograd.Function):
    """The negative log-likelihood of each target, in float32, with what is reported beside it.

    Args:
        logits: (tokens, vocabulary); targets: (tokens).

    Returns:
        nll: (tokens), differentiable; best: (tokens), the likeliest token; entropy: (tokens), in nats.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shifted = logits.to(torch.float32, copy=True)
        highest, best = shifted.max(-1, keepdim=True)
        target = shifted.sub_(highest).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        shares = shifted.clamp_(min=LEAST).exp()
        total = shares.sum(-1, keepdim=True)
        shares.div_(total)
        normal = total.log().squeeze(-1)
        nll = normal - target
        entropy = normal - torch.linalg.vecdot(shares, shifted)
        ctx.save_for_backward(shares, targets)
        ctx.dtype = logits.dtype
        best = best.squeeze(-1)
        ctx.mark_non_differentiable(best, entropy)
        return nll, best, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tensors:
        shares, targets = ctx.saved_tensors
        weights = gradients[0].unsqueeze(-1)
        # In place: these are the step's largest tensors, and the graph is gone through once.
        logits = shares.mul_(weights).scatter_add_(-1, targets.unsqueeze(-1), -weights)
        return logits.to(ctx.dtype), None


def fuse(model: torch.nn.Module) -> int:
    """Let a PEFT model on a CPU compute its LoRA layers and RMS norms so; how many layers that are.

    4-bit weights are dequantized once and kept, which multiplies by the same values: a CPU does not lack the memory but
    the time to do it at every use. Layers with dropout or DoRA stay as they are.
    """
    from peft.tuners.lora import LoraLayer

    count = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and (weight := _weight(module)) is not None:
            bias = module.get_base_layer().bias
            module.forward = functools.partial(  # type: ignore[attr-defined]
                _lora, module, weight, None if bias is None else bias.to(weight.dtype)
            )
            count += 1
        elif type(module).__name__ in NORMS and not module.weight.requires_grad:
            module.forward = functools.partial(_norm, module)  # type: ignore[method-assign]
    return count


def _weight(layer: Any) -> torch.Tensor | None:
    """The frozen weight of a plain LoRA layer; None for other kinds."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    base = layer.get_base_layer()
    plain = isinstance(base, torch.nn.Linear) and not layer.lora_variant
    if not plain or not layer.active_adapters == list(layer.lora_A) == ["default"]:
        return None
    if not isinstance(layer.lora_dropout["default"], torch.nn.Identity):
        return None
    if isinstance(base, Linear4bit):
        return dequantize_4bit(base.weight.data, base.weight.quant_state).to(base.compute_dtype)
    return base.weight if type(base) is torch.nn.Linear else None


def _lora(layer: Any, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return LoraProduct.apply(
            x.to(weight.dtype),
            weight,
            bias,
            layer.lora_A["default"].weight,
            layer.lora_B["default"].weight,
            layer.scaling["default"],
        )


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return RmsNorm.apply(x, module.weight, module.variance_epsilon)
