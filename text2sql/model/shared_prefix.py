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

from text2sql.errors import UserError

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
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    common = [_common(prompts[a], prompts[b]) for a, b in itertools.pairwise(order)]
    groups = [
        (min(common[first:last], default=0), sorted(order[first : last + 1]))
        for first, last in _best_runs(common, len(order))
    ]
    return sorted(groups, key=lambda group: group[1][0])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), max(limit, 0))


def _best_runs(common: list[int], count: int) -> list[tuple[int, int]]:
    """Split sorted prompts wherever two groups save more than one; `common[i]` is what i and i + 1 share."""
    # Not recursive: prompts without anything in common would nest as deep as they are many. A span is decided once
    # its two halves are.
    whole = (0, count - 1)
    saved: dict[tuple[int, int], int] = {}
    split: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int]] | None] = {}
    pending = [whole] if count else []
    while pending:
        first, last = span = pending[-1]
        if first == last:
            saved[span], split[span] = 0, None
        else:
            cut = min(range(first, last), key=lambda i: common[i])
            halves = (first, cut), (cut + 1, last)
            if missing := [half for half in halves if half not in saved]:
                pending.extend(missing)
                continue
            together, apart = common[cut] * (last - first), sum(saved[half] for half in halves)
            joined = bool(common[cut]) and together >= apart
            saved[span], split[span] = max(together, apart), None if joined else halves
        pending.pop()
    runs, pending = [], [whole] if count else []
    while pending:
        halves = split[span := pending.pop()]
        pending.extend(halves or ())
        runs.extend([] if halves else [span])
    return runs


@dataclasses.dataclass(eq=False)
class Prefix:
    """Keys and values of tokens that several rows share: one pair for each layer, (key heads, tokens, width)."""

    length: int
    layers: list[tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Prompt:
    """The tokens of a prompt after its shared prefix; several rows may continue it."""

    suffix: Sequence[int]
    prefix: Prefix
    #: rows that have not been admitted yet: as long as there are some, what follows is kept
    waiting: int = 0
    #: keys and values of the suffix, one pair for each layer, and the logits after its last token
    layers: list[tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=list)
    logits: torch.Tensor | None = None


@dataclasses.dataclass(eq=False)
class Row:
    """One continuation of a prompt. Its own tokens are those after the shared prefix."""

    index: int
    prompt: Prompt
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

    @property
    def prefix(self) -> Prefix:
        return self.prompt.prefix


class Cache:
    """Keys and values of the rows' own tokens: (layers, 2, rows, key heads, tokens, width), rows without gaps."""

    def __init__(self, config: Any, rows: int, tokens: int, like: torch.Tensor) -> None:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Zeros, as what is masked is still multiplied by zero, and that leaves a NaN a NaN.
        shape = (config.num_hidden_layers, 2, rows, heads, tokens, width)
        self.store = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Take in a row whose prompt has been computed."""
        row.cached = len(row.prompt.suffix)
        for part in (0, 1):
            tokens = torch.stack([layer[part] for layer in row.prompt.layers])
            self.store[:, part, len(self.rows), :, : row.cached] = tokens
        self.rows.append(row)

    def remove(self, row: Row) -> None:
        """Take a row out; the last one moves into its place."""
        slot, last = self.rows.index(row), len(self.rows) - 1
        if slot != last:
            filled = self.rows[last].cached
            self.store[:, :, slot, :, :filled] = self.store[:, :, last, :, :filled]
            self.rows[slot] = self.rows[last]
        self.rows.pop()


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
    """One forward pass: the next token of each row in the cache, then new prompts, whose keys and values they keep.

    Or, with `prefix` given, the tokens of that prefix, which keeps theirs.
    """

    def __init__(self, cache: Cache, new: Sequence[Prompt] = (), prefix: Prefix | None = None) -> None:
        self.cache, self.new, self.prefix = cache, list(new), prefix
        self.decoding = [] if prefix else list(cache.rows)
        starts = itertools.accumulate((len(prompt.suffix) for prompt in self.new), initial=len(self.decoding))
        self.spans = [slice(a, b) for a, b in itertools.pairwise(starts)]
        device = cache.store.device
        self.slots = torch.arange(len(self.decoding), device=device)
        self.own = torch.tensor([row.cached for row in self.decoding], dtype=torch.long, device=device)
        self.shared = torch.tensor([row.prefix.length for row in self.decoding], dtype=torch.long, device=device)
        # A row's scores are laid out as those of the longest prefix, then those of the longest row's own tokens.
        self.shared_columns = max((row.prefix.length for row in self.decoding), default=0)
        self.own_columns = max((row.cached for row in self.decoding), default=0) + 1
        self.groups = self._groups()
        self.masks: dict[int | None, torch.Tensor] = {}

    @property
    def positions(self) -> list[int]:
        """The place of each token in its sequence."""
        if self.prefix is not None:
            return list(range(self.prefix.length))
        new = [range(p.prefix.length, p.prefix.length + len(p.suffix)) for p in self.new]
        return [*(row.prefix.length + row.cached for row in self.decoding), *itertools.chain(*new)]

    @property
    def ends(self) -> list[int]:
        """Which tokens are the last of their row or prompt."""
        if self.prefix is not None:
            return [self.prefix.length - 1]
        return [*range(len(self.decoding)), *(span.stop - 1 for span in self.spans)]

    def _groups(self) -> list[tuple[Prefix, torch.Tensor | slice]]:
        """The prefixes of the rows being decoded, each with its rows' slots."""
        members: dict[int, list[int]] = {}
        for slot, row in enumerate(self.decoding):
            members.setdefault(id(row.prefix), []).append(slot)
        prefixes = {id(row.prefix): row.prefix for row in self.decoding if row.prefix.length}
        if len(members) == 1:
            return [(prefix, slice(None)) for prefix in prefixes.values()]
        return [(prefix, torch.tensor(members[key], device=self.own.device)) for key, prefix in prefixes.items()]

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
        if self.prefix is not None:
            self.prefix.layers.append((heads.key.contiguous(), heads.value.contiguous()))
            return _causal(heads)
        rows = len(self.decoding)
        parts = [self._decode(layer, heads.at(slice(rows)))] if rows else []
        for prompt, span in zip(self.new, self.spans, strict=True):
            own = heads.at(span)
            prompt.layers.append((own.key.contiguous(), own.value.contiguous()))
            if prompt.prefix.length:
                key, value = prompt.prefix.layers[layer]
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
            scores[members, :, :, : prefix.length] = _by_row(product, queries)
        scores = scores.float() + self.mask(heads.window)
        weights = functional.softmax(scores, dim=-1).to(query.dtype)
        out = weights[..., self.shared_columns :] @ values
        for prefix, members in self.groups:
            product = _by_head(weights[members, :, :, : prefix.length]) @ prefix.layers[layer][1]
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
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    shared_prefix_step: Step | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a model calls in place of its attention: (1, heads, tokens, width) in, (1, tokens, heads, width) out."""
    if softcap is not None or shared_prefix_step is None:
        raise UserError(
            f"{type(module).__name__} needs an attention that cannot share prefixes", "choose another base model"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads = Heads(query[0], key[0], value[0], scale, sliding_window)
    return shared_prefix_step.attend(module.layer_idx, heads)[None], None


@contextmanager
def shared_attention(model: Any) -> Iterator[None]:
    """`model` with the attention of this module; its forward then wants `shared_prefix_step`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before
