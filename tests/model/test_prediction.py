"""What of many questions is generated together, and saved together."""

import dataclasses

import pytest

from text2sql.model.generation import GenerationOptions
from text2sql.model.prediction import GREEDY, Decoding, Partial, complete

QUESTIONS = [{"id": str(i), "db_id": "shop", "tokens": [1, 2]} for i in range(40)]


@dataclasses.dataclass
class Counting:
    """Answers with nothing, and keeps how many questions it was asked at a time."""

    exact: bool
    options: GenerationOptions
    longest: int = 10
    parts: list[int] = dataclasses.field(default_factory=list)

    def answers(self, questions, constrain, decoding):
        self.parts.append(len(questions))
        yield from ({"id": row["id"]} for row in questions)


@pytest.mark.parametrize(
    ("exact", "decoding", "parts"),
    [
        (True, GREEDY, [40]),  # saved one by one, as they are made
        (False, GREEDY, [16, 16, 8]),  # four batches
        (False, Decoding(candidates=8), [2] * 20),  # four batches of candidates
        (False, Decoding(candidates=8, suffices=lambda *_: True), [16, 16, 8]),  # few questions get candidates
    ],
)
def test_questions_of_a_part(tmp_path, exact, decoding, parts):
    predictor = Counting(exact, GenerationOptions(batch_size=4))
    with Partial(tmp_path / "partial.jsonl") as partial:
        complete(partial, predictor, QUESTIONS, decoding=decoding)
        assert partial.done.keys() == {row["id"] for row in QUESTIONS}
    assert predictor.parts == parts


def test_a_line_that_ends_within_a_character_is_dropped(tmp_path):
    """A full disk cuts a line anywhere."""
    path, row = tmp_path / "partial.jsonl", {"id": "0", "predicted": "SELECT 'Zürich'"}
    with Partial(path) as partial:
        partial.add([row, row | {"id": "1"}])
    path.write_bytes(path.read_bytes()[: -len("rich'\"}\n") - 1])
    with Partial(path) as partial:
        assert partial.done == {"0": row}
        partial.add([row | {"id": "1"}])
    with Partial(path) as partial:
        assert partial.done.keys() == {"0", "1"}
