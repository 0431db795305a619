"""Attention of packs on a GPU: two calls of flash attention without a mask, joined by their log-sum-exp.

The first call takes every prefix and every question as a document of its own, causally; the second lets the questions
of each pack attend to all of their prefix. A softmax over both sets of keys is the mean of the two results, weighted by
the exponentials of their log-sum-exps. In the backward pass each call is given the joined result and log-sum-exp:
its share of the gradients is then exact (as in ring attention, arXiv 2310.01889).

GPUs' kernels for masked attention gave NaN for some packs (docs/TRAINING.md), and `flash_error` tries these ones, too,
on the device that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface

from text2sql.model.memory import attention_shape
from text2sql.model.packing import FlatLayout, Pack, collate, shared_prefix_attention

#: the name under which transformers finds the attention of this module (one with "flash" it would look for elsewhere)
FLASH = "shared_prefix_joined"
#: by how much of its length what the kernels compute may differ from products in float32
TOLERANCE = 0.02


class JoinedFlash(torch.autograd.Function):
    """query: (tokens, heads, width); key, value: (tokens, key heads, width), in 16 bits; the result is like query."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: FlatLayout, scale: float | None
    ) -> torch.Tensor:
        out, sums, own_state = _flash(query, key, value, *_own(layout), scale)
        state = own_state
        if layout.behind:
            rows, before = _places(layout)
            of_prefix, more, state = _flash(query[rows], key[before], value[before], *_of_prefix(layout), scale)
            joined = torch.logaddexp(sums[:, rows], more)
            share = torch.exp(more - joined).T.unsqueeze(-1)  # of the prefix: (tokens, heads, 1)
            out[rows] = torch.lerp(out[rows].float(), of_prefix.float(), share).to(out.dtype)
            sums[:, rows] = joined
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.rest = layout, scale, own_state, state
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        layout, scale, own_state, state = ctx.rest
        gradient = gradients[0].contiguous()
        shares = _flash_backward(gradient, query, key, value, out, sums, *_own(layout), own_state, scale)
        if layout.behind:
            rows, before = _places(layout)
            more = _flash_backward(
                gradient[rows], query[rows], key[before], value[before], out[rows], sums[:, rows].contiguous(),
                *_of_prefix(layout), state, scale,
            )  # fmt: skip
            for share, part, place in zip(shares, more, (rows, before, before), strict=True):
                share[place] += part
        return *shares, None, None


def _places(layout: FlatLayout) -> tuple[slice, slice]:
    """The question tokens behind a prefix, and the prefixes."""
    return slice(layout.border, layout.border + layout.behind), slice(layout.border)


def _own(layout: FlatLayout) -> tuple[torch.Tensor, torch.Tensor, int, int, bool]:
    """The bounds of the first call's queries and keys, the longest of both, and that it is causal."""
    return layout.documents, layout.documents, layout.longest[0], layout.longest[0], True


def _of_prefix(layout: FlatLayout) -> tuple[torch.Tensor, torch.Tensor, int, int, bool]:
    return layout.questions, layout.prefixes, layout.longest[1], layout.longest[2], False


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_bounds: torch.Tensor, key_bounds: torch.Tensor,
    longest_query: int, longest_key: int, causal: bool, scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:  # fmt: skip
    """The result, its log-sum-exp (heads, tokens) in float32, and what the backward pass wants besides."""
    out, sums, *state, _ = torch.ops.aten._flash_attention_forward(
        query, key, value, query_bounds, key_bounds, longest_query, longest_key, 0.0, causal, False, scale=scale
    )
    return out, sums, tuple(state)


def _flash_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, out: torch.Tensor,
    sums: torch.Tensor, query_bounds: torch.Tensor, key_bounds: torch.Tensor, longest_query: int, longest_key: int,
    causal: bool, state: tuple[torch.Tensor, ...], scale: float | None,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """The gradients of query, key and value."""
    return torch.ops.aten._flash_attention_backward(
        gradient, query, key, value, out, sums, query_bounds, key_bounds, longest_query, longest_key, 0.0, causal,
        *state, scale=scale,
    )  # fmt: skip


def joined_flash_attention(
    module: torch.nn.Module, *inputs: torch.Tensor, layout: FlatLayout, scaling: float | None = None, **_: Any
) -> tuple[torch.Tensor, None]:
    """As `shared_prefix_attention`, with which it shares arguments and result."""
    rows = (x[0].transpose(0, 1) for x in inputs[:3])
    return JoinedFlash.apply(*rows, layout, scaling)[None], None


def flash_error(config: Any, packs: Sequence[Pack], device: str, dtype: torch.dtype) -> str | None:
    """What is wrong with the kernels on this device for these packs and a model's heads; None: nothing.

    Random queries, keys and values; the result and their gradients are compared with matrix products in float32.
    """
    heads, groups, width = attention_shape(config)
    layout = collate(packs)["layout"]
    chance = torch.Generator().manual_seed(0)
    tokens = layout.spans[-1].end
    inputs = [torch.randn(1, n, tokens, width, generator=chance) for n in (heads, groups, groups)]
    weights = torch.randn(1, tokens, heads, width, generator=chance).to(device)
    results = []
    for attend, type_ in ((joined_flash_attention, dtype), (shared_prefix_attention, torch.float32)):
        leaves = [x.to(device, dtype).to(type_).requires_grad_() for x in inputs]
        try:
            out, _ = attend(torch.nn.Module(), *leaves, None, layout=layout.to(device))
            results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
        except (RuntimeError, TypeError, ValueError) as error:  # no such kernel here, or with other arguments
            return f"{type(error).__name__}: {error}".splitlines()[0]
    for name, own, exact in zip(("values", "queries", "keys", "values' keys"), *results, strict=True):
        distance = ((own.float() - exact).norm() / exact.norm()).item()
        if not distance <= TOLERANCE:
            return f"{name if name == 'values' else 'gradients of ' + name} differ by {distance:.1e}"
    return None


AttentionInterface.register(FLASH, joined_flash_attention)
