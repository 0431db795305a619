"""A server of one's own with the pipeline's databases, and a sandbox on it: for scoring and for guided decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from text2sql.errors import UserError
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.stage import track


@contextmanager
def loaded_sandbox(databases: Sequence[str], dumps: Path, limits: Limits, workers: int) -> Iterator[Sandbox]:
    """A sandbox on a new server that has these databases, from the dumps in a folder, loaded `workers` at a time.

    Raises:
        UserError: one has no dump.
    """
    from text2sql.postgres.databases import load
    from text2sql.postgres.server import server

    for name in databases:
        if not (dumps / f"{name}.sql").exists():
            raise UserError(f"{dumps / name}.sql is missing", "run `dvc repro databases`, which makes it")
    # The largest first, so that none is left over for one worker at the end.
    order = sorted(databases, key=lambda name: -(dumps / f"{name}.sql").stat().st_size)
    with server() as running, ThreadPoolExecutor(workers) as pool:
        loads = pool.map(lambda name: load(running, dumps / f"{name}.sql", name), order)
        for _ in track(loads, "loading databases", len(order)):
            pass
        with Sandbox(running, limits) as sandbox:
            yield sandbox
