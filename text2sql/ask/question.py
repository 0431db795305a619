"""What is said of a question before a model reads it: it is empty, SQL already, a wish to change data, not English."""

from __future__ import annotations

import re
import unicodedata

from sqlglot import exp

from text2sql.ask.unknown import query_scopes, unknown_names
from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.schema import Schema

LONGEST_QUESTION = 1000
_WORDS = read_beside(__file__)
WISHES, NUMBERS, BETWEEN, ENGLISH, FOREIGN = (
    frozenset(_WORDS[name].split()) for name in ("wishes", "numbers", "between", "english", "foreign")
)
_NAME = r'(?:[\w.]|"[^"]+")+'
#: statements that are no query; English sentences may begin with the same words ("Insert into my report the ten best")
STATEMENT = re.compile(
    rf"""\s*(insert\s+into\s+{_NAME}\s*([(][^()]*[)]\s*)?([(]\s*)?(values\s*[(]|(select|with|default|table)\b)
    | delete\s+from\s+(only\s+)?{_NAME}\s*
      (;?\s*$|(using|as|returning)\b|where\b.*([=<>(]|\b(is\s+(not\s+)?null|like|between)\b))
    | update\s+(only\s+)?{_NAME}\s+((as\s+)?\w+\s+)?set\s+({_NAME}|[(][^()]*[)])\s*=
    | truncate\s+(table\s+)?{_NAME}\s*;?\s*$
    | create\s+(or\s+replace\s+|temp\w*\s+|unique\s+|materialized\s+)*
      (table|view|index|schema|database|type|role|user|function|sequence)\s+(if\s+not\s+exists\s+)?{_NAME}\s*
      (; | [(]\s*([)]|(?!by\b){_NAME}\s+(big|small|var)?(int|serial|char|text|num|dec|real|double|bool|date|time|json))
      | ([(][^()]*[)]\s*)?as\s*([(]|(select|values|with|enum|range)\b) | on\s+{_NAME}\s*(using\s+\w+\s*)?[(])
    | (alter|drop)\s+(materialized\s+)?(table|view|index|schema|database|sequence)\s+(if\s+exists\s+)?{_NAME}\s*
      (,\s*{_NAME}\s*)*(;|$|(add|alter|drop|rename|cascade)\b))""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
#: English in brackets ("Berlin (Germany)", "customer(s)"); a call's bracket stands at the name, and those of lists and
#: subqueries are told by what is around them
_REMARK = re.compile(r"(?<!\bin)\s[(](?!\s*([*]|select\b))[^()]*[)]|(?<=\w)[(]e?s[)]", re.IGNORECASE)
#: what queries have and sentences that read like one do not, as "Select 5* hotels" or "Select the first_name from ..."
_SIGN = re.compile(r"[=<>(]|(?<!\d)[*]|\bi?like\s*['\"]|\A(?!.*\bthe\s).*\w_\w", re.IGNORECASE | re.DOTALL)


def check_question(question: str, schema: Schema | None = None) -> list[str]:
    """Warnings about a question, on `schema`, that will hardly be understood.

    Raises:
        UserError: it is empty, longer than a question, no text, or SQL.
    """
    words = [word.strip("?!.,;:'\"()").lower() for word in question.split()]
    if not any(words):
        raise UserError("the question is empty", 'ask something: text2sql ask "How many customers are there?" ...')
    if len(question) > LONGEST_QUESTION:
        raise UserError(f"the question has {len(question):,} characters", f"ask in at most {LONGEST_QUESTION:,}")
    if any(unicodedata.category(c) in ("Cc", "Cs") and not c.isspace() for c in question):
        raise UserError("the question has bytes or control characters that are no text", "write it in UTF-8")
    if is_sql(question, schema):
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


def is_sql(text: str, schema: Schema | None = None) -> bool:
    """Whether a text is a statement rather than a sentence that begins like one ("Select all customers from Berlin").

    A query without any sign of SQL is one if `schema` has all tables and columns that it names.

    >>> is_sql("Select all customers from Berlin"), is_sql("select count(*) from customers")
    (False, True)
    """
    if STATEMENT.match(text):
        return True
    scopes = query_scopes(text)
    tables = [source for scope in scopes for source in scope.sources.values() if isinstance(source, exp.Table)]
    qualified = any(column.table and column.table in scope.sources for scope in scopes for column in scope.columns)
    if tables and (qualified or _SIGN.search(_REMARK.sub(" ", text))):
        return True
    # "Select name and city from customers"
    lists = any(shown.find(exp.Connector) for scope in scopes for shown in scope.expression.selects)
    called = any(isinstance(table.this, exp.Func) for table in tables)  # "Select name from customers (2023)"
    return schema is not None and bool(tables) and not (lists or called or unknown_names(scopes, schema))
