"""Progress on a terminal, for whatever takes over two seconds; nothing is shown elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Row = TypeVar("Row")


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
