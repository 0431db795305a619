"""Linear layers in the layout that oneDNN's kernels like best.

PyTorch multiplies float32 on a CPU by MKL, with the weights as they lie. A batch of 16 tokens is then far from what the
processor can do, on AMD's above all. oneDNN with its weights reordered once gives the same sums (up to their order) in
less than half the time (SmolLM2-135M's layers, 16 tokens, AVX-512: 59 ms against 26), and does as much for bfloat16.
torch.compile's freezing uses the same two operators, but takes minutes to compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: Parameters of the largest model that is packed: a packed weight is a second copy.
LARGEST = 1_000_000_000


class _PackedLinear(nn.Linear):
    """A linear layer with a packed copy of its weight, used inside `reordered_weights` only."""

    packed: torch.Tensor
    #: which weight was packed: a training step in between makes the copy stale
    stamp: tuple[int, int]
    active = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not _PackedLinear.active:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")


def reorder_weights(model: nn.Module) -> None:
    """Give the linear layers of `model` packed weights, anew where a weight has changed.

    Nothing is done on a GPU, without oneDNN, for a quantized layer, or for a model beyond `LARGEST`.
    """
    if not torch.backends.mkldnn.is_available() or sum(p.numel() for p in model.parameters()) > LARGEST:
        return
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if type(layer) not in (nn.Linear, _PackedLinear) or weight.device.type != "cpu" or not _supported(weight.dtype):
            continue
        stamp = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if type(layer) is nn.Linear or layer.stamp != stamp:
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
            layer.stamp = stamp
            layer.__class__ = _PackedLinear


def is_reordered(layer: nn.Module) -> bool:
    """Whether `layer` multiplies by a reordered weight now."""
    return isinstance(layer, _PackedLinear) and _PackedLinear.active


def forget_reordered(model: nn.Module) -> None:
    """Free what `reorder_weights` has made."""
    for layer in model.modules():
        if isinstance(layer, _PackedLinear):
            layer.__class__ = nn.Linear
            del layer.packed, layer.stamp


def _supported(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def reordered_weights() -> Iterator[None]:
    """Within it, layers that `reorder_weights` has prepared multiply by their reordered weights."""
    before, _PackedLinear.active = _PackedLinear.active, True
    try:
        yield
    finally:
        _PackedLinear.active = before
