"""Generation that computes a database's schema once.

Plain batched generation runs the model over a database's schema once for each question, pads every prompt to the
longest, and carries finished rows along until the last one ends. Here the schema's keys and values are computed once
(`shared_prefix`), a batch is a list of tokens without padding, and a finished row makes room for the next question.

A constraint looks one token ahead: it may allow a beginning after which nothing likely can follow. `SELECT theme, date`
needs one table with both columns; where there is none, the model is left with what it would never have written. So a
row whose next token is unlikely goes back to the likeliest of all beginnings of the answer that it has seen. That is
best-first search, begun only where the greedy answer goes astray.

In float32 the tokens are those of one-at-a-time `generate`. Sums taken in another order differ in the sixth digit,
which decides a token only where two are as good as tied; such a row is generated again, alone (`TIE`): without a
constraint by transformers' own `generate`, with one by a batch of this row only. So a text depends neither on what is
generated beside it nor on the batch size. In bfloat16 that does not hold.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.model.reordered import reorder_weights, reordered_weights
from text2sql.model.sampling import NEVER, UNLIKELY, Choice, choose_tokens
from text2sql.model.shared_prefix import Cache, KeptPrefixes, Row, Segment, Step, group_by_prefix, shared_attention

if TYPE_CHECKING:
    from text2sql.model.constraint import Constraint

#: Rows whose best two logits come closer than this at any step are generated again alone (float32 only: the logits
#: of the two ways differ by about 5e-5 with 135M parameters, see benchmarks/prediction.py).
TIE = 2e-4
#: Tokens of new prompts computed in one forward pass at most (one prompt at least): bounds the activations.
PREFILL_TOKENS = 4096
#: how often a row goes back to an earlier beginning at most
RETURNS = 8


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How to decode. A row is one prompt being continued."""

    #: rows generated together
    batch_size: int = 16
    #: tokens after the prompt at most; a row cut by it is not `finished`
    max_new_tokens: int = 256
    #: tokens whose keys and values are kept at most; fewer rows go together where prompts are long
    cache_tokens: int = 32768
    #: of sampled rows, see `Decoder`
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value > 0, f"{name} must be positive, not {value}")


@dataclasses.dataclass(frozen=True)
class Generation:
    """What followed a prompt. `token_ids` are without the end-of-sequence token."""

    token_ids: tuple[int, ...]
    text: str
    #: False if `max_new_tokens` cut it off
    finished: bool
    #: log probability of the tokens, the end included
    score: float = 0.0
    #: False if no name could be right at some step: from there on only the grammar held the row
    checked: bool = True


def generate(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], *more: Any) -> list[Generation]:
    """Continue every prompt (token ids) up to its end-of-sequence token; results in the order of the prompts.

    `more`: as `Decoder` takes it.
    """
    generations = dict(Decoder(model, tokenizer, prompts, *more))
    return [generations[i] for i in range(len(prompts))]


