"""Whether a schema has what a question asks about, told by the question's words alone.

A question that a database cannot answer has words that neither names, comments nor values of the database have. Words
count less the more of Spider's training databases have questions with them and no such name ("how", "average",
"oldest"). Names of persons and places, numbers and what stands in quotes may be values that nobody sees: they say
nothing. Weights and limit are fitted to Spider's training questions on their own schemas
(`python -m benchmarks.decline --fit`).
"""

from __future__ import annotations

import re

from text2sql.ask.question import WISHES
from text2sql.model.relevant_tables import VALUES, nearness, stems, words_of
from text2sql.model.value_linking import mentioned_values
from text2sql.schema import Schema

#: what a word's stem counts that is of questions as such, not of one database; any other stem counts 1
WORDS = {
    0.25: """alphabetical ascend averag both common contain count descend different distinct highest largest least
    maximum minimum numb ord order return sort total""",
    0.45: """abov across along among associat been belong below between big correspond don fewest first great greatest
    hav high ids informat larg last less list liv locat low lowest mad nev old oldest peopl pleas record
    small smallest som substr t thos thr tim top used without word""",
    0.6: """alphabeticall also amount appear call card china comput creat databas ever except exist expensiv f femal
    frequentl full gend get go got group happen held id includ involv kind latest let linda long longest
    m mak mal man memb nam new often onl own paid participat per person plac popular produc provid receiv
    recent recentl relat result scor serv shar shortest smith start stat sum tak taken tell thes togeth
    twic typ uniqu unit use using valu well work year young youngest""",
    0.75: """aged alphabetic american angel area austin australia availabl award bank bas becom best biggest bought c
    california canada cancell charact charg cheapest check chi colorado com compan complet cost credit d
    dat data david day decreas detail ds dur earl earliest earn english enroll equal exactl exampl
    express few film fiv florida four frequenc frequent gam german given good grand he her his histor
    hour increas info italian jam japan john kingdom la lat leav london los main march mark mat max mon
    nat newest occur off offer onc operat org origin pap part past pennsylvania percentag pet pit pla pop
    privat publish rat ray red report research resident retriev rol run sam san short singl siz son spent
    star steven stor str student tabl tall tallest taught texa through titl took uk universit us usa won
    written wrot york""",
}
WEIGHTS = {stem: weight for weight, stems_of in WORDS.items() for stem in stems_of.split()}
#: a tenth of Spider's training questions has a larger share of unknown words
LIMIT = 0.458
_QUOTED = re.compile(r"""(?<!\w)(['"‘“])(.+?)['"’”](?!\w)""")
_WORD = re.compile(r"[^\W_]+")


def unknown_words(question: str, schema: Schema) -> tuple[float, list[str]]:
    """The share (0 to 1) of the question's words, by weight, that `schema` does not know, and those words.

    >>> from text2sql.schema import Column, Table
    >>> shop = Schema("shop", (Table("customers", "customers", (Column("city", "city", "text"),)),))
    >>> unknown_words("How many customers live in Berlin?", shop), unknown_words("What is dark matter?", shop)
    ((0.31, ['live']), (1.0, ['dark', 'matter']))
    """
    words = set(words_of(schema).rarity)
    named = {stem for match in mentioned_values(question, schema, VALUES) for stem in stems(match.value)}
    known, unknown, spoken = 0.0, 0.0, []
    for match in _WORD.finditer(_QUOTED.sub(" ", question)):
        word, parts = match.group(), stems(match.group())
        if not parts or word.lower() in WISHES or any(character.isdigit() for character in word):
            continue
        weight = WEIGHTS.get(parts[0], 1.0)
        if named.intersection(parts) or any(nearness(part, words) for part in parts):
            known += weight
        elif match.start() == 0 or not word[0].isupper():
            unknown += weight
            spoken.append(word)
    share = unknown / (known + unknown) if known + unknown else 0.0
    return round(share, 3), list(dict.fromkeys(spoken))


def cannot_answer(question: str, schema: Schema) -> str | None:
    """What to say of a question that the database hardly can answer; None of any other."""
    share, words = unknown_words(question, schema)
    if share <= LIMIT:
        return None
    telling = [word for word in words if stems(word)[0] not in WEIGHTS] or words
    return f"this database may not have the answer: nothing in it is called {', '.join(telling[:6])}"
