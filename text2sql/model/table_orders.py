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


def reorder(prompt: str, draw: Callable[[int], Sequence[int]]) -> str:
    """`prompt` with its tables in the order that `draw` gives for their number: a permutation of range(number)."""
    head, _, rest = prompt.partition(SCHEMA)
    shown, _, asked = rest.partition(QUESTION)
    tables = _BETWEEN_TABLES.split(shown)
    return head + SCHEMA + "\n".join(tables[i] for i in draw(len(tables))) + QUESTION + asked


def shuffle_tables(planned: Plan, encode: Callable[[str], Sequence[int]], seed: int) -> Plan:
    """The plan with the tables of each pack in an order of its own, which all its questions share.

    Args:
        encode: a prompt to its token ids.
    """
    chance = random.Random(f"{seed} orders")
    return replace(planned, groups=[_in_one_order(group, encode, chance) for group in planned.groups])


def _in_one_order(group: Group, encode: Callable[[str], Sequence[int]], chance: random.Random) -> Group:
    drawn: dict[int, list[int]] = {}

    def draw(count: int) -> list[int]:
        if count not in drawn:
            drawn[count] = chance.sample(range(count), count)
        return drawn[count]

    texts = [reorder(example.text, draw) for example in group]
    return tuple(replace(e, text=text, prompt=tuple(encode(text))) for e, text in zip(group, texts, strict=True))
