"""Generation that computes a database's schema once.

Plain batched generation runs the model over a database's schema once for each question, pads every prompt to the
longest, and carries finished rows along until the last one ends. Here the schema's keys and values are computed once
(`shared_prefix`), a batch is a list of tokens without padding, and a finished row makes room for the next question.

In float32 the tokens are those of one-at-a-time `generate`. Sums taken in another order differ in the sixth digit,
which decides a token only where two are as good as tied; such a row is generated again, alone, the plain way (`TIE`).
So a text depends neither on what is generated beside it nor on the batch size. In bfloat16 that does not hold.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.model.packed import pack, packed_weights
from text2sql.model.shared_prefix import Cache, Prefix, Row, Step, shared_attention, shared_prefixes

if TYPE_CHECKING:
    from text2sql.model.constraint import Constraint

#: Rows whose best two logits come closer than this at any step are generated again alone (float32 only: the logits
#: of the two ways differ by about 5e-5 with 135M parameters, see benchmarks/prediction.py).
TIE = 2e-4
#: Tokens of a step of which it is asked at most whether names can be right after them.
TRIED = 64
#: Tokens of new prompts computed in one forward pass at most (one prompt at least): bounds the activations.
PREFILL_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How to decode. A row is one prompt being continued."""

    #: rows generated together
    batch_size: int = 16
    #: tokens after the prompt at most; a row cut by it is not `finished`
    max_new_tokens: int = 256
    #: tokens whose keys and values are held at most; fewer rows go together where prompts are long
    cache_tokens: int = 32768
    #: of sampled rows, see `stream`
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"batch_size must be positive, not {self.batch_size}")
        require(self.max_new_tokens > 0, f"max_new_tokens must be positive, not {self.max_new_tokens}")
        require(self.cache_tokens > 0, f"cache_tokens must be positive, not {self.cache_tokens}")
        require(self.temperature > 0, f"temperature must be positive, not {self.temperature}")


@dataclasses.dataclass(frozen=True)
class Generation:
    """What followed a prompt. `token_ids` are without the end-of-sequence token."""

    token_ids: tuple[int, ...]
    text: str
    #: False if `max_new_tokens` cut it off
    finished: bool
    #: log probability of the tokens, the end included
    score: float = 0.0


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    seeds: Sequence[str | None] | None = None,
    constraints: Sequence[Constraint | None] | None = None,
) -> list[Generation]:
    """Continue every prompt (token ids) up to its end-of-sequence token; results in the order of the prompts."""
    made = dict(stream(model, tokenizer, prompts, options, seeds, constraints))
    return [made[i] for i in range(len(prompts))]


