"""A training step with fewer operations: LoRA layers, RMS norms and the loss, each one operation of autograd.

A step on a small model is spent less in its matrix products than between them: on a CPU in many small tensors, on a GPU
in waiting for the host, which launches each operation. PEFT's layer casts its input, both adapter matrices and their
gradients, scales and adds in tensors of their own, some thirty operations in all; a norm is another twenty. Here each
is one `autograd.Function` that keeps what its backward pass needs and writes into what it has. Loss and gradients are
the same up to rounding (tests/model/test_fused.py); `python benchmarks/fused.py` compares the times.

On a GPU, Liger's kernels (liger-kernel, where it is installed and works) take norms, rotation and SwiGLU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from text2sql.model.reordered import is_reordered

#: exp of less is nothing beside 1, but at 1e-38 a denormal number, with which a CPU computes fifty times as slowly
LEAST = -60.0
Tensors = tuple[torch.Tensor | None, ...]
#: classes of transformers that compute the same norm
NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm"}


class LoraProduct(torch.autograd.Function):
    """x W' + bias + scale (x A') B' for a frozen W (out, in) and bias (out), A (r, in) and B (out, r).

    x is (..., in) in the type of W, which `frozen` gives at each use: kept, or made from its 4 bits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        frozen: Callable[[], torch.Tensor],
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        weight = frozen()
        rows = x.reshape(-1, x.shape[-1])
        down, up = a.to(weight.dtype), (b * scale).to(weight.dtype)
        low = rows @ down.T
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(low, up.T)
        ctx.save_for_backward(rows, down, up, low)
        ctx.frozen, ctx.scale, ctx.shape, ctx.types = frozen, scale, x.shape, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tensors:
        rows, down, up, low = ctx.saved_tensors
        out = gradients[0].reshape(-1, up.shape[0])
        through = out @ up
        x = (out @ ctx.frozen()).addmm_(through, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
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
    """The negative log-likelihood of each target, in float32.

    Args:
        logits: (tokens, vocabulary); targets: (tokens).

    Returns:
        (tokens), differentiable.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # In place: these are the step's largest tensors.
        shifted = logits.to(torch.float32, copy=True)
        shifted.sub_(shifted.amax(-1, keepdim=True))
        target = shifted.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        shares = shifted.clamp_(min=LEAST).exp_()
        total = shares.sum(-1, keepdim=True)
        ctx.save_for_backward(shares.div_(total), targets)
        ctx.dtype = logits.dtype
        return total.log().squeeze(-1) - target

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tensors:
        shares, targets = ctx.saved_tensors
        weights = gradients[0].unsqueeze(-1)
        logits = shares.mul_(weights).scatter_add_(-1, targets.unsqueeze(-1), -weights)
        return logits.to(ctx.dtype), None


def fuse(model: torch.nn.Module, keep: bool = True) -> int:
    """Let a PEFT model compute its LoRA layers and RMS norms so; how many layers that are.

    `keep`: 4-bit weights are dequantized once and kept, which multiplies by the same values, instead of at every use.
    Layers with dropout or DoRA stay as they are.
    """
    from peft.tuners.lora import LoraLayer

    count = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and (frozen := _frozen(module, keep)) is not None:
            module.forward = functools.partial(_lora, module, frozen)  # type: ignore[attr-defined]
            count += 1
        elif type(module).__name__ in NORMS and not module.weight.requires_grad:
            module.forward = functools.partial(_norm, module)  # type: ignore[method-assign]
    return count


def liger(model: Any) -> str:
    """Let a PEFT model on a GPU use Liger's kernels for norms, rotation and SwiGLU; why not, where they do not work.

    Triton compiles them at their first use, for which it wants a C compiler and Python's headers.
    """
    try:
        from liger_kernel.ops import LigerSiLUMulFunction
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        LigerSiLUMulFunction.apply(*torch.ones(2, 8, 64, dtype=torch.bfloat16, device="cuda")).sum().item()
    except Exception as error:  # whatever a compiler can say: the training goes on without, and says so
        return f"{type(error).__name__}: {error}".splitlines()[0]
    # Liger's own loss wants the logits of all positions.
    _apply_liger_kernel_to_instance(model.get_base_model(), fused_linear_cross_entropy=False, cross_entropy=False)
    return ""


def _frozen(layer: Any, keep: bool) -> Callable[[], torch.Tensor] | None:
    """What gives the frozen weight of a plain LoRA layer; None for other kinds."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    base = layer.get_base_layer()
    plain = isinstance(base, torch.nn.Linear) and not layer.lora_variant
    if not plain or not layer.active_adapters == list(layer.lora_A) == ["default"]:
        return None
    if not isinstance(layer.lora_dropout["default"], torch.nn.Identity):
        return None
    if type(base) is torch.nn.Linear:
        return lambda: base.weight
    if not isinstance(base, Linear4bit):
        return None

    def dequantized() -> torch.Tensor:
        return dequantize_4bit(base.weight.data, base.weight.quant_state).to(base.compute_dtype)

    if not keep:
        return dequantized
    kept = dequantized()
    return lambda: kept


def _lora(layer: Any, frozen: Callable[[], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    base = layer.get_base_layer()
    dtype = getattr(base, "compute_dtype", base.weight.dtype)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    bias = None if base.bias is None else base.bias.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        if is_reordered(base):  # questions are answered
            return base(x.to(dtype)).add_((x.to(dtype) @ a.to(dtype).T) @ (b * layer.scaling["default"]).to(dtype).T)
        return LoraProduct.apply(x.to(dtype), frozen, bias, a, b, layer.scaling["default"])


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return RmsNorm.apply(x, module.weight, module.variance_epsilon)
