"""The table of recipes in docs/RESULTS.md, read out of recorded files: metrics/ and docs/results/.

python dev/results_table.py    # writes it between the comments `recipes` and `/recipes`
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from text2sql.files import read_json

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "RESULTS.md"
SECOND = "predict=second_try"
GUIDED = "predict=execution_guided -S predict.constrained=true"
HEAD = (
    "recipe", "answers", "questions", "suite, %", "strict", "valid SQL", "shuffled rows", "ties open", "training",
    "command",
)  # fmt: skip


class Row(NamedTuple):
    """One recorded score: its file below the repository's root, and what the table says of it."""

    file: str
    recipe: str
    answers: str
    options: str  # of the command: what follows each -S


#: the option that spider had not
IN_ORDER = "train.shuffle_tables=false"

ROWS = [
    Row("metrics/score", "default: 0.5B, embedded data", "greedy", ""),
    Row("docs/results/default/second_try", "", "second try", SECOND),
    Row("docs/results/default/guided", "", "of 8", GUIDED),
    Row("docs/results/default/untrained", "", "untrained", "predict.zero_shot=true"),
    Row("docs/results/spider/score", "`spider`: 0.5B, two passes", "greedy", "experiment=spider"),
    Row("docs/results/spider/second_try", "", "second try", f"experiment=spider -S {SECOND}"),
    Row("docs/results/spider/guided", "", "of 8", f"experiment=spider -S {GUIDED}"),
    Row("docs/results/spider/untrained", "", "untrained", "experiment=spider -S predict.zero_shot=true"),
    Row(
        "docs/results/spider-in-order/score",
        "and tables in the schema's order",
        "greedy",
        f"experiment=spider -S {IN_ORDER}",
    ),
    Row("docs/results/spider-in-order/second_try", "", "second try", f"experiment=spider -S {IN_ORDER} -S {SECOND}"),
    Row(
        "docs/results/spider-once/score",
        "0.5B, one pass",
        "greedy",
        f"experiment=spider -S train.epochs=1.0 -S {IN_ORDER}",
    ),
    Row(
        "docs/results/spider-once/guided",
        "",
        "of 8",
        f"experiment=spider -S train.epochs=1.0 -S {IN_ORDER} -S {GUIDED}",
    ),
    Row("docs/results/spider-quick/score", "`spider-quick`: 0.5B, two fifths", "greedy", "experiment=spider-quick"),
    Row("docs/results/spider-1.5b/score", "`spider-1.5b`: 1.5B, one pass", "greedy", "experiment=spider-1.5b"),
    Row("docs/results/spider-1.5b/second_try", "", "second try", f"experiment=spider-1.5b -S {SECOND}"),
    Row("docs/results/spider-1.5b/untrained", "", "untrained", "experiment=spider-1.5b -S predict.zero_shot=true"),
    Row("docs/results/everyday-1.5b/score", "`everyday-1.5b`: from there on", "greedy", "experiment=everyday-1.5b"),
    Row("docs/results/spider-135m/score", "`spider-135m`: SmolLM2-135M", "greedy", "experiment=spider-135m"),
    Row("docs/results/spider-135m/guided", "", "of 8", f"experiment=spider-135m -S {GUIDED}"),
]


def percent(share: float | None) -> str:
    """0.72314 -> 72.3; nothing of a measure that the score's code did not have."""
    return "" if share is None else f"{100 * share:.1f}"


def cells(row: Row) -> list[str]:
    """The row's cells, in the order of HEAD."""
    path = ROOT / f"{row.file}.json"
    score = read_json(path)
    shares = [score.get(f"execution_accuracy{kind}") for kind in ("", "_strict", "_shuffled", "_open")]
    suite, strict, shuffled, opened = map(percent, shares)
    low, high = map(percent, score["ci95"])
    training = ""
    if path.stem == "score":
        made = read_json(path.parent / "train.json")
        memory = f"{made['peak_memory_bytes'] / 1e9:.1f} GB"
        training = f"{made['seconds'] / 60:.0f} min, {memory}, {made['device']}, {made['dtype']}"
    command = f"dvc exp run -S {row.options}" if row.options else "make repro"
    figures = [f"**{suite}** ({low} to {high})", strict, percent(score["valid_sql"]), shuffled, opened]
    return [row.recipe, row.answers, str(score["n"]), *figures, training, f"`{command}`"]


def table() -> str:
    """The table, in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, ROWS)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("  ", " ")


def main() -> None:
    text = DOCUMENT.read_text()
    marked = re.compile(r"(?<=<!-- recipes -->\n).*(?=<!-- /recipes -->)", re.DOTALL)
    DOCUMENT.write_text(marked.sub(lambda _: table(), text))


if __name__ == "__main__":
    main()
