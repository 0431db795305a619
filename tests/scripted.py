"""An engine whose model is a script: everything but the weights is real."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from text2sql.ask.catalog import Target
from text2sql.ask.engine import AskedPrompt, Engine
from text2sql.model.generation import Generation
from text2sql.scoring.confidence import Calibration


class Scripted(Engine):
    """Answers each question with the given texts, in their order; others with `select 1`."""

    #: an answer of no tokens and score -i: 88 %, 73 %, 50 % ...
    located = SimpleNamespace(title="a script", calibration=Calibration(2.0, 1.0, 0.0), notice="")

    def __init__(self, answers: dict[str, str | list[str]], seconds: float = 0.0) -> None:
        self.answers, self.pause = answers, seconds
        self._lock = threading.Lock()

    def prompt(self, question, schema, target=None):
        assert schema.tables
        return AskedPrompt(question, question, schema, schema, target or Target())

    def generate_batch(self, prompts, candidates=1, drawn=0):
        with self._lock:
            time.sleep(self.pause)
        asked = [prompt.ids if prompt.ids in self.answers else prompt.question for prompt in prompts]
        return [self.written(question, candidates)[drawn:] for question in asked]

    def written(self, question, candidates):
        texts = self.answers.get(question, "select 1")
        texts = [texts] if isinstance(texts, str) else texts
        return [Generation((), text, True, -float(i)) for i, text in enumerate((texts * candidates)[:candidates])]
