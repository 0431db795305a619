"""Everything that a training needs, tried on few and short examples, so that it fails now and not in an hour.

Each check says, when it fails, what to do about it. Each builds on those before: after a failure the rest is not tried.
Each does no more than it needs to be able to fail: the losses of two passes over the same packs are compared, so ten
steps tell what with other packs in each step took twenty; a resumed training that lost its place, its rate or its
optimizer's state shows it in two steps; questions that see each other, or their own padding, do so in a pack of three.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from text2sql.errors import UserError
from text2sql.model import checkpoint
from text2sql.model.base import load_model, load_tokenizer
from text2sql.model.device import (
    describe_device,
    peak_memory_bytes,
    pick_device,
    pick_dtype,
    reset_peak_memory,
    total_memory_bytes,
)
from text2sql.model.lora import add_adapter
from text2sql.model.loss import answer_loss
from text2sql.model.packing import ATTENTION, Group, Pack, Plan, TrainingExample, collate, pack, passes, plan
from text2sql.model.training import PackedTrainer, Recipe, build_trainer, memory_budget
from text2sql.progress import track
from text2sql.sql import tree_of

#: fewer examples are too few for a training
EXAMPLES = 20
#: packs that are trained on, twice each, and the questions of each at most
PACKS, SIZE = 5, 4
#: the step of the checkpoint that the resumed run goes on from
SAVED = 2 * PACKS - 2
#: tokens of the answer that is tried
ANSWER = 64
#: the shortest packs, whose gradients are compared with those of separate sequences; on a CPU so many questions of each
COMPARED, QUESTIONS = 4, 3
#: By how many times as much as the plain computation the packed one may differ from float32, and by how much besides,
#: in lengths of the gradients and shares of the loss. Right gradients in bfloat16 differ by up to a tenth where scores
#: are large, as Qwen2.5's are, and by a hundredth elsewhere: no fixed limit tells rounding from a fault.
TIMES, BESIDES = 3.0, {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.02}
#: how far the adapters of a resumed training may be, on a GPU, from those of one that was not
BAND = 0.05
#: the share of the machine's memory that a training may take
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Check:
    """One check: its name, what it found, and, if it failed, what to do."""

    name: str
    passed: bool
    found: str
    remedy: str = ""


class Preflight:
    """The eight checks of a recipe on a model and examples; `scratch` takes checkpoints and is emptied.

    `plain`: whether training must do without a GPU's kernels, after `packs` is done.
    """

    trainer: PackedTrainer
    plain = False

    def __init__(
        self, recipe: Recipe, base: Path, examples: Sequence[TrainingExample], scratch: Path, writes_sql: bool = True
    ) -> None:
        self.full, self.base, self.all_examples, self.scratch = recipe, base, examples, scratch
        self.writes_sql = writes_sql
        self.copy = recipe.train.checkpoint_copy
        self.budget = memory_budget(recipe, base, pick_device())
        short = dataclasses.replace(
            recipe.train, warmup=0.1, log_every=1, evaluate_every=0, save_every=SAVED, processes=1, fsdp=False,
            checkpoint_copy=None, explosion=100.0,
        )  # fmt: skip
        self.recipe = dataclasses.replace(recipe, train=short)

    def run(self) -> Iterator[Check]:
        """The checks in order, until one fails."""
        checks: list[Callable[[], Check]] = [
            self.data, self.model, self.learns, self.saves, self.loads, self.packs, self.answers, self.memory
        ]  # fmt: skip
        for check in track(checks, "preflight"):
            result = check()
            yield result
            if not result.passed:
                return

    def data(self) -> Check:
        count = len(self.all_examples)
        tokens = sum(len(e.prompt) + len(e.answer) for e in self.all_examples)
        remedy = "look at metrics/split.json and metrics/prompts.json: which stage lost the examples?"
        return Check("data", count >= EXAMPLES, f"{count:,} training examples, {tokens:,} tokens", remedy)

    def model(self) -> Check:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.trainer = self._build()
        trainable, total = self.trainer.model.get_nb_trainable_parameters()
        bits = self.full.quantization.bits
        quantized = getattr(self.trainer.model, "is_loaded_in_4bit", False) == (bits == 4)
        float32 = all(p.dtype == torch.float32 for p in self.trainer.model.parameters() if p.requires_grad)
        form = f"in {bits} bits" if bits else "not quantized"
        found = f"{total:,} parameters, {form}, {trainable:,} trainable in float32, {describe_device()}"
        return Check("model", quantized and float32, found, "check conf/quantization and the bitsandbytes installation")

    def learns(self) -> Check:
        self.trainer.train()
        losses = [entry["loss"] for entry in self.trainer.state.log_history if "loss" in entry]
        once = len(losses) // 2
        first, last = sum(losses[:once]) / once, sum(losses[once:]) / once
        passed = math.isfinite(last) and last < first
        remedy = "lower train.learning_rate; without success, try quantization=none to see whether that is the cause"
        return Check("learns", passed, f"{len(losses)} steps, loss {first:.3f}, then {last:.3f}", remedy)

    def saves(self) -> Check:
        saved = self.scratch / f"checkpoint-{SAVED}"
        size = sum(f.stat().st_size for f in saved.rglob("*") if f.is_file())
        free = shutil.disk_usage(self.scratch).free
        found = f"{size / 1e6:.0f} MB a checkpoint, {free / 1e9:.1f} GB free"
        if self.copy:
            from text2sql.model.checkpoint_copies import put_copy, remove_copy

            place = f"{self.copy.rstrip('/')}/preflight"
            try:
                remove_copy(place)  # what a preflight that was killed left there
                put_copy(saved, place)
                remove_copy(place)
            except (UserError, OSError) as error:
                remedy = getattr(error, "remedy", "check train.checkpoint_copy and the rights on it")
                return Check("saves", False, f"no copy to {self.copy}: {error}", remedy)
            found += f"; copied to {self.copy}"
        return Check("saves", checkpoint.is_whole(saved) and free > 4 * size, found, "make room on this disk")

    def loads(self) -> Check:
        """The run goes on from its own checkpoint and must end with the same weights, on a GPU within `BAND`."""
        before = self.trainer.adapter_weights()
        self._resume()
        after = self.trainer.adapter_weights()
        if all(torch.equal(before[name], after[name]) for name in before):
            return Check("loads", True, f"resumed at step {SAVED}: the same weights at the end")
        learned = [torch.cat([w.flatten() for name, w in x.items() if "lora_B" in name]) for x in (after, before)]
        distance = _difference(*learned)
        found = f"resumed at step {SAVED}: other weights at the end, by {distance:.1e} of their length"
        # A GPU adds up gradients in any order.
        passed = torch.cuda.is_available() and distance <= BAND
        return Check("loads", passed, found, "training here is not deterministic: an interrupted run will not be exact")

    def _resume(self) -> None:
        del self.trainer  # which refers to itself: a GPU may not hold two models
        gc.collect()
        self.trainer = self._build()
        self.trainer.train(resume_from_checkpoint=str(self.scratch / f"checkpoint-{SAVED}"))

    def packs(self) -> Check:
        """Loss and gradient of every adapter, packed and the plain way, on the device that will train.

        A GPU's kernels that differ are left out of the training: `plain`.
        """
        check = self._packs()
        if not check.passed and self.trainer.attention != ATTENTION:
            self.plain = True
            self._resume()
            again = self._packs()
            found = f"a GPU's kernels are wrong here ({check.found}); training does without them: {again.found}"
            check = dataclasses.replace(again, found=found)
        return check

    def _packs(self) -> Check:
        planned = self._plan().groups
        groups = [group for group in planned if len(group) > 1] or planned
        if not torch.cuda.is_available():
            groups = [group[:QUESTIONS] for group in groups]
        groups = sorted(groups, key=lambda group: pack(group).tokens)[:COMPARED]
        cut, _ = passes(Plan(groups, COMPARED), tokens=self.budget.pass_tokens)
        batches = (self.trainer._prepare_inputs(collate(list(map(pack, part)))) for part in cut)
        model = self.trainer.model.eval()  # without dropout, which falls on other tokens each time
        with self.trainer.compute_loss_context_manager():
            loss, own = _gradients(model, (answer_loss(model, batch) for batch in batches))
            model.set_attn_implementation("eager")
            plain_loss, plain = _gradients(model, _plain_losses(model, groups))
            model.set_attn_implementation(self.trainer.attention)
        exact_loss, exact = plain_loss, plain
        dtype = pick_dtype(self.full.quantization, pick_device())
        if dtype != torch.float32:
            exact_loss, exact = self._float32_gradients(groups)
        error, rounding = _errors(own, exact), _errors(plain, exact)
        worst = max(error, key=lambda kind: error[kind] - TIMES * rounding[kind])
        besides = BESIDES[dtype]
        passed = (
            math.isfinite(error["all"])
            and error[worst] <= TIMES * rounding[worst] + besides
            and abs(loss - exact_loss) <= TIMES * abs(plain_loss - exact_loss) + besides * exact_loss
        )
        found = (
            f"loss {loss:.4f}, of separate sequences {plain_loss:.4f}, in float32 {exact_loss:.4f}; gradients differ "
            f"from float32's by {error['all']:.1e}, of separate sequences by {rounding['all']:.1e} "
            f"({worst}: {error[worst]:.1e}, {rounding[worst]:.1e}), {self.trainer.attention}"
        )
        remedy = f"attention on this device is wrong under torch {torch.__version__}: use another version of torch"
        return Check("packs", passed, found, remedy)

    def _float32_gradients(self, groups: Sequence[Group]) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients of a copy of the model that computes in float32 and as transformers does."""
        quantization = dataclasses.replace(self.full.quantization, compute_dtype="float32")
        model = add_adapter(load_model(self.base, quantization), self.full.lora).eval()
        model.set_attn_implementation("eager")
        weights = self.trainer.adapter_weights()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(weights[name])
        return _gradients(model, _plain_losses(model, groups))

    def answers(self) -> Check:
        tokenizer = load_tokenizer(self.base)
        model = self.trainer.model.eval()
        model.set_attn_implementation("sdpa")
        prompt = torch.tensor([self._sample()[0].prompt], device=model.device)
        with torch.no_grad(), self.trainer.compute_loss_context_manager():
            output = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ANSWER, do_sample=False
            )
        text = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()
        if not self.writes_sql:
            return Check("answers", True, "the model generates (its weights are random: no SQL is expected)")
        parsed = bool(text) and tree_of(text) is not None
        remedy = "look at data/prompts/train.jsonl: do prompt and answer look right? Try a higher train.learning_rate"
        return Check("answers", parsed, f"generated: {text[:80]}", remedy)

    def memory(self) -> Check:
        """The largest pack of the whole training, forward and backward."""
        options = self.full.train
        cut, _ = passes(self._plan(), options.processes, self.budget.pass_tokens)
        largest = max(([pack(group) for group in groups] for groups in cut), key=_tokens)
        self.trainer.model.set_attn_implementation(self.trainer.attention)
        self.trainer.model.train()
        reset_peak_memory()  # the model was built more than once, and copied in float32
        self.trainer.training_step(self.trainer.model, collate(largest), torch.tensor(1))
        peak, limit = peak_memory_bytes(), MEMORY_SHARE * total_memory_bytes()
        if not torch.cuda.is_available():
            limit /= options.processes  # which share the machine's memory
        found = f"{peak / 1e9:.1f} GB at most (a pass of {_tokens(largest):,} tokens) of {limit / 1e9:.1f} GB allowed"
        fits = int(_tokens(largest) * limit / peak * 0.8)
        remedy = f"lower train.pack_tokens to {fits}, or train.gradient_checkpointing=true"
        return Check("memory", peak <= limit, found, remedy)

    def _plan(self) -> Plan:
        """One epoch of the training."""
        options = self.full.train
        return plan(
            self.all_examples, options.pack_size, self.budget.tokens, options.batch_size, 1.0, self.full.seed,
            options.processes,
        )  # fmt: skip

    def _build(self) -> PackedTrainer:
        """Two passes over the shortest examples, one pack a step."""
        groups = plan(self._sample(), SIZE, self.budget.tokens, SIZE, 1.0, self.recipe.seed).groups[:PACKS]
        return build_trainer(self.recipe, self.base, Plan(groups * 2, 1), [], self.scratch, plain=self.plain)

    def _sample(self) -> list[TrainingExample]:
        return sorted(self.all_examples, key=lambda e: (len(e.prompt) + len(e.answer), e.db_id))[:EXAMPLES]


