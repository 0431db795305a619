"""The keys and values of a shared prompt prefix, computed once and attended to by many rows.

The prompts of one database begin with the same tokens: its schema. One forward pass here takes a flat list of tokens
without padding: one token of each row being decoded, then the own tokens of new rows. An attention registered with
transformers knows that layout (`Step`) and lets each row attend to its shared prefix and to its own tokens. The rest
of the model is transformers' own, so there is no second implementation of a model to keep in step: Llama, Mistral,
Qwen and whatever else gets its attention from `ALL_ATTENTION_FUNCTIONS` works, sliding windows included.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

from text2sql.errors import UserError
from text2sql.model.memory import attention_shape

if TYPE_CHECKING:
    from text2sql.model.constraint import Constraint

#: The name that our attention is registered under.
ATTENTION = "text2sql_shared_prefix"


def group_by_prefix(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Group prompts so that computing each group's longest common prefix once saves the most tokens.

    Returns:
        (tokens shared, indices of the prompts) for each group, both in order of first appearance. A group of one
        shares nothing. The last token of a prompt is never shared: its logits are the row's own.

    >>> group_by_prefix([[1, 2, 3, 4], [7, 8], [1, 2, 3, 5]])
    [(3, [0, 2]), (0, [1])]
    """
    copies: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        copies.setdefault(tuple(prompt), []).append(i)
    order = sorted(copies)
    sizes = [len(copies[prompt]) for prompt in order]
    common = [min(_common(a, b), len(a) - 1, len(b) - 1) for a, b in itertools.pairwise(order)]
    # For the first 0, 1, 2, ... prompts in order: tokens saved at most, where their last group starts, what it shares.
    best, seen = [(0, 0, 0)], 0
    for end, size in enumerate(sizes):
        most, shared, count, seen = (-1, 0, 0), len(order[end]) - 1, 0, seen + size
        for start in range(end, -1, -1):
            count += sizes[start]
            saved = best[start][0] + shared * (count - 1)
            if saved >= most[0]:
                most = saved, start, shared if count > 1 else 0
            shared = min(shared, common[start - 1]) if start else 0
            if not shared or best[start][0] + shared * seen < most[0]:
                break  # no longer group saves as much
        best.append(most)
    groups, end = [], len(order)
    while end:
        _, start, shared = best[end]
        groups.append((shared, sorted(i for prompt in order[start:end] for i in copies[prompt])))
        end = start
    return sorted(groups, key=lambda group: group[1][0])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


@dataclasses.dataclass(eq=False)
class Segment:
    """Tokens that several rows share: a prefix, or what follows it in a prompt (`before` is that prefix)."""

    tokens: Sequence[int]
    before: Segment | None = None
    #: of a prompt: rows that have not been admitted yet; as long as there are some, what follows is kept
    waiting: int = 0
    #: keys and values of the tokens, one pair for each layer: (key heads, tokens, width)
    layers: list[tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=list)
    #: after the last token
    logits: torch.Tensor | None = None

    @property
    def start(self) -> int:
        """The place of the first token in the sequence."""
        return len(self.before.tokens) if self.before else 0


class KeptPrefixes:
    """Beginnings of earlier prompts with their keys and values, those used last first, for prompts that begin alike."""

    #: that are kept at most, of all beginnings; the last one is kept in any case
    TOKENS = 4096

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def of(self, beginning: Sequence[int]) -> Segment:
        """What an earlier prompt has in common with `beginning`, if it is half of it at least; otherwise all of it."""
        tokens = tuple(beginning)
        common = [_common(segment.tokens, tokens) for segment in self.segments]
        length = max(common, default=0)
        if 2 * length < len(tokens) or not length:
            return Segment(tokens)
        segment = self.segments.pop(common.index(length))
        if length < len(segment.tokens):
            layers = [(key[:, :length].clone(), value[:, :length].clone()) for key, value in segment.layers]
            segment = Segment(segment.tokens[:length], layers=layers)
        self.keep(segment)
        return segment

    def keep(self, segment: Segment) -> None:
        """Keep a segment that was computed."""
        self.segments.insert(0, segment)
        while len(self.segments) > 1 and sum(len(kept.tokens) for kept in self.segments) > self.TOKENS:
            self.segments.pop()