class Decoder:
    """Yields (index of the prompt, its continuation) as rows end.

    The loop: admit rows while there is room, one forward pass, choose tokens, let finished rows go.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        seeds: Sequence[str | None] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
        kept: KeptPrefixes | None = None,
    ) -> None:
        """
        Args:
            seeds: for each prompt, None for the most likely token at each step, or a text that seeds its sampling at
                `options.temperature`. A row's draws depend on its seed alone, not on the rows beside it.
            constraints: for each prompt, None or what may follow it; a row uses its constraint up.
            kept: beginnings of the prompts of earlier calls, which are not computed again; those of these join them.

        Raises:
            UserError: a prompt is empty, or longer with its answer than the model's positions.
        """
        check_lengths(model, prompts, options)
        reorder_weights(model)
        self.model, self.tokenizer, self.prompts, self.options, self.kept = model, tokenizer, prompts, options, kept
        self.waiting: list[Row] = []
        for length, members in group_by_prefix(prompts):
            first = prompts[members[0]]
            prefix = Segment(first[:length]) if kept is None else kept.of(first[: length or len(first) - 1])
            suffixes: dict[tuple[int, ...], Segment] = {}
            for i in members:
                suffix = tuple(prompts[i][len(prefix.tokens) :])
                prompt = suffixes.setdefault(suffix, Segment(suffix, prefix))
                prompt.waiting += 1
                draw = random.Random(seeds[i]) if seeds and seeds[i] is not None else None
                self.waiting.append(Row(i, prompt, draw, constraints[i] if constraints else None))
        self.waiting.reverse()
        own = max((len(row.prompt.tokens) for row in self.waiting), default=0) + options.max_new_tokens
        longest = max((row.prompt.start for row in self.waiting), default=0)
        self.limit = min(options.batch_size, len(prompts), max(1, (options.cache_tokens - longest) // max(own, 1)))
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.cache = Cache(model.config, self.limit, own, weight)
        self.room = options.cache_tokens - self.limit * own
        self.exact = weight.dtype == torch.float32

    def __iter__(self) -> Iterator[tuple[int, Generation]]:
        while self.waiting or self.cache.rows:
            self._step(self._admit())
            yield from self._release()

    def _step(self, new: Sequence[Row]) -> None:
        """One forward pass: the next token of each row, the first one of new rows."""
        for prefix in dict.fromkeys(row.prompt.before for row in new):
            if prefix.tokens and not prefix.layers:
                self._forward(Step(self.cache, [], [prefix]))
                if self.kept is not None:
                    self.kept.keep(prefix)
        prompts = list(dict.fromkeys(row.prompt for row in new if not row.prompt.layers))
        step, parts = Step(self.cache, list(self.cache.rows), prompts), []
        if step.tokens:
            logits = self._forward(step)
            parts.append(logits[: len(step.decoding)])
            for prompt, after in zip(prompts, logits[len(step.decoding) :], strict=True):
                prompt.logits = after
        for row in step.decoding:
            row.cached += 1
        for row in new:
            prompt = row.prompt
            self.cache.add(row)
            parts.append(prompt.logits[None])
            prompt.waiting -= 1
            if not prompt.waiting:
                prompt.layers, prompt.logits = [], None
        self._choose(torch.cat(parts))

    def _admit(self) -> list[Row]:
        """The next rows that fit beside the present ones."""
        new: list[Row] = []
        kept = {row.prompt.before for row in self.cache.rows}
        computed: set[Segment] = set()
        while self.waiting and len(self.cache.rows) + len(new) < self.limit:
            prompt = self.waiting[-1].prompt
            kept.add(prompt.before)
            computed |= set() if prompt.layers else {prompt}
            present = bool(self.cache.rows or new)
            if present and (_tokens(kept) > self.room or (new and _tokens(computed) > PREFILL_TOKENS)):
                break
            new.append(self.waiting.pop())
        return new

    def _forward(self, step: Step) -> torch.Tensor:
        """Logits (rows and segments, vocabulary) after the last token of each."""
        device = self.cache.store.device
        with torch.inference_mode(), shared_attention(self.model), reordered_weights():
            output = self.model(
                input_ids=torch.tensor([step.tokens], device=device),
                position_ids=torch.tensor([step.positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(step.ends, dtype=torch.long, device=device),
                shared_prefix_step=step,
            )
        return output.logits[0]

    def _choose(self, logits: torch.Tensor) -> None:
        """Append the next token to every row of the cache."""
        rows = self.cache.rows
        constraints, draws = [row.constraint for row in rows], [row.draw for row in rows]
        for row, choice in zip(rows, choose_tokens(logits, constraints, draws, self.options.temperature), strict=True):
            row.margin = min(row.margin, choice.margin)
            if row.ahead:
                row.constraint.back_to(len(row.tokens))  # where this is a dead end, its token was found before
                row.append(row.ahead.pop(0))
            elif row.draw is not None or row.constraint is None or not self._goes_back(row, choice):
                row.score += choice.score
                row.append(choice.token)

    def _goes_back(self, row: Row, choice: Choice) -> bool:
        """Whether the row goes on with an earlier beginning that is likelier than the one with an unlikely choice."""
        checked = not row.constraint.released
        if checked:  # after a dead end the others are tokens that no name can follow, too
            row.beginnings += [(row.score + score, (*row.tokens, token)) for token, score in choice.others]
        row.margin = min(row.margin, abs(choice.score - UNLIKELY))
        if choice.score >= UNLIKELY and not choice.dead_end:
            return False
        row.margin = 0.0  # sums over tokens differ by more than single logits
        likeliest = max(row.beginnings, default=(NEVER, ()))
        here = NEVER if choice.dead_end else row.score + choice.score
        if likeliest[0] <= here or row.returns == RETURNS:
            return False
        row.beginnings.remove(likeliest)
        if checked:
            row.beginnings.append((here, (*row.tokens, choice.token)))
        row.score, tokens = likeliest
        common = next(i for i, token in enumerate(tokens) if row.tokens[i : i + 1] != [token])
        row.constraint.back_to(common)
        row.tokens, row.ahead, row.cached = row.tokens[:common], list(tokens[common:]), len(row.prompt.tokens) + common
        row.returns += 1
        row.append(row.ahead.pop(0))
        return True

    def _release(self) -> Iterator[tuple[int, Generation]]:
        """Take out and yield the rows that ended."""
        end = self.tokenizer.eos_token_id
        for row in list(self.cache.rows):
            finished = row.tokens[-1] == end
            if finished or len(row.tokens) == self.options.max_new_tokens:
                self.cache.remove(row)
                yield row.index, self._result(row, finished)

    def _result(self, row: Row, finished: bool) -> Generation:
        checked = row.constraint is None or not row.constraint.released
        if not self.exact or row.draw is not None or row.margin >= TIE:
            return generation_of(self.tokenizer, row.tokens, finished, row.score, checked)
        prompts = [self.prompts[row.index]]
        if row.constraint is None:
            return dataclasses.replace(plain(self.model, self.tokenizer, prompts, self.options)[0], score=row.score)
        alone = Decoder(self.model, self.tokenizer, prompts, self.options, None, [row.constraint.again()])
        alone.exact = False
        return dict(alone)[0]


def _tokens(segments: Iterable[Segment]) -> int:
    return sum(len(segment.tokens) for segment in segments)


def generation_of(
    tokenizer: Any, tokens: Sequence[int], finished: bool, score: float = 0.0, checked: bool = True
) -> Generation:
    kept = tuple(tokens[:-1] if finished else tokens)
    text = tokenizer.decode(list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generation(kept, text, finished, score, checked)


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
                "lower predict.max_new_tokens, or name fewer tables",
            )


def plain(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> list[Generation]:
    """The same by transformers' own greedy `generate`: batches of padded prompts, in the order given."""
    from transformers import GenerationConfig

    check_lengths(model, prompts, options)
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    config = GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, use_cache=True,
        max_new_tokens=options.max_new_tokens, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip
    device = next(model.parameters()).device
    generations: list[Generation] = []
    for first in range(0, len(prompts), options.batch_size):
        batch = prompts[first : first + options.batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=device)
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for row in out[:, width:].tolist():
            tokens = row[: row.index(end) + 1] if end in row else row
            generations.append(generation_of(tokenizer, tokens, end in row))
    return generations
