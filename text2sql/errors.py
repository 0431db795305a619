"""The one exception that a user is meant to read.

Everything that bad input can cause is raised as a `UserError`; commands print it without a traceback and exit with
status 1. Any other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend: what happened and where, and what to type next.

    Args:
        what: what happened, naming the file, field or value.
        remedy: what to do about it, as an instruction.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.remedy}" if self.remedy else self.what


#: what the machine refuses, and what to do about it
REFUSALS = {
    errno.ENOSPC: "free space there; for temporary files, set TMPDIR to a folder with room",
    errno.EDQUOT: "free space there; for temporary files, set TMPDIR to a folder with room",
    errno.EROFS: "make the folder writable, or work in another one (for temporary files: TMPDIR)",
    errno.EACCES: "make the folder writable, or work in another one (for temporary files: TMPDIR)",
    errno.EPERM: "make the folder writable, or work in another one (for temporary files: TMPDIR)",
}
AGAIN = "run the command again: files are written whole or not at all"


def refusal_of_the_machine(error: BaseException) -> UserError | None:
    """The sentence for an exception that comes of the machine and not of the code; None for any other.

    A full disk, a folder that is read only, a PostgreSQL or worker process that was killed.
    """
    words = " ".join(str(error).split())[:300]
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return UserError(words, f"{REFUSALS[error.errno]}; then {AGAIN}")
    if isinstance(error, FileNotFoundError) and "temporary directory" in words:
        return UserError(words, f"set TMPDIR to a folder with room; then {AGAIN}")
    names = [f"{cls.__module__}.{cls.__name__}" for cls in type(error).__mro__]
    if "psycopg.OperationalError" in names:
        remedy = "it was ended, or had too little memory or disk: see to that, then "
        return UserError(f"PostgreSQL does not answer any more: {words}", remedy + AGAIN)
    if "concurrent.futures.process.BrokenProcessPool" in names or isinstance(error, MemoryError):
        what = "a worker process was killed" if not isinstance(error, MemoryError) else "the memory is full"
        return UserError(what, f"close other programs, or use a machine with more memory; then {AGAIN}")
    return None


@contextmanager
def as_made(what: object, remedy: str = "`dvc repro` makes it again") -> Iterator[None]:
    """A file that is read in the block and is not as our code writes it (a key is missing, a list stands for a mapping)
    is a `UserError` about `what`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{what} is not as it was made ({type(error).__name__}: {words})", remedy) from error


@contextmanager
def exits(program: str) -> Iterator[None]:
    """What a person can mend ends the program with one message and status 1, any other exception with its traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: interrupted")
    except Exception as error:
        if refusal := refusal_of_the_machine(error):
            sys.exit(f"{program}: {refusal}")
        raise
