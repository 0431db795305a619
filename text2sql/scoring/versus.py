"""Two runs on the same questions: what one gained and lost against the other, and whether that may be chance.

A run's verdicts are in git (metrics/plots/verdicts.csv), so that an experiment can be compared with any other without
executing anything; its queries come from DVC's cache where they are there.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from text2sql.errors import UserError
from text2sql.files import read_jsonl

VERDICTS_CSV = Path("metrics/plots/verdicts.csv")
PREDICTIONS = Path("data/predictions/test.jsonl")

#: what verdicts.csv keeps of each row of verdicts.jsonl
COLUMNS = ("id", "db_id", "hardness", "verdict_suite", "verdict_strict", "reason", "error")
VERDICTS = ("verdict_suite", "verdict_strict")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Ids of the questions that both runs scored, by what the verdict was there and here, and of those that only one
    run scored."""

    gained: tuple[str, ...]
    lost: tuple[str, ...]
    both_right: tuple[str, ...]
    both_wrong: tuple[str, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]

    @property
    def n(self) -> int:
        """Questions compared."""
        return len(self.gained) + len(self.lost) + len(self.both_right) + len(self.both_wrong)

    @property
    def change(self) -> float:
        """Accuracy here minus accuracy there, on the questions compared."""
        return (len(self.gained) - len(self.lost)) / self.n if self.n else 0.0

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test."""
        return mcnemar(len(self.gained), len(self.lost))

    @property
    def accuracy_here(self) -> float:
        """Of the questions compared, 0 to 1."""
        return (len(self.both_right) + len(self.gained)) / self.n

    @property
    def accuracy_there(self) -> float:
        """Of the questions compared, 0 to 1."""
        return (len(self.both_right) + len(self.lost)) / self.n

    def in_words(self, there: str) -> str:
        """`58.3% of 12 questions right, THERE 41.7% (3 gained, 1 lost, p = 0.62)`, p by McNemar's exact test."""
        return (
            f"{self.accuracy_here:.1%} of {self.n} questions right, {there} {self.accuracy_there:.1%} "
            f"({len(self.gained)} gained, {len(self.lost)} lost, p = {self.p:.2g})"
        )


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test (two-sided binomial, p = 1/2): how probable a split of the changed verdicts at least as
    uneven is if both runs are equally good.

    >>> mcnemar(0, 0), mcnemar(5, 5), mcnemar(6, 0)
    (1.0, 1.0, 0.03125)
    >>> round(mcnemar(121, 59), 9)
    4.434e-06
    """
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**n)


def difference(here: Iterable[Mapping[str, Any]], there: Iterable[Mapping[str, Any]], verdict: str) -> Difference:
    """Compare two runs by one of `VERDICTS`, in the order of `here`; excluded questions count as not scored."""
    ours, theirs = ({row["id"]: row[verdict] for row in rows if row[verdict] is not None} for rows in (here, there))

    def ids(now: bool, before: bool) -> tuple[str, ...]:
        return tuple(name for name, value in ours.items() if name in theirs and (value, theirs[name]) == (now, before))

    return Difference(
        gained=ids(True, False),
        lost=ids(False, True),
        both_right=ids(True, True),
        both_wrong=ids(False, False),
        only_here=tuple(name for name in ours if name not in theirs),
        only_there=tuple(name for name in theirs if name not in ours),
    )


def against(revision: str, verdict: str, n_examples: int) -> str:
    """Print how the scored predictions in this folder differ from those of `revision`; returns the last line.

    Raises:
        UserError: nothing is scored here, or there is no such revision or no verdicts in it.
    """
    here = from_csv(_text(VERDICTS_CSV)) if VERDICTS_CSV.exists() else None
    if here is None:
        raise UserError(f"{VERDICTS_CSV} is missing", "run `dvc repro score` first")
    diff = difference(here, from_csv(_text(VERDICTS_CSV, revision)), verdict)
    if diff.n == 0:
        raise UserError(f"{revision} and this folder have no scored question in common", "compare runs of one data set")
    ours = {row["id"]: row for row in read_jsonl(PREDICTIONS)}
    try:
        theirs = {row["id"]: row for row in map(json.loads, _text(PREDICTIONS, revision).splitlines())}
    except UserError as error:
        print(f"the queries of {revision} are not shown: {error.what}")
        theirs = {}
    console = Console(soft_wrap=True, highlight=False)
    for name, ids in (("gained", diff.gained), ("lost", diff.lost)):
        console.rule(f"{name}: {len(ids)}", align="left")
        for key in ids[:n_examples]:
            row = ours.get(key, {})
            console.print(Text(f"{key} ({row.get('db_id')}): {row.get('question')}", style="bold"))
            for label, sql in (("gold", row.get("gold")), ("here", row.get("predicted"))):
                console.print(Text(f"  {label}   {sql}"))
            if key in theirs:
                console.print(Text(f"  there  {theirs[key]['predicted']}"))
    unpaired = len(diff.only_here) + len(diff.only_there)
    return (
        f"against {revision}: {len(diff.gained)} gained, {len(diff.lost)} lost, {len(diff.both_right)} right and "
        f"{len(diff.both_wrong)} wrong in both; accuracy {diff.change:+.1%} on {diff.n} questions, McNemar's exact "
        f"test p = {diff.p:.2g}" + (f"; {unpaired} questions are scored in one run only" if unpaired else "")
    )


def _text(path: Path, revision: str | None = None) -> str:
    """A file here, or as it is in a revision: in git, or in DVC's cache or remote.

    Raises:
        UserError: it is not there.
    """
    if revision is None:
        return path.read_text(encoding="utf-8")
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        return dvc.api.read(path.as_posix(), rev=revision, encoding="utf-8")
    except (DvcException, SCMError, OSError) as error:
        remedy = "`dvc exp show` and `git log` name revisions; `dvc fetch` brings their files"
        raise UserError(f"{path} of {revision} cannot be read: {error}", remedy) from None


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts as a table for git: 1,000 rows are some 60 kB, and hold no question and no query."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([row[name] for name in COLUMNS] for row in rows)
    return text.getvalue()


def from_csv(text: str) -> list[dict[str, Any]]:
    """The inverse of `to_csv`."""
    truth = {"True": True, "False": False, "": None}
    rows = []
    for row in csv.DictReader(io.StringIO(text)):
        values: dict[str, Any] = {name: row[name] or None for name in COLUMNS}
        rows.append({**values, **{name: truth[row[name]] for name in VERDICTS}})
    return rows
