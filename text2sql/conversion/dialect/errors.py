"""The one way in which a conversion fails."""

from __future__ import annotations


class Rejected(Exception):
    """The query cannot be converted faithfully; the message says why, for the example's `reason`."""
