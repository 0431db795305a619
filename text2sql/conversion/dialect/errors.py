"""The two ways in which a conversion fails."""

from __future__ import annotations


class Rejected(Exception):
    """The query cannot be converted faithfully; the message says why, for the example's `reason`."""


class Defect(Rejected):
    """A rule met a query that it was not written for and failed: an error of ours, which stages and command report."""
