"""Which of several candidates to take: rules compared on the same candidates, executed and judged.

    python -m dev.candidates [--split val] [--candidates 12] [--temperature 1.0] [--free]

Run it where the pipeline has run. Rules are to be chosen on the validation questions (the default), not on those of the
test. Each rule sees the first two, four, eight ... candidates; the first candidate of a question is the greedy one.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from stages import predict
from stages.score import read_options as score_options
from text2sql.config import read_params
from text2sql.model.candidates import Outcome, likeliest_that_runs
from text2sql.model.generation import Generation
from text2sql.model.prediction import Decoding
from text2sql.model.prompt import encode_prompt
from text2sql.postgres.compare import suite
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.outcome import finds_nothing
from text2sql.postgres.sandbox import Sandbox
from text2sql.progress import track
from text2sql.scoring.judge import judge
from text2sql.workspace import DUMPS

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """`group`: of those with an equal result; None: it fails. `right`: by the suite verdict."""

    generation: Generation
    group: int | None
    right: bool
    outcome: Outcome


def mass(members: Sequence[Candidate]) -> float:
    """The probability of a group's different texts."""
    return sum(math.exp(score) for score in {c.generation.text: c.generation.score for c in members}.values())


def voted(weight: Callable[[Sequence[Candidate]], Any]) -> Callable[[Sequence[Candidate]], Candidate]:
    """The likeliest member of the group of equal results that weighs most."""

    def rule(candidates: Sequence[Candidate]) -> Candidate:
        groups: dict[int, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            if candidate.group is not None:
                groups[candidate.group].append(candidate)
        return max(max(groups.values(), key=weight), key=lambda c: c.generation.score) if groups else candidates[0]

    return rule


def likeliest(candidates: Sequence[Candidate]) -> Candidate:
    running = [c for c in candidates if c.group is not None]
    return max(running, key=lambda c: c.generation.score) if running else candidates[0]


def ours(candidates: Sequence[Candidate]) -> Candidate:
    outcomes = {c.generation.text: c.outcome for c in candidates}
    return candidates[likeliest_that_runs([c.generation for c in candidates], outcomes.__getitem__)]


RULES: dict[str, Callable[[Sequence[Candidate]], Candidate]] = {
    "greedy": lambda candidates: candidates[0],
    "the first that runs": lambda candidates: next((c for c in candidates if c.group is not None), candidates[0]),
    "result of most (self-consistency)": voted(lambda group: (len(group), max(c.generation.score for c in group))),
    "likeliest result": voted(mass),
    "likeliest query": likeliest,
    "likeliest query by token (text2sql.model.candidates)": ours,
    "one that is right, if there is one": lambda candidates: next((c for c in candidates if c.right), candidates[0]),
}


def examined(sandbox: Sandbox, row: Row, generations: Sequence[Generation]) -> list[Candidate]:
    """Execute a question's candidates, the same text once."""
    known: dict[str, tuple[int | None, bool, Outcome]] = {}
    leaders: list[tuple[str, Any]] = []
    examined_ones = []
    for candidate in generations:
        if candidate.text not in known:
            result = sandbox.execute(row["db_id"], candidate.text) if candidate.finished else None
            if result is None or result.error:
                known[candidate.text] = None, False, "fails"
            else:
                same = (i for i, (text, other) in enumerate(leaders) if suite(other, result, text).correct)
                group = next(same, len(leaders))
                if group == len(leaders):
                    leaders.append((candidate.text, result))
                verdict = judge(sandbox, row["db_id"], row["sql"], candidate.text).suite
                empty = finds_nothing(result, candidate.text, functools.partial(sandbox.execute, row["db_id"]))
                known[candidate.text] = group, verdict.correct, "nothing" if empty else "rows"
        examined_ones.append(Candidate(candidate, *known[candidate.text]))
    return examined_ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--every", type=int, default=1, help="every so many questions only")
    parser.add_argument("--free", action="store_true", help="decoding not held to the schema")
    arguments = parser.parse_args()
    params, count = read_params(), arguments.candidates
    options = predict.read_options(params)
    if arguments.free:
        options = replace(options, predict=replace(options.predict, constrained=False))
    predictor, constrain = predict.load_predictor(options)
    predictor.options = replace(predictor.options, temperature=arguments.temperature)
    rows = predict.read_questions(arguments.split)[:: arguments.every]
    rows = [{**row, "tokens": encode_prompt(predictor.tokenizer, row["prompt"])} for row in rows]
    questions: list[list[Candidate]] = []
    databases, limits = sorted({row["db_id"] for row in rows}), score_options(params).limits()
    with loaded_sandbox(databases, DUMPS, limits, 1) as sandbox:

        def examine(row: Row, generations: Sequence[Generation]) -> Generation:
            questions.append(examined(sandbox, row, generations))
            return generations[0]

        decoding = Decoding(count, options.seed, examine)
        for _ in track(predictor.answers(rows, constrain, decoding), "candidates", len(rows)):
            pass
    counts = sorted({2**i for i in range(1, 10) if 2**i < count} | {count})
    table = Table(
        "of the candidates that run", *map(str, counts), title=f"{len(questions)} {arguments.split} questions"
    )
    for name, rule in RULES.items():
        right = [sum(rule(candidates[:n]).right for candidates in questions) for n in counts]
        table.add_row(name, *(f"{n / len(questions):.1%}" for n in right))
    Console().print(table)


if __name__ == "__main__":
    main()
