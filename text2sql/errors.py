"""The one exception that a user is meant to read.

Everything that bad input can cause is raised as a `UserError`; commands print it without a traceback and exit with
status 1. Any other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


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
