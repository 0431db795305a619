"""Progress on a terminal, for whatever takes over two seconds; nothing is shown elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Row = TypeVar("Row")
Job = TypeVar("Job")


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields `advance(n)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n=1: bar.advance(task, n)


def track(rows: Iterable[Row], label: str, total: int | None = None) -> Iterator[Row]:
    """Yield `rows` under a progress bar."""
    if total is None and hasattr(rows, "__len__"):
        total = len(rows)
    with progress(label, total) as advance:
        for row in rows:
            yield row
            advance(1)


def in_parallel(function: Callable[[Job], Row], jobs: Sequence[Job], label: str) -> Iterator[Row]:
    """What `function` makes of each job, in their order under a progress bar, by a process for each processor."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        yield from track(workers.map(function, jobs), label, len(jobs))
