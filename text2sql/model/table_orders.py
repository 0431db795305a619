"""The tables of a prompt in other orders.

The order of a schema's tables means nothing. A model that sees a schema in one order only learns that order by heart
with its questions; in another order a second pass over the same questions is not the same text again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from text2sql.model.packing import Group, Plan
from text2sql.model.prompt import QUESTION, SCHEMA

#: the line break between two tables; a comment, which has one line, cannot contain it
_BETWEEN_TABLES = re.compile(r"(?<=\n\);)\n(?=create )")


def reorder(prompt: str, arrange: Callable[[list[str]], list[str]]) -> str:
    """`prompt` with its tables, each as its text, in the order that `arrange` gives them."""
    head, _, rest = prompt.partition(SCHEMA)
    shown, _, asked = rest.partition(QUESTION)
    return head + SCHEMA + "\n".join(arrange(_BETWEEN_TABLES.split(shown))) + QUESTION + asked


def shuffle_tables(planned: Plan, encode: Callable[[str], Sequence[int]], seed: int) -> Plan:
    """The plan with the tables of each pack in an order of its own, which all its questions share.

    Args:
        encode: a prompt to its token ids.
    """
    chance = random.Random(f"{seed} orders")
    return replace(planned, groups=[_in_one_order(group, encode, chance) for group in planned.groups])


def _in_one_order(group: Group, encode: Callable[[str], Sequence[int]], chance: random.Random) -> Group:
    """Questions that are shown parts of their schema: the tables that all of them see come first, to be shared."""
    seen: list[list[str]] = []
    for example in group:
        reorder(example.text, lambda tables: seen.append(tables) or tables)
    common = set.intersection(*map(set, seen))
    names = list(dict.fromkeys(_name(table) for tables in seen for table in tables))
    rank = {names[i]: place for place, i in enumerate(chance.sample(range(len(names)), len(names)))}

    def arrange(tables: list[str]) -> list[str]:
        return sorted(tables, key=lambda table: (table not in common, rank[_name(table)]))

    texts = [reorder(example.text, arrange) for example in group]
    return tuple(replace(e, text=text, prompt=tuple(encode(text))) for e, text in zip(group, texts, strict=True))


def _name(table: str) -> str:
    """A table's first line, which has its name; keys to tables that are not shown are left out of the others."""
    return table.partition("\n")[0]
