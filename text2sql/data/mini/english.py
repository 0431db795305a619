"""English for generated questions: choices in phrasings, articles, plurals, verbs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")

_IRREGULAR = {"person": "people", "child": "children", "man": "men", "woman": "women", "medium": "media"}


def plural(words: str) -> str:
    """The plural of a noun phrase: 'date of birth' to 'dates of birth', 'city' to 'cities'."""
    for inner in (" of ", " per ", " in ", " to ", " at ", " for "):
        head, found, tail = words.partition(inner)
        if found:
            return plural(head) + found + tail
    if not words.isascii() or (words.endswith("s") and not words.endswith(("ss", "us"))):
        return words
    *rest, last = words.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        last += "es"
    else:
        last += "s"
    return " ".join([*rest, last])


def singular(words: str) -> str:
    """The singular of a plain English plural; other words stay."""
    *rest, last = words.split(" ")
    back = {many: one for one, many in _IRREGULAR.items()}
    if last in back:
        last = back[last]
    elif last.endswith("ies") and len(last) > 4:
        last = last[:-3] + "y"
    elif last.endswith(("sses", "uses", "xes", "ches", "shes")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith(("ss", "us", "is")):
        last = last[:-1]
    return " ".join([*rest, last])


def article(words: str) -> str:
    """With its article: 'an average'."""
    return f"{'an' if words[0] in 'aeiou' and not words.startswith(('uni', 'use', 'eu', 'one')) else 'a'} {words}"


def third_person(have: str) -> str:
    """'have written' to 'has written', 'own' to 'owns'."""
    first, _, rest = have.partition(" ")
    regular = first + ("es" if first.endswith(("ch", "sh", "ss", "o", "x")) else "s")
    if first.endswith("y") and first[-2] not in "aeiou":
        regular = first[:-1] + "ies"
    return f"{ ({'have': 'has', 'are': 'is', 'were': 'was'}.get(first, regular)) } {rest}".strip()


def verb_of(text: str, be: str = "are") -> str:
    """A phrase behind a noun as a predicate: 'that cost more' to 'cost more', 'older than 5' to 'are older than 5'."""
    verbs = {"that ": "", "who ": "", "with ": "have ", "without a ": "have no ", "without ": "have no "}
    for start, verb in verbs.items():
        if text.startswith(start):
            return verb + text.removeprefix(start)
    return f"{be} {text}"


def one_of(items: Sequence[Item], rng: random.Random) -> Item:
    """One of `items`, by `random()` alone, which no Python version changes."""
    return items[int(rng.random() * len(items))]


def expand(text: str, rng: random.Random) -> str:
    """Choose one of each `[a|b|c]` in a phrasing."""
    while "[" in text:
        head, _, rest = text.rpartition("[")
        inner, _, tail = rest.partition("]")
        text = head + one_of(inner.split("|"), rng) + tail
    return text


def tidy_sentence(text: str) -> str:
    """Articles, blanks, the capital at the start and the mark at the end."""
    words = text.split()
    for i, (word, following) in enumerate(pairwise(words)):
        if word in ("a", "an"):
            words[i] = article(following).split()[0]
    text = " ".join(words).replace(" ,", ",").replace(" ?", "?").replace(" .", ".")
    if text.startswith(("What", "Which", "How")) and text.endswith(".") and "?" not in text:
        text = text[:-1] + "?"
    return text[0].upper() + text[1:]


def spoken(name: str) -> str:
    """An identifier as words: `unit_price` and `UnitPrice` to 'unit price', `StoreID` to 'store id'."""
    out = ""
    for before, letter in zip(" " + name, name, strict=False):
        if letter in "_- ":
            out += " "
        elif letter.isupper() and (before.islower() or before.isdigit()):
            out += " " + letter
        else:
            out += letter
    return " ".join(out.lower().split())