def stream(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    seeds: Sequence[str | None] | None = None,
    constraints: Sequence[Constraint | None] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Yield (index of the prompt, its continuation) as rows end.

    Args:
        seeds: for each prompt, None for the most likely token at each step, or a text that seeds its sampling at
            `options.temperature`. A row's draws depend on its seed alone, not on the rows beside it.
        constraints: for each prompt, None or what may follow it; a row uses its constraint up.

    Raises:
        UserError: a prompt is empty, or longer with its answer than the model's positions.
    """
    nothing = [None] * len(prompts)
    yield from _Decoder(model, tokenizer, prompts, options, seeds or nothing, constraints or nothing).run()


class _Decoder:
    """The loop: admit rows while there is room, one forward pass, choose tokens, let finished rows go."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        seeds: Sequence[str | None],
        constraints: Sequence[Constraint | None],
    ) -> None:
        check_lengths(model, prompts, options)
        pack(model)
        self.model, self.tokenizer, self.prompts, self.options = model, tokenizer, prompts, options
        self.waiting: list[Row] = []
        for length, members in shared_prefixes(prompts):
            prefix = Prefix(length)
            for i in members:
                draw = random.Random(seeds[i]) if seeds[i] is not None else None
                self.waiting.append(Row(i, prompts[i][length:], prefix, draw, constraints[i]))
        self.waiting.reverse()
        own = max((len(row.suffix) for row in self.waiting), default=0) + options.max_new_tokens
        longest = max((row.prefix.length for row in self.waiting), default=0)
        self.limit = min(options.batch_size, len(prompts), max(1, (options.cache_tokens - longest) // max(own, 1)))
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.cache = Cache(model.config, self.limit, own, weight)
        self.room = options.cache_tokens - self.limit * own
        self.exact = weight.dtype == torch.float32

    def run(self) -> Iterator[tuple[int, Generation]]:
        while self.waiting or self.cache.rows:
            new = self._admit()
            for row in new:
                if row.prefix.length and not row.prefix.layers:
                    self._forward(Step(self.cache, prefix=row.prefix), self.prompts[row.index][: row.prefix.length])
            step = Step(self.cache, new)
            tokens = [row.tokens[-1] for row in step.decoding] + [token for row in new for token in row.suffix]
            logits = self._forward(step, tokens)
            for row in step.decoding:
                row.cached += 1
            for row in new:
                row.cached = len(row.suffix)
            self.cache.rows.extend(new)
            self._choose(logits)
            yield from self._release()

    def _admit(self) -> list[Row]:
        """The next rows that fit beside the present ones."""
        new: list[Row] = []
        prefixes = {id(row.prefix): row.prefix.length for row in self.cache.rows}
        tokens = 0
        while self.waiting and len(self.cache.rows) + len(new) < self.limit:
            row = self.waiting[-1]
            total = sum({**prefixes, id(row.prefix): row.prefix.length}.values())
            if (self.cache.rows or new) and (total > self.room or (new and tokens + len(row.suffix) > PREFILL_TOKENS)):
                break
            prefixes[id(row.prefix)] = row.prefix.length
            tokens += len(row.suffix)
            new.append(self.waiting.pop())
        return new

    def _forward(self, step: Step, tokens: Sequence[int]) -> torch.Tensor:
        """Logits (rows, vocabulary) of each row's last token."""
        device = self.cache.store.device
        with torch.inference_mode(), shared_attention(self.model), packed_weights():
            made = self.model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([step.positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(step.ends, dtype=torch.long, device=device),
                shared_prefix_step=step,
            )
        return made.logits[0]

    def _choose(self, logits: torch.Tensor) -> None:
        """Append the next token to every row of the cache."""
        logits = logits.float()
        norm = torch.logsumexp(logits, dim=-1)
        if any(row.constraint is not None for row in self.cache.rows):
            held = (row.constraint for row in self.cache.rows)
            logits = torch.stack([only(x, constraint) for x, constraint in zip(logits, held, strict=True)])
        best = logits.topk(2, dim=-1)
        choices, margins = best.indices[:, 0].tolist(), (best.values[:, 0] - best.values[:, 1]).tolist()
        for slot, row in enumerate(self.cache.rows):
            if row.draw is not None:
                choices[slot] = self._draw(logits[slot], row)
            else:
                row.margin = min(row.margin, margins[slot])
        chosen = logits.gather(1, torch.tensor(choices, device=logits.device)[:, None])[:, 0]
        for row, token, gain in zip(self.cache.rows, choices, (chosen - norm).tolist(), strict=True):
            row.tokens.append(token)
            row.score += gain
            if row.constraint is not None:
                row.constraint.accept(token)

    def _draw(self, logits: torch.Tensor, row: Row) -> int:
        """A sampled token; one after which no name can be right is drawn again, the same one no more."""
        assert row.draw is not None
        left = logits.clone()
        for _ in range(TRIED):
            cumulative = functional.softmax(left / self.options.temperature, dim=-1).double().cumsum(-1)
            drawn = torch.searchsorted(cumulative, row.draw.random() * cumulative[-1])
            token = min(int(drawn), len(cumulative) - 1)
            if row.constraint is None or row.constraint.refers(token):
                break
            left[token] = float("-inf")
        return token

    def _release(self) -> Iterator[tuple[int, Generation]]:
        """Take out and yield the rows that ended."""
        end = self.tokenizer.eos_token_id
        for row in list(self.cache.rows):
            finished = row.tokens[-1] == end
            if finished or len(row.tokens) == self.options.max_new_tokens:
                self.cache.remove(row)
                yield row.index, self._result(row, finished)

    def _result(self, row: Row, finished: bool) -> Generation:
        if self.exact and row.margin < TIE:
            constraint = None if row.constraint is None else row.constraint.again()
            again = plain(self.model, self.tokenizer, [self.prompts[row.index]], self.options, constraint)[0]
            return dataclasses.replace(again, score=row.score)
        return generation_of(self.tokenizer, row.tokens, finished, row.score)


def generation_of(tokenizer: Any, tokens: Sequence[int], finished: bool, score: float = 0.0) -> Generation:
    kept = tuple(tokens[:-1] if finished else tokens)
    text = tokenizer.decode(list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generation(kept, text, finished, score)


def check_lengths(model: Any, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> None:
    """Refuse what the model cannot continue.

    Raises:
        UserError: a prompt is empty, or longer with its answer than the model's positions.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i} is empty", "every prompt needs a token at least")
        if positions is not None and len(prompt) + options.max_new_tokens > positions:
            raise UserError(
                f"prompt {i} has {len(prompt)} tokens; with {options.max_new_tokens} of answer it exceeds "
                f"the model's {positions} positions",
                "lower predict.max_new_tokens, or choose a shorter prompt style",
            )


def only(logits: torch.Tensor, constraint: Constraint | None) -> torch.Tensor:
    """The logits of one row, -inf where the constraint forbids the token.

    Whether names can be right is asked of one token after the other, the most likely one first, until one will do. If
    none does, the row has come to a dead end, and only the grammar holds it from then on.
    """
    if constraint is None:
        return logits
    left = logits.float().masked_fill(~constraint.allowed(logits.shape[-1]).to(logits.device), float("-inf"))
    for token in left.topk(min(TRIED, len(left))).indices.tolist():
        if not left[token].isfinite():
            break
        if constraint.refers(token):
            best = left[token].clone()
            # Others that are as likely have not been asked about: they come next, by the least that can be told.
            left[left == best] = torch.nextafter(best, best - 1)
            left[token] = best
            return left
        left[token] = float("-inf")
    constraint.release()
    return only(logits, constraint)


def plain(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    constraint: Constraint | None = None,
) -> list[Generation]:
    """The same by transformers' own greedy `generate`: batches of padded prompts, in the order given.

    Args:
        constraint: what may follow the prompt, where there is only one.
    """
    from transformers import GenerationConfig

    check_lengths(model, prompts, options)
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    config = GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, use_cache=True,
        max_new_tokens=options.max_new_tokens, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip
    device = next(model.parameters()).device
    made: list[Generation] = []
    for first in range(0, len(prompts), options.batch_size):
        batch = prompts[first : first + options.batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=device)
        with torch.inference_mode():
            steer = [] if constraint is None else [_steered(constraint, width)]
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=steer)
        for row in out[:, width:].tolist():
            tokens = row[: row.index(end) + 1] if end in row else row
            made.append(generation_of(tokenizer, tokens, end in row))
    return made


def _steered(constraint: Constraint, width: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A logits processor for transformers' `generate` of one prompt of `width` tokens."""

    def process(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > width:
            constraint.accept(int(ids[0, -1]))
        return only(logits[0], constraint)[None]

    return process
