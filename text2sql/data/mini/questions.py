"""Questions with gold SQL on a graph: draw a shape, run its query, keep it if it is worth asking.

`run` executes SQL on the database that the graph was made of. A question is kept only if its answer is not empty, its
conditions matter (without them the answer is another one) and no tie leaves the answer open.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

from text2sql.data.mini.english import tidy_sentence
from text2sql.data.mini.graph import Graph
from text2sql.data.mini.pick import Picker, Unsuitable
from text2sql.data.mini.rows import shuffled_list
from text2sql.data.mini.shapes import RATIOS, SHAPES, Shape
from text2sql.data.mini.sql_parts import Compound, Query, SelectParts

Run = Callable[[str], Sequence[Sequence[Any]]]
#: rounds over the shapes before a graph is taken to have no more to ask
MAX_ROUNDS = 60
#: draws of one shape before its turn is given to the next one
MAX_TRIES = 20


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its gold SQL (SQLite) and the shape that made it."""

    question: str
    sql: str
    shape: str


def generate_questions(graph: Graph, run: Run, rng: random.Random, count: int, ratios: float = 0.0) -> list[Question]:
    """Up to `count` different questions; fewer if the graph does not yield as many.

    Args:
        ratios: the share of questions on ratios, proportions and days between two dates; less than 1.
    """
    picker = Picker(graph, rng)
    asked: dict[str, Question] = {}
    texts: set[str] = set()
    weighted = [(shape, shape.weight) for shape in SHAPES.values()]
    if ratios:
        total, of_ratios = (sum(shape.weight for shape in shapes.values()) for shapes in (SHAPES, RATIOS))
        scale = ratios / (1 - ratios) * total / of_ratios
        weighted += [(shape, scale * shape.weight) for shape in RATIOS.values()]
    for shape in _schedule(weighted, rng, count):
        question = _draw(shape, picker, run)
        if question and question.sql not in asked and question.question.lower() not in texts:
            asked[question.sql] = question
            texts.add(question.question.lower())
            if len(asked) == count:
                break
    return list(asked.values())


def _schedule(weighted: Sequence[tuple[Shape, float]], rng: random.Random, count: int) -> list[Shape]:
    """Shapes in proportion to their weights, spread evenly (systematic sampling), more than enough of them."""
    total = sum(weight for _, weight in weighted)
    order: list[Shape] = []
    for _ in range(MAX_ROUNDS):
        step, position, bound = total / max(count, 1), 0.0, rng.random() * total / max(count, 1)
        round_: list[Shape] = []
        for shape, weight in weighted:
            position += weight
            while bound < position:
                round_.append(shape)
                bound += step
        order += shuffled_list(round_, rng)
    return order


def _draw(shape: Shape, picker: Picker, run: Run) -> Question | None:
    for _ in range(MAX_TRIES):
        try:
            query, words = shape.make(picker)
        except Unsuitable:
            continue
        if worth_asking(query, run):
            return Question(phrase(shape, words, picker), str(query), shape.name)
    return None


def phrase(shape: Shape, words: Mapping[str, Any], picker: Picker) -> str:
    """One of the shape's phrasings with the words put in, of those whose words are all there."""
    there = {name: str(word) for name, word in words.items() if word is not None}
    fitting = [t for t in shape.phrasings if {f for _, f, _, _ in Formatter().parse(t) if f} <= there.keys()]
    text = picker.say(picker.any(fitting)).format(**there)
    return tidy_sentence(text)


def worth_asking(query: Query, run: Run) -> bool:
    """Whether the answer is there, depends on the conditions, and is the only one."""
    rows = run(str(query))
    if not rows or any(value is None for row in rows for value in row if len(rows) == 1):
        return False
    if len(rows) == 1 and len(rows[0]) == 1 and rows[0][0] == 0:
        return False
    if isinstance(query, Compound):
        sides = [set(map(tuple, run(str(side)))) for side in (query.left, query.right)]
        return all(sides) and set(map(tuple, rows)) not in sides
    return _conditions_matter(query, rows, run) and _no_ties(query, run)


def _conditions_matter(query: SelectParts, rows: Sequence[Any], run: Run) -> bool:
    for i in range(len(query.where)):
        rest = query.where[:i] + query.where[i + 1 :]
        if sorted(map(repr, run(str(dataclasses.replace(query, where=rest, limit=0))))) == sorted(
            map(repr, run(str(dataclasses.replace(query, limit=0))))
        ):
            return False
    return not query.having or len(run(str(dataclasses.replace(query, having="")))) != len(rows)


def _no_ties(query: SelectParts, run: Run) -> bool:
    """ORDER BY leaves no choice: the keys of the rows shown, and of the next one, all differ."""
    if not query.order:
        return True
    keys = dataclasses.replace(
        query, columns=(query.order,), limit=query.limit + 1 if query.limit else 0, distinct=False
    )
    found = [row[0] for row in run(str(keys))]
    enough = not query.limit or len(found) > query.limit
    return enough and None not in found and len(set(found)) == len(found)
