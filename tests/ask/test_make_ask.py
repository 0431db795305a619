"""`make ask QUESTION="..."`: any text reaches `text2sql` word for word, and none of it is run."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUESTIONS = [
    "What's the price?",
    'Which are "best sellers"?',
    "Is $HOME or $(HOME) or ${HOME} a name?",
    "$(touch ran) `touch ran` $(shell touch ran)",
    "a; touch ran",
    "a && touch ran | touch ran > ran",
    "Really?! * ~ # % \\ \\n = $$ $",
    "--json",
    "Ünïcode, 日本?",
    "",
    None,  # the Makefile's own
]
DEFAULT = "What are the names and prices of the products that cost more than 50?"


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_question_is_asked_word_for_word(tmp_path: Path, question: str | None) -> None:
    programs = tmp_path / "venv/bin"
    programs.mkdir(parents=True)
    (tmp_path / "venv/.ready").touch()
    stub = programs / "text2sql"
    stub.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" > "$SAID"\n')
    stub.chmod(0o755)
    said = tmp_path / "said"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}  # of `make test`
    environment = {**inherited, "SAID": str(said), "PATH": f"{programs}:{os.environ['PATH']}"}
    make = ["make", "-f", ROOT / "Makefile", "ask", f"VENV={tmp_path / 'venv'}"]
    make += [] if question is None else [f"QUESTION={question}"]
    question = DEFAULT if question is None else question
    for name in ("requirements.lock", "requirements-uv.lock", "requirements-cuda.lock", "pyproject.toml"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    done = subprocess.run(make, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = said.read_text().split("\0")[:-1]
    assert (words[0], words[-2:]) == ("ask", ["--", question])
    assert f"? {question}\n" == done.stdout
    assert not (tmp_path / "ran").exists()
