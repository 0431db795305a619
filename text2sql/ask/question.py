"""What is said of a question before a model reads it: it is empty, SQL already, a wish to change data, not English."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.errors import UserError
from text2sql.sql import parse_one

LONGEST_QUESTION = 1000
_WORDS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
WISHES, ENGLISH, FOREIGN = (set(_WORDS[name].split()) for name in ("wishes", "english", "foreign"))
#: how statements begin; English sentences may begin with the same verb ("Delete all customers", "Insert coin")
STATEMENT = re.compile(
    r"""\s*(insert\s+into\b | delete\s+from\b | update\s+\S+\s.*\bset\b | truncate\s+(table\s+)?[\w."]+\s*;?\s*$
    | (create|alter|drop)\s+(or\s+replace\s+|temp\w*\s+|unique\s+|materialized\s+)*
      (table|view|index|schema|database|type|role|user|function|sequence)\s+(if\s+(not\s+)?exists\s+)?[\w."]+\s*
      ([(;,]|$|as\b|add\b|drop\b|rename\b|cascade\b|on\b))""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def check_question(question: str) -> list[str]:
    """Warnings about a question that will hardly be understood.

    Raises:
        UserError: it is empty, longer than a question, no text, or SQL.
    """
    words = [word.strip("?!.,;:'\"()").lower() for word in question.split()]
    if not any(words):
        raise UserError("the question is empty", 'ask something: text2sql ask "How many customers are there?" ...')
    if len(question) > LONGEST_QUESTION:
        raise UserError(f"the question has {len(question):,} characters", f"ask in at most {LONGEST_QUESTION:,}")
    if any("\ud800" <= c <= "\udfff" for c in question):
        raise UserError("the question has bytes that are no text", "write it in UTF-8")
    if is_sql(question):
        raise UserError("that is SQL already", "ask in English what you want to know; nothing else is run here")
    warnings = []
    if words[0] in WISHES:
        warnings.append("only queries that read data are written: nothing will be changed")
    letters = [c for c in question if c.isalpha()]
    strange = sum(ord(c) > 0x24F for c in letters) > 0.3 * len(letters)  # beyond the Latin alphabets
    foreign, english = (sum(word in known for word in words) for known in (FOREIGN, ENGLISH))
    if strange or (foreign >= 2 and foreign > english):
        warnings.append("the model was trained on questions in English: expect a worse answer")
    return warnings


def is_sql(text: str) -> bool:
    """Whether a text is a statement rather than a sentence that begins like one ("Select all customers ...")."""
    if STATEMENT.match(text):
        return True
    try:
        tree = parse_one(text)
    except SqlglotError:
        return False
    return isinstance(tree, exp.Query) and tree.find(exp.From) is not None