@dataclasses.dataclass(eq=False)
class Row:
    """One continuation of a prompt. Its own tokens are those after the shared prefix."""

    index: int
    prompt: Segment
    #: source of sampling; None for the most likely token
    draw: random.Random | None = None
    #: what may follow
    constraint: Constraint | None = None
    #: own tokens in the cache
    cached: int = 0
    #: tokens after the prompt
    tokens: list[int] = dataclasses.field(default_factory=list)
    score: float = 0.0
    #: least distance between the best two logits so far
    margin: float = float("inf")
    #: beginnings of the answer that were left, each with its log probability
    beginnings: list[tuple[float, tuple[int, ...]]] = dataclasses.field(default_factory=list)
    #: how often the row has gone back to one of them, and the tokens of the last one that are still to be computed
    returns: int = 0
    ahead: list[int] = dataclasses.field(default_factory=list)

    def append(self, token: int) -> None:
        """Take a token as the next one."""
        self.tokens.append(token)
        if self.constraint is not None:
            self.constraint.accept(token)


class Cache:
    """Keys and values of the rows' own tokens: (layers, 2, rows, key heads, tokens, width), rows without gaps."""

    def __init__(self, config: Any, rows: int, tokens: int, like: torch.Tensor) -> None:
        _, heads, width = attention_shape(config)
        # Zeros, as what is masked is still multiplied by zero, and that leaves a NaN a NaN.
        shape = (config.num_hidden_layers, 2, rows, heads, tokens, width)
        self.store = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Take in a row whose prompt has been computed."""
        row.cached = len(row.prompt.tokens)
        for part in (0, 1):
            tokens = torch.stack([layer[part] for layer in row.prompt.layers])
            self.store[:, part, len(self.rows), :, : row.cached] = tokens
        self.rows.append(row)

    def remove(self, row: Row) -> None:
        """Take a row out; the last one moves into its place."""
        slot, last = self.rows.index(row), self.rows.pop()
        if last is not row:
            self.store[:, :, slot, :, : last.cached] = self.store[:, :, len(self.rows), :, : last.cached]
            self.rows[slot] = last


class Heads(NamedTuple):
    """What a layer's attention is given: (heads, tokens, width) of queries, keys, values; the scale; the window."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    window: int | None

    def at(self, span: slice) -> Heads:
        """The same for some of the tokens."""
        return self._replace(query=self.query[:, span], key=self.key[:, span], value=self.value[:, span])


class Step:
    """One forward pass: the next token of each row of `decoding`, the cache's first rows, then the tokens of `new`
    segments, which keep their keys and values."""

    def __init__(self, cache: Cache, decoding: Sequence[Row], new: Sequence[Segment]) -> None:
        self.cache, self.decoding, self.new = cache, decoding, new
        starts = itertools.accumulate((len(segment.tokens) for segment in new), initial=len(decoding))
        self.spans = [slice(a, b) for a, b in itertools.pairwise(starts)]
        device = cache.store.device
        self.slots = torch.arange(len(decoding), device=device)
        self.own = torch.tensor([row.cached for row in decoding], dtype=torch.long, device=device)
        self.shared = torch.tensor([row.prompt.start for row in decoding], dtype=torch.long, device=device)
        # A row's scores are laid out as those of the longest prefix, then those of the longest row's own tokens.
        self.shared_columns = max((row.prompt.start for row in decoding), default=0)
        self.own_columns = max((row.cached for row in decoding), default=0) + 1
        self.groups = self._groups()
        self.masks: dict[int | None, torch.Tensor] = {}
        #: the tokens that are computed, and the place of each in its sequence
        self.tokens = [row.tokens[-1] for row in decoding] + [t for segment in new for t in segment.tokens]
        self.positions = [row.prompt.start + row.cached for row in decoding]
        for segment in new:
            self.positions += range(segment.start, segment.start + len(segment.tokens))
        #: which tokens are the last of their row or segment
        self.ends = [*range(len(decoding)), *(span.stop - 1 for span in self.spans)]

    def _groups(self) -> list[tuple[Segment, torch.Tensor | slice]]:
        """The prefixes of the rows being decoded, each with its rows' slots."""
        members: dict[Any, list[int]] = {}
        for slot, row in enumerate(self.decoding):
            members.setdefault(row.prompt.before, []).append(slot)
        return [
            (prefix, slice(None) if len(members) == 1 else torch.tensor(slots, device=self.own.device))
            for prefix, slots in members.items()
            if prefix.tokens
        ]

    def mask(self, window: int | None) -> torch.Tensor:
        """What each row being decoded attends to: (rows, 1, 1, columns) of 0 and -inf, the same for all layers."""
        if window not in self.masks:
            own, shared = self.own[:, None], self.shared[:, None]
            shared_column = torch.arange(self.shared_columns, device=own.device)[None, :]
            own_column = torch.arange(self.own_columns, device=own.device)[None, :]
            seen = torch.cat([shared_column < shared, own_column <= own], dim=1)
            if window is not None:
                key = torch.cat([shared_column.expand(len(own), -1), shared + own_column], dim=1)
                seen &= shared + own - key < window
            mask = torch.zeros(seen.shape, device=own.device).masked_fill_(~seen, float("-inf"))
            self.masks[window] = mask[:, None, None, :]
        return self.masks[window]

    def attend(self, layer: int, heads: Heads) -> torch.Tensor:
        """Attention of one layer, (tokens, heads, width). Keeps the keys and values."""
        rows = len(self.decoding)
        parts = [self._decode(layer, heads.at(slice(rows)))] if rows else []
        for segment, span in zip(self.new, self.spans, strict=True):
            own = heads.at(span)
            segment.layers.append((own.key.contiguous(), own.value.contiguous()))
            if segment.start:
                key, value = segment.before.layers[layer]
                own = own._replace(key=torch.cat([key, own.key], dim=1), value=torch.cat([value, own.value], dim=1))
            parts.append(_causal(own))
        return torch.cat(parts)

    def _decode(self, layer: int, heads: Heads) -> torch.Tensor:
        """A token of each row against its shared prefix, in one product for all rows of it, and its own tokens."""
        count, rows, width = heads.key.shape
        keys, values = self.cache.store[layer, :, :rows, :, : self.own_columns]
        keys[self.slots, :, self.own] = heads.key.transpose(0, 1)
        values[self.slots, :, self.own] = heads.value.transpose(0, 1)
        # (rows, key heads, queries of each key head, width)
        query = (heads.query * heads.scale).view(count, -1, rows, width).permute(2, 0, 1, 3)
        queries = query.shape[2]
        scores = query.new_zeros(rows, count, queries, self.shared_columns + self.own_columns)
        torch.matmul(query, keys.transpose(-1, -2), out=scores[..., self.shared_columns :])
        for prefix, members in self.groups:
            product = _by_head(query[members]) @ prefix.layers[layer][0].transpose(-1, -2)
            scores[members, :, :, : len(prefix.tokens)] = _by_row(product, queries)
        scores = scores.float() + self.mask(heads.window)
        weights = functional.softmax(scores, dim=-1).to(query.dtype)
        out = weights[..., self.shared_columns :] @ values
        for prefix, members in self.groups:
            product = _by_head(weights[members, :, :, : len(prefix.tokens)]) @ prefix.layers[layer][1]
            out[members] += _by_row(product, queries)
        return out.reshape(rows, -1, width)


