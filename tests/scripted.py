"""An engine whose model is a script: everything but the weights is real."""

from __future__ import annotations

import threading
import time

from text2sql.ask import Engine
from text2sql.model.generation import Generation


class Scripted(Engine):
    """Answers each question with the given texts, in their order; others with `select 1`."""

    title = "a script"

    def __init__(self, answers: dict[str, str | list[str]], seconds: float = 0.0) -> None:
        self.answers, self.pause = answers, seconds
        self._lock = threading.Lock()

    def encode(self, question, schema):
        assert schema.tables
        return question, []

    def generate(self, prompt, candidates, schema):
        with self._lock:
            time.sleep(self.pause)
        texts = self.answers.get(prompt, "select 1")
        texts = [texts] if isinstance(texts, str) else texts
        return [Generation((), text, True, -float(i)) for i, text in enumerate((texts * candidates)[:candidates])]