def report(checks: Sequence[Check]) -> None:
    """Raise for the check that failed, if one did.

    Raises:
        UserError: what was found and what to do.
    """
    for check in checks:
        if not check.passed:
            raise UserError(f"preflight check `{check.name}` failed: {check.found}", check.remedy)


def _gradients(model: torch.nn.Module, losses: Iterable[torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The sum of `losses` and its gradient by each trained weight; the model's own are cleared."""
    model.zero_grad()
    total = 0.0
    for loss in losses:
        loss.backward()
        total += loss.item()
    named = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, named


def _plain_losses(model: torch.nn.Module, groups: Iterable[Group]) -> Iterator[torch.Tensor]:
    """The negative log-likelihood of each answer, as one sequence with transformers' own plain attention."""
    for example in (example for group in groups for example in group):
        ids = torch.tensor([[*example.prompt, *example.answer]], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(example.prompt) - 1 : -1].float()
        yield torch.nn.functional.cross_entropy(logits, ids[0, len(example.prompt) :], reduction="sum")


def _errors(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far gradients are from what is expected: of `all` weights, and of each kind of weight over all layers."""
    kinds: dict[str, list[str]] = {"all": list(expected)}
    for name in expected:
        kinds.setdefault(re.sub(r"^.*\.\d+\.|\.default\.weight$", "", name), []).append(name)
    return {
        kind: _difference(*(torch.cat([g[name].flatten() for name in names]) for g in (gradients, expected)))
        for kind, names in kinds.items()
    }


def _tokens(packs: Sequence[Pack]) -> int:
    return sum(pack.tokens for pack in packs)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far `one` is from `other`, in lengths of `other`; infinite where it is not a number."""
    distance = ((one - other).norm() / other.norm().clamp(min=1e-12)).item()
    return distance if math.isfinite(distance) else math.inf
