"""How fast prediction is beside transformers' own batched generation, and what other ways of decoding buy.

    python benchmarks/prediction.py [--questions 200] [--batch-size 16] [--dtype float32] [--zero-shot]
    python benchmarks/prediction.py --guided

Run it where the pipeline has run (data=spider for Spider's dev questions): it reads models/, data/prompts, data/splits
and, with --guided, data/postgres. Both ways have the same weights, batch size, limit and questions, and take
turns in rounds of `--round` questions, so that a machine that is busy for a while slows down both.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from stages import predict
from text2sql.config import read_params
from text2sql.model import generation
from text2sql.model.base import load_tokenizer
from text2sql.model.inference import load_for_inference
from text2sql.model.prediction import Decoding, Predictor, constrain_to
from text2sql.model.prompt import encode_prompt
from text2sql.schema import read_index
from text2sql.workspace import ADAPTER, BASE, INDEX

Row = dict[str, Any]


def drawn(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of the rows, evenly over the databases' shares, those of a database together."""
    ordered = sorted(rows, key=lambda row: row["db_id"])
    return [ordered[i * len(ordered) // count] for i in range(min(count, len(ordered)))]


def compare(model: Any, tokenizer: Any, rows: Sequence[Row], options: generation.GenerationOptions, size: int) -> Table:
    """Questions a second of both ways, and whether the texts are the same."""
    ways: dict[str, Callable[[list[list[int]]], list[generation.Generation]]] = {
        "plain generate": lambda prompts: generation.plain(model, tokenizer, prompts, options),
        "shared prefix": lambda prompts: generation.generate(model, tokenizer, prompts, options),
    }
    for way in ways.values():  # warm up: reordered weights, the threads
        way([row["tokens"] for row in rows[:2]])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor = dict.fromkeys(ways, 0.0)
    generations: dict[str, list[generation.Generation]] = {name: [] for name in ways}
    for first in range(0, len(rows), size):
        prompts = [row["tokens"] for row in rows[first : first + size]]
        for name, way in ways.items():
            started, used = time.perf_counter(), time.process_time()
            generations[name] += way(prompts)
            seconds[name].append(time.perf_counter() - started)
            processor[name] += time.process_time() - used
    plain, ours = ways
    same = sum(a.token_ids == b.token_ids for a, b in zip(generations[plain], generations[ours], strict=True))
    table = Table(
        "",
        "questions/s",
        "seconds",
        "processor s",
        "tokens/s",
        title=f"{len(rows)} questions, {described(model, options)}",
    )
    for name in ways:
        total, tokens = sum(seconds[name]), sum(len(g.token_ids) + 1 for g in generations[name])
        table.add_row(
            name, f"{len(rows) / total:.2f}", f"{total:.1f}", f"{processor[name]:.1f}", f"{tokens / total:.0f}"
        )
    ratios = [a / b for a, b in zip(seconds[plain], seconds[ours], strict=True)]
    table.add_section()
    ratio, work = sum(seconds[plain]) / sum(seconds[ours]), processor[plain] / processor[ours]
    table.add_row("ratio", f"{ratio:.2f}", "", f"{work:.2f}")
    table.add_row("ratio of a round: median, least", f"{statistics.median(ratios):.2f}, {min(ratios):.2f}")
    table.add_row("same tokens", f"{same} of {len(rows)}")
    cut = sum(not g.finished for g in generations[ours])
    table.add_row("tokens of an answer, cut", f"{tokens / len(rows):.1f}, {cut}")
    return table


def described(model: Any, options: generation.GenerationOptions) -> str:
    """What was measured on."""
    import torch

    weight = next(model.parameters())
    where = f"{weight.device.type}, {torch.get_num_threads()} threads" if weight.device.type == "cpu" else "cuda"
    limits = f"batch {options.batch_size}, at most {options.max_new_tokens} new tokens"
    return f"{limits}, {str(weight.dtype).removeprefix('torch.')} on {where}"


def compare_decoding(
    model: Any, tokenizer: Any, rows: Sequence[Row], options: generation.GenerationOptions, guided: Any
) -> Table:
    """Accuracy and cost of the ways of decoding: greedy, constrained to the schema, execution-guided, both."""
    predictor = Predictor(model, tokenizer, dataclasses.replace(options, temperature=guided.temperature))
    recipe = predict.read_options(read_params())
    constrained = constrain_to(read_index(INDEX), tokenizer, recipe.kept)
    title = f"{len(rows)} questions, {described(model, options)}; "
    title += f"guided: {guided.candidates} candidates at temperature {guided.temperature}"
    table = Table("", "suite", "strict", "valid SQL", "seconds", "questions/s", title=title)
    with predict.open_sandbox(guided, rows) as sandbox:
        decoding = Decoding(
            guided.candidates, 42, predict.candidate_chooser(predict.outcomes_in(sandbox)), guided.workers
        )
        ways = {
            "greedy": lambda: predictor.answers(rows),
            "constrained": lambda: predictor.answers(rows, constrained),
            "execution-guided": lambda: predictor.answers(rows, decoding=decoding),
            "both": lambda: predictor.answers(rows, constrained, decoding),
        }
        for name, way in ways.items():
            started = time.perf_counter()
            predictions = {row["id"]: row["predicted"] for row in way()}
            seconds = time.perf_counter() - started
            table.add_row(name, *scored(sandbox, rows, predictions), f"{seconds:.0f}", f"{len(rows) / seconds:.2f}")
    return table


def scored(sandbox: Any, rows: Sequence[Row], predictions: dict[str, str]) -> list[str]:
    """Execution accuracy by both verdicts, and the share of predictions that run."""
    from stages.score import read_options
    from text2sql.scoring.predictions import judge_predictions

    predicted = [{**row, "gold": row["sql"], "predicted": predictions[row["id"]]} for row in rows]
    options = read_options(read_params())
    judged, _ = judge_predictions(sandbox, predicted, options.workers)
    counted = [row for row in judged if row["verdict_suite"] is not None]
    right = [[row["verdict_suite"], row["verdict_strict"], row["error"] is None] for row in counted]
    return [f"{sum(column) / len(counted):.1%}" for column in zip(*right, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--round", type=int, default=40, help="questions after which the ways take turns")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or auto")
    parser.add_argument("--zero-shot", action="store_true", help="the base model without the adapter")
    parser.add_argument("--guided", action="store_true", help="measure ways of decoding instead of speed")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.7)
    arguments = parser.parse_args()
    quantization = predict.read_options(read_params()).quantization
    adapter = None if arguments.zero_shot else ADAPTER
    model = load_for_inference(BASE, quantization, adapter, arguments.dtype)
    tokenizer = load_tokenizer(BASE)
    rows = drawn(predict.read_questions(), arguments.questions)
    rows = [{**row, "tokens": encode_prompt(tokenizer, row["prompt"])} for row in rows]
    options = generation.GenerationOptions(arguments.batch_size, arguments.max_new_tokens)
    if arguments.guided:
        guided = predict.GuidedOptions(arguments.candidates, arguments.temperature, 5.0, 10_000, 2)
        Console().print(compare_decoding(model, tokenizer, rows, options, guided))
    else:
        Console().print(compare(model, tokenizer, rows, options, arguments.round))


if __name__ == "__main__":
    main()
