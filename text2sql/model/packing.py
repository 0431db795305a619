"""Shared-prefix packing: the questions on one database are trained behind a single copy of its schema.

Stock training repeats the schema, some 85 % of a prompt, for every question. Here a *pack* is one schema prefix and
several questions on it. Each question attends to the prefix and to itself, and its positions go on where the prefix
ends, so that loss and gradients are those of the separate sequences, with a fraction of the tokens:

    tokens     [ schema S ][ schema S' ] ... [ q1 a1 ][ q2 a2 ][ q3 a3 ][ q4 a4 ] ...
    positions    0 ... S-1   0 ... S'-1        S ...    S ...    S ...    S' ...

Several packs lie in one flat sequence, their prefixes first, so linear layers see no padding. Attention is computed
pack by pack here: the prefix causally, then the questions as a batch over prefix keys plus their own, instead of under
one dense mask, whose cost grows with the square of the sequence. On a GPU, text2sql.model.flash takes all at once.

The idea is known from preference and reinforcement learning (arXiv 2410.20305); here it serves supervised training.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from text2sql.model.prompt import common_prefix

#: the name under which transformers finds the attention of this module
ATTENTION = "shared_prefix"
IGNORED = -100


@dataclass(frozen=True)
class TrainingExample:
    """One example as token ids; the answer ends in EOS. `text`: the prompt's, for another order of its tables."""

    db_id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str = ""


#: attention of a pack's prefix, if it has one, and of its questions: (1, heads, tokens, width) each
PackOutputs = tuple[torch.Tensor | None, torch.Tensor]
#: examples of one database that make one pack
Group = tuple[TrainingExample, ...]


@dataclass(frozen=True)
class Span:
    """One pack's place in a flat sequence: `prefix` tokens at `start`, its questions, of these lengths, at `border`."""

    start: int
    prefix: int
    border: int
    questions: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.border + sum(self.questions)