def _causal(heads: Heads) -> torch.Tensor:
    """Attention of the last tokens of one sequence to all up to themselves: (tokens, heads, width)."""
    tokens, keys = heads.query.shape[1], heads.key.shape[1]
    mask = None
    if tokens < keys or (heads.window is not None and heads.window < keys):
        place = torch.arange(keys, device=heads.query.device)
        distance = place[keys - tokens :, None] - place[None, :]
        mask = (distance >= 0) & (distance < (heads.window or keys))
    # On a GPU the kernels for masks have given NaN in training (docs/TRAINING.md): plain products there.
    with sdpa_kernel(SDPBackend.MATH) if mask is not None and mask.is_cuda else nullcontext():
        attended = functional.scaled_dot_product_attention(
            heads.query[None], heads.key[None], heads.value[None],
            attn_mask=mask, is_causal=mask is None, scale=heads.scale, enable_gqa=True,
        )  # fmt: skip
    return attended[0].transpose(0, 1)


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """(rows, key heads, queries, n) -> (key heads, rows x queries, n)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1, x.shape[3])


def _by_row(x: torch.Tensor, queries: int) -> torch.Tensor:
    """The inverse of `_by_head`."""
    return x.view(x.shape[0], -1, queries, x.shape[2]).transpose(0, 1)


def _attention(
    module: Any, *inputs: torch.Tensor, shared_prefix_step: Step | None = None, **options: Any
) -> tuple[torch.Tensor, None]:
    """What a model calls in place of its attention: (1, heads, tokens, width) in, (1, tokens, heads, width) out."""
    if options.get("softcap") is not None or shared_prefix_step is None:
        raise UserError(
            f"{type(module).__name__} needs an attention that cannot share prefixes", "choose another base model"
        )
    query, key, value = (x[0] for x in inputs[:3])
    scale = query.shape[-1] ** -0.5 if options.get("scaling") is None else options["scaling"]
    heads = Heads(query, key, value, scale, options.get("sliding_window"))
    return shared_prefix_step.attend(module.layer_idx, heads)[None], None


@contextmanager
def shared_attention(model: Any) -> Iterator[None]:
    """`model` with the attention of this module; its forward then wants `shared_prefix_step`."""
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before


AttentionInterface.register(ATTENTION, _attention)
