"""What a query may consist of. Anything else has not been thought about, and is rejected rather than passed on."""

from __future__ import annotations

from sqlglot import exp

from text2sql.files import read_beside


class Rejected(Exception):
    """The query cannot be converted faithfully; the message says why, for the example's `reason`."""


class Defect(Rejected):
    """A rule met a query that it was not written for and failed: an error of ours, which stages and command report."""


_NAMES = {part: set(names.split()) for part, names in read_beside(__file__).items()}
_CLASSES = {getattr(exp, name) for part, names in _NAMES.items() if not part.endswith("argument") for name in names}


def check_nodes(tree: exp.Expression) -> None:
    """Look at every node.

    Raises:
        Rejected: one that no rule knows.
    """
    for node in tree.walk():
        if isinstance(node, exp.Substring) and node.args.get("start") is None:
            raise Rejected("function substr with one argument")
        if isinstance(node, exp.Anonymous):
            name = node.name.lower()
            if name in _NAMES["with_argument"] and not node.expressions:
                raise Rejected(f"function {name} without an argument")
            if name not in _NAMES["with_argument"] | _NAMES["without_argument"]:
                raise Rejected(f"function {name}")
        elif type(node) not in _CLASSES:
            if not isinstance(node, exp.Func):
                raise Rejected(f"{type(node).__name__} is not known")
            raise Rejected(f"function {node.sql('sqlite').partition('(')[0].lower()}")
