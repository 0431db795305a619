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
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from text2sql.errors import UserError
from text2sql.workspace import PREDICTIONS, VERDICTS_CSV

#: what verdicts.csv keeps of each row of verdicts.jsonl
COLUMNS = ("id", "db_id", "hardness", "verdict_suite", "verdict_strict", "reason", "error")
VERDICTS = ("verdict_suite", "verdict_strict")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Ids of the questions whose verdict changed from there to here, and numbers of the others; `unpaired` are scored
    in one run only."""

    gained: tuple[str, ...]
    lost: tuple[str, ...]
    both_right: int
    both_wrong: int
    unpaired: int = 0

    @property
    def n(self) -> int:
        """Questions compared."""
        return len(self.gained) + len(self.lost) + self.both_right + self.both_wrong

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
        return (self.both_right + len(self.gained)) / self.n

    @property
    def accuracy_there(self) -> float:
        """Of the questions compared, 0 to 1."""
        return (self.both_right + len(self.lost)) / self.n

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
    ids: dict[tuple[bool, bool], list[str]] = defaultdict(list)
    for name in ours:
        if name in theirs:
            ids[theirs[name], ours[name]].append(name)
    return Difference(
        gained=tuple(ids[False, True]),
        lost=tuple(ids[True, False]),
        both_right=len(ids[True, True]),
        both_wrong=len(ids[False, False]),
        unpaired=len(ours.keys() ^ theirs.keys()),
    )


def against(revision: str, verdict: str, n_examples: int) -> str:
    """Print how the scored predictions in this folder differ from those of `revision`; returns the last line.

    Raises:
        UserError: nothing is scored here, or there is no such revision or no verdicts in it.
    """
    if not VERDICTS_CSV.exists():
        raise UserError(f"{VERDICTS_CSV} is missing", "run `dvc repro score` first")
    here = from_csv(VERDICTS_CSV.read_text(encoding="utf-8"))
    diff = difference(here, from_csv(_text_in(revision, VERDICTS_CSV)), verdict)
    if diff.n == 0:
        raise UserError(f"{revision} and this folder have no scored question in common", "compare runs of one data set")
    ours, theirs = _queries(""), _queries(revision)
    console = Console(soft_wrap=True, highlight=False)
    for name, ids in (("gained", diff.gained), ("lost", diff.lost)):
        console.rule(f"{name}: {len(ids)}", align="left")
        for key in ids[:n_examples]:
            row, there = ours.get(key) or theirs.get(key, {}), theirs.get(key, {})
            console.print(Text(f"{key} ({row.get('db_id')}): {row.get('question')}", style="bold"))
            sides = (("gold", row.get("gold")), ("here", row.get("predicted")), ("there", there.get("predicted")))
            for label, sql in sides:
                if sql is not None:
                    console.print(Text(f"  {label:6} {sql}"))
    return (
        f"against {revision}: {len(diff.gained)} gained, {len(diff.lost)} lost, {diff.both_right} right and "
        f"{diff.both_wrong} wrong in both; accuracy {diff.change:+.1%} on {diff.n} questions, McNemar's exact "
        f"test p = {diff.p:.2g}" + (f"; {diff.unpaired} questions are scored in one run only" if diff.unpaired else "")
    )


def _queries(revision: str) -> dict[str, dict[str, Any]]:
    """The predictions of `revision` (empty: of this folder) by id; none, which is said, where they are not at hand."""
    try:
        text = _text_in(revision, PREDICTIONS) if revision else PREDICTIONS.read_text(encoding="utf-8")
    except (UserError, OSError) as error:
        print(f"the queries of {revision or 'this folder'} are not shown: {getattr(error, 'what', error)}")
        return {}
    return {row["id"]: row for row in map(json.loads, filter(None, text.split("\n")))}


def _text_in(revision: str, path: Path) -> str:
    """A file as it is in a revision: in git, or in DVC's cache or remote.

    Raises:
        UserError: it is not there.
    """
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