@dataclass(frozen=True)
class FlatLayout:
    """Where the packs of a flat sequence lie. Bounds are cumulative lengths, int32, as flash attention wants them.

    documents: bounds of all prefixes and questions; border: the first question token; behind: question tokens that
    have a prefix (packs without one come last); questions: bounds of each pack's questions together, from `border`;
    prefixes: bounds of their prefixes; longest: of documents, of questions together, of prefixes, in tokens.
    """

    spans: tuple[Span, ...]
    documents: torch.Tensor
    border: int
    behind: int
    questions: torch.Tensor
    prefixes: torch.Tensor
    longest: tuple[int, int, int]

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> FlatLayout:
        return replace(self, **{name: change(getattr(self, name)) for name in ("documents", "questions", "prefixes")})

    def to(self, device: str | torch.device, non_blocking: bool = False) -> FlatLayout:
        return self._each(lambda bounds: bounds.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FlatLayout:
        """In memory that a GPU can copy from without a wait of the host."""
        return self._each(torch.Tensor.pin_memory)


@dataclass(frozen=True)
class Pack:
    """A prefix (token ids) and the questions that share it: examples whose prompts lack the prefix."""

    prefix: tuple[int, ...]
    questions: tuple[TrainingExample, ...]

    @property
    def tokens(self) -> int:
        return len(self.prefix) + sum(len(q.prompt) + len(q.answer) for q in self.questions)


def pack(examples: Sequence[TrainingExample]) -> Pack:
    """Examples of one database behind the longest prefix that they share."""
    prefix = common_prefix([e.prompt for e in examples])
    return Pack(examples[0].prompt[:prefix], tuple(replace(e, prompt=e.prompt[prefix:]) for e in examples))


@dataclass(frozen=True)
class Plan:
    """The order of a whole training: groups of examples, each to be one pack, `per_step` to an optimizer step."""

    groups: list[Group]
    per_step: int

    @property
    def steps(self) -> int:
        return math.ceil(len(self.groups) / self.per_step)

    @property
    def examples(self) -> int:
        return sum(map(len, self.groups))

    @property
    def tokens(self) -> int:
        """Tokens that the model computes, with packing."""
        return sum(pack(group).tokens for group in self.groups)


def plan(
    examples: Sequence[TrainingExample],
    size: int,
    tokens: int,
    batch: int,
    epochs: float,
    seed: int,
    processes: int = 1,
) -> Plan:
    """Plan a training of `epochs` passes in steps of about `batch` examples.

    Every epoch uses each example once, in groups and an order of its own. A group has at most `size` examples and,
    unless it is a single one, at most `tokens` tokens. All steps have the same number of groups, a multiple of
    `processes`, of different databases as far as there are enough; groups are halved to that end. Where all have a
    single example already, the last step is short, and up to `processes` - 1 examples are not used in it.
    """
    databases: dict[str, list[TrainingExample]] = defaultdict(list)
    for example in examples:
        databases[example.db_id].append(example)
    order: list[Group] = []
    per_step = 0
    for epoch in range(math.ceil(epochs)):
        chance = random.Random(f"{seed} {epoch}")
        groups = [g for db_id in sorted(databases) for g in _groups(databases[db_id], size, tokens, chance)]
        per_step = per_step or max(1, round(batch * len(groups) / len(examples) / processes)) * processes
        _halve_largest(groups, -len(groups) % per_step)
        chance.shuffle(groups)
        order += _mixed(groups, per_step)
    wanted = round(len(order) * epochs / math.ceil(epochs) / per_step) * per_step if epochs % 1 else len(order)
    used = min(max(wanted, per_step), len(order))
    return Plan(order[: used // processes * processes], per_step)


def _groups(examples: list[TrainingExample], size: int, tokens: int, chance: random.Random) -> list[Group]:
    """`examples` of one database, shuffled, in as few groups of like size as `size` and `tokens` allow."""
    shuffled = chance.sample(examples, len(examples))
    count = math.ceil(len(shuffled) / size)
    while True:
        groups = [tuple(shuffled[i::count]) for i in range(count)]
        if count == len(shuffled) or all(len(g) == 1 or pack(g).tokens <= tokens for g in groups):
            return groups
        count += 1


def _halve_largest(groups: list[Group], times: int) -> None:
    """Make `times` more groups, so that the last step of an epoch is not short."""
    for _ in range(times):
        group = groups.pop(max(range(len(groups)), key=lambda i: len(groups[i])))
        if len(group) < 2:
            groups.append(group)
            return
        groups += [group[: len(group) // 2], group[len(group) // 2 :]]


def _mixed(groups: list[Group], per_step: int) -> list[Group]:
    """`groups` in steps of `per_step`, each time taking the first left whose database the step does not have yet."""
    left, order = list(groups), []
    while left:
        step: list[Group] = []
        while left and len(step) < per_step:
            present = {group[0].db_id for group in step}
            step.append(left.pop(next((i for i, group in enumerate(left) if group[0].db_id not in present), 0)))
        order += step
    return order


def passes(planned: Plan, processes: int = 1, tokens: int = 0) -> tuple[list[tuple[Group, ...]], int]:
    """The steps of a plan cut into forward passes, and how many of them a process has in a step.

    A pass has as many packs of a step as `tokens` allow, the same number in all whole steps; without `tokens`, one.
    """
    share = planned.per_step // processes
    for count in (n for n in range(1, share + 1) if share % n == 0):
        size = share // count * processes
        cut = [
            step[i * len(step) // pieces : (i + 1) * len(step) // pieces]
            for start in range(0, len(planned.groups), planned.per_step)
            for step in [tuple(planned.groups[start : start + planned.per_step])]
            for pieces in [math.ceil(len(step) / size) * processes]
            for i in range(pieces)
        ]
        if count == share or max((sum(pack(group).tokens for group in groups) for groups in cut), default=0) <= tokens:
            break
    return cut, count


def _bounds(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def flat_layout(packs: Sequence[Pack]) -> FlatLayout:
    """Where `packs`, of which those without a prefix come last, lie in their flat sequence."""
    lengths = [tuple(len(q.prompt) + len(q.answer) for q in pack.questions) for pack in packs]
    prefixes = [len(pack.prefix) for pack in packs]
    border = sum(prefixes)
    starts = itertools.accumulate(prefixes, initial=0)
    borders = itertools.accumulate(map(sum, lengths), initial=border)
    spans = tuple(Span(*place) for place in zip(starts, prefixes, borders, lengths, strict=False))
    shared = [(sum(own), prefix) for own, prefix in zip(lengths, prefixes, strict=True) if prefix]
    questions, shared_prefixes = [own for own, _ in shared], [prefix for _, prefix in shared]
    documents = [*shared_prefixes, *itertools.chain(*lengths)]
    longest = (max(documents), max(questions, default=0), max(shared_prefixes, default=0))
    bounds = (_bounds(questions), _bounds(shared_prefixes))
    return FlatLayout(spans, _bounds(documents), border, sum(questions), *bounds, longest)


def collate(packs: Sequence[Pack]) -> dict[str, Any]:
    """One flat sequence of `packs`.

    Returns:
        input_ids, position_ids, labels: (1, tokens) each; labels are `IGNORED` but on answers, unshifted as usual.
        predicting: (answer tokens), the positions whose next token is of an answer, so that no device is asked.
        layout: the `FlatLayout`.
    """
    packs = sorted(packs, key=lambda pack: not pack.prefix)
    ids = [token for pack in packs for token in pack.prefix]
    positions = [place for pack in packs for place in range(len(pack.prefix))]
    labels = [IGNORED] * len(ids)
    for pack in packs:
        for question in pack.questions:
            ids += [*question.prompt, *question.answer]
            positions += range(len(pack.prefix), len(pack.prefix) + len(question.prompt) + len(question.answer))
            labels += [IGNORED] * len(question.prompt) + list(question.answer)
    tensors = {"input_ids": ids, "position_ids": positions, "labels": labels}
    predicting = torch.tensor([place for place, label in enumerate(labels[1:]) if label != IGNORED], dtype=torch.long)
    batch = {name: torch.tensor([values]) for name, values in tensors.items()}
    return {**batch, "predicting": predicting, "layout": flat_layout(packs)}


def shared_prefix_attention(
    module: torch.nn.Module, *inputs: torch.Tensor, layout: FlatLayout, scaling: float | None = None, **_: Any
) -> tuple[torch.Tensor, None]:
    """Attention of a flat sequence; transformers calls it in every layer with the `layout` given to the model.

    Args:
        inputs: query (1, heads, tokens, width); key and value (1, key heads, tokens, width); a mask that is not used.

    Returns:
        (1, tokens, heads, width), and no weights.
    """
    query, key, value = inputs[:3]
    # The fused kernel in float32 on a CPU only, where it saves memory. On a GPU its kernels for masks gave NaN for some
    # packs; in bfloat16 on a CPU products are 2.4 times as fast, forward and backward.
    fused = query.device.type == "cpu" and query.dtype == torch.float32
    attend = _attend_fused if fused else _attend_products
    prefixes, questions = zip(*(attend(query, key, value, span, scaling) for span in layout.spans), strict=True)
    outputs = [*(part for part in prefixes if part is not None), *questions]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


class Slots(NamedTuple):
    """The questions of a pack as a padded batch of `count` rows of `longest` slots.

    token: (count * longest), which of the pack's question tokens a slot holds; padding repeats one.
    slot: (question tokens), the slot of each token, its inverse.
    """

    count: int
    longest: int
    token: torch.Tensor
    slot: torch.Tensor


@functools.lru_cache(maxsize=64)
def _slots(questions: tuple[int, ...], device: torch.device) -> Slots:
    """The slots of questions of these lengths.

    Made on the CPU, so that a GPU is never waited for, and kept, since all layers ask for the same.
    """
    inside = torch.arange(max(questions)) < torch.tensor(questions)[:, None]
    token = (torch.cumsum(inside.flatten(), 0) - 1).clamp(min=0)
    slot = inside.flatten().nonzero().squeeze(1)
    return Slots(*inside.shape, token.to(device), slot.to(device))


def _attend_fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, span: Span, scale: float | None
) -> PackOutputs:
    """A pack's prefix, then its questions as a batch over prefix keys plus their own: (1, heads, tokens, width)."""
    of_prefix = None
    before = slice(span.start, span.start + span.prefix)
    if span.prefix:
        q, k, v = (x[:, :, before] for x in (query, key, value))
        of_prefix = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    count, longest, token, slot = _slots(span.questions, query.device)

    def batch(x: torch.Tensor) -> torch.Tensor:
        rows = x[0, :, span.border : span.end].index_select(1, token)
        return rows.unflatten(1, (count, longest)).transpose(0, 1)  # (questions, heads, longest, width)

    def with_prefix(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, before].expand(count, -1, -1, -1), batch(x)], dim=2)

    # True: may be seen. All of the prefix, and of the question what is not ahead; padding, at the end, is ahead.
    seen = torch.ones(longest, span.prefix + longest, dtype=torch.bool, device=query.device).tril(span.prefix)
    mixed = F.scaled_dot_product_attention(
        batch(query), with_prefix(key), with_prefix(value), attn_mask=seen, scale=scale, enable_gqa=True
    )
    flat = mixed.transpose(0, 1).flatten(1, 2)  # (heads, questions * longest, width)
    return of_prefix, flat.index_select(1, slot).unsqueeze(0)


def _attend_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, span: Span, scale: float | None
) -> PackOutputs:
    """The same by matrix products: all question tokens meet the prefix in one, each question itself in a batch."""
    heads, width = query.shape[1], query.shape[-1]
    groups = key.shape[1]  # of query heads that share a key head
    end = span.start + span.prefix
    scaled = query[0] * (width**-0.5 if scale is None else scale)
    before = [x[0, :, span.start : end] for x in (key, value)]  # the prefix: (groups, prefix, width)

    def scores(rows: torch.Tensor) -> torch.Tensor:
        shared = rows.reshape(groups, heads // groups * rows.shape[1], width)
        return torch.bmm(shared, before[0].transpose(1, 2)).view(heads, rows.shape[1], span.prefix)

    def mix(weights: torch.Tensor) -> torch.Tensor:
        shared = weights.reshape(groups, heads // groups * weights.shape[1], span.prefix)
        return torch.bmm(shared, before[1]).view(heads, weights.shape[1], width)

    prefix = None
    if span.prefix:
        ahead = torch.ones(span.prefix, span.prefix, dtype=torch.bool, device=query.device).triu(1)
        logits = scores(scaled[:, span.start : end]).masked_fill(ahead, float("-inf"))
        prefix = mix(torch.softmax(logits, -1)).unsqueeze(0)

    count, longest, token, slot = _slots(span.questions, query.device)

    def batch(x: torch.Tensor) -> torch.Tensor:
        rows = x.index_select(1, token).view(groups, -1, count, longest, width)
        return rows.expand(groups, heads // groups, count, longest, width).reshape(-1, longest, width)

    rows = scaled[:, span.border : span.end]
    own_key, own_value = (batch(x[0, :, span.border : span.end]) for x in (key, value))
    own = torch.bmm(batch(rows), own_key.transpose(1, 2)).view(heads, count * longest, longest).index_select(1, slot)
    ahead = torch.ones(longest, longest, dtype=torch.bool, device=query.device).triu(1).repeat(count, 1)[slot]
    logits = torch.cat([scores(rows), own.masked_fill(ahead, float("-inf"))], -1)
    of_prefix, of_own = torch.softmax(logits, -1).split([span.prefix, longest], -1)
    by_slot = torch.bmm(of_own.index_select(1, token).view(-1, longest, longest), own_value)
    return prefix, (mix(of_prefix) + by_slot.view(heads, -1, width).index_select(1, slot)).unsqueeze(0)


# Without a mask function of that name, transformers makes no mask, and does not look for packed sequences.
AttentionInterface.register(ATTENTION, shared_prefix_attention)
