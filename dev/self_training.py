"""Training examples of a model's own right answers (rejection sampling: Zelikman et al., 2022; Yuan et al., 2023).

    dvc repro                                    # a first pass, scored
    python dev/self_training.py [--samples 8] [--most 2] [--questions 1000]
    text2sql params ... && for s in preflight train predict score; do python -m stages.$s; done

The adapter in models/adapter answers the training questions, greedily and with samples. What runs, gives the rows of
the gold query (by the suite) and is written otherwise joins data/prompts/train.jsonl, the likeliest first, under the
question's id with `~1`, `~2`. The examples as they were stay in data/prompts/train.gold.jsonl, from which a second
call starts.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any

from stages import predict
from text2sql.config import read_params
from text2sql.files import read_jsonl, write_jsonl
from text2sql.model.prediction import Decoding
from text2sql.model.prompt import encode_prompt, read_questions
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.progress import track
from text2sql.scoring.judge import judge
from text2sql.workspace import DUMPS, PROMPTS

Row = dict[str, Any]
TRAIN, GOLD = PROMPTS / "train.jsonl", PROMPTS / "train.gold.jsonl"
#: questions that are answered together
PART = 256


def plain(sql: str) -> str:
    """A query without what is no other way to write it: spaces, case, the last semicolon."""
    return " ".join(sql.lower().split()).rstrip("; ")


def right_and_other(sandbox: Sandbox, question: Row, candidates: Iterable[Row], most: int) -> list[str]:
    """The candidates that are right and not written as the gold query, the likeliest by token first, each once."""
    seen, right = {plain(question["sql"])}, list[str]()
    for candidate in sorted(candidates, key=lambda c: -c["log_probability"] / max(c["tokens"], 1)):
        text = candidate["predicted"]
        if len(right) == most or not candidate["finished"] or plain(text) in seen:
            continue
        seen.add(plain(text))
        if judge(sandbox, question["db_id"], question["sql"], text).suite.correct:
            right.append(text)
    return right


def draw(questions: Sequence[Row], samples: int, most: int) -> dict[str, list[str]]:
    """The right answers to each question, by its id."""
    predict.prepare()
    options = predict.read_options(read_params())
    predictor, constrain = predict.load_predictor(options)
    rows = [{**row, "tokens": encode_prompt(predictor.tokenizer, row["prompt"])} for row in questions]
    rows.sort(key=lambda row: row["db_id"])
    answers: dict[str, list[str]] = {}
    with loaded_sandbox(sorted({row["db_id"] for row in rows}), DUMPS, Limits(), 2) as sandbox:
        for start in track(range(0, len(rows), PART), "drawing"):
            part = rows[start : start + PART]
            drawn = {row["id"]: row for row in predictor.answers(part, constrain, Decoding(samples, options.seed))}
            for row in part:
                answers[row["id"]] = right_and_other(sandbox, row, drawn[row["id"]]["candidates"], most)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8, help="answers of each question, the greedy one first")
    parser.add_argument("--most", type=int, default=2, help="answers of a question that join the examples")
    parser.add_argument("--questions", type=int, help="so many training questions, drawn at random; default: all")
    given = parser.parse_args()
    if GOLD.exists():
        TRAIN.unlink(missing_ok=True)
        shutil.copy(GOLD, TRAIN)
    else:
        shutil.copy(TRAIN, GOLD)
    examples, questions = list(read_jsonl(GOLD)), read_questions("train")
    if given.questions:
        questions = random.Random(0).sample(questions, given.questions)
    started = time.perf_counter()
    answers = draw(questions, given.samples, given.most)
    more = [
        {**example, "id": f"{example['id']}~{i}", "completion": text}
        for example in examples
        for i, text in enumerate(answers.get(example["id"], []), start=1)
    ]
    write_jsonl(TRAIN, examples + more)
    minutes = (time.perf_counter() - started) / 60
    asked = sum(bool(texts) for texts in answers.values())
    print(
        f"{len(more)} right answers to {asked} of {len(questions)} questions, written otherwise; {minutes:.1f} minutes"
    )


if __name__ == "__main__":
    main()
