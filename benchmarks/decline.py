"""Questions that a database cannot answer: how many are told from those that it can, by their words alone.

    python -m benchmarks.decline            # Spider's dev and sql-eval's two lists, by `ask.answerable`
    python -m benchmarks.decline --fit      # WORDS and LIMIT of ask/answerable.py, from Spider's training questions

Needs the outputs of the stages databases and convert for `data=spider`, and the files of sql-eval (--folder, or as in
conf/data/sql_eval.yaml). Cannot be answered: the 105 questions of idk.csv, and dev's questions asked of another
database. Can be: dev's questions of their own databases, and sql-eval's 190 without the instructions that stand behind
them. No model is needed. The last lines move the limit to where a tenth of either list is declined: they describe the
measure, and the limit stays as fitted.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.sql_eval import configured
from text2sql.ask.answerable import LIMIT, unknown_words
from text2sql.data.custom import FOLDER
from text2sql.errors import UserError, exits
from text2sql.files import read_jsonl
from text2sql.model.relevant_tables import nearness, stems, words_of
from text2sql.schema import Schema, read_index
from text2sql.workspace import EXAMPLES, INDEX

#: training questions of a database that the limit is fitted to, at most: none should decide alone
FITTED = 40
#: at most this share of the questions that can be answered may be declined
DECLINED = 0.1
#: least number of databases with a stem that they do not have as a name, and what it counts
LEVELS = {40: 0.25, 15: 0.45, 6: 0.6, 3: 0.75}
Asked = tuple[str, Schema]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit words and limit to the training questions")
    parser.add_argument("--folder", help="where the files of sql-eval are (default: as in conf/data/sql_eval.yaml)")
    options = parser.parse_args()
    if not EXAMPLES.is_file():
        raise UserError("there are no examples", "run `dvc exp run convert -S data=spider` first")
    if options.fit:
        fit(spider("train"))
        return
    dev = spider("dev")
    shares = {"Spider dev": show("Spider dev", dev)}
    show("Spider dev, asked of another database", elsewhere(dev))
    data = configured(options.folder)
    with tempfile.TemporaryDirectory() as folder:
        data.make(1, Path(folder))
        schemas = read_index(Path(folder) / FOLDER / "schema_index.json")
    for name, title in (("questions_gen_postgres.csv", "sql-eval"), ("idk.csv", "sql-eval, without an answer")):
        with (Path(data.folder) / name).open(newline="") as lines:
            shares[title] = show(title, [(row["question"], schemas[row["db_name"]]) for row in csv.DictReader(lines)])
    without = shares.pop("sql-eval, without an answer")
    for title, answerable in shares.items():
        limit = sorted(answerable, reverse=True)[int(len(answerable) * DECLINED)]
        reached = sum(share > limit for share in without) / len(without)
        print(
            f"with a limit of {limit}, at which {DECLINED:.0%} of {title} are declined: {reached:.1%} without an answer"
        )


def spider(split: str) -> list[Asked]:
    """The questions of a split with the schemas of their databases."""
    schemas = read_index(INDEX)
    return [
        (example["question"], schemas[example["db_id"]])
        for example in read_jsonl(EXAMPLES)
        if example["id"].startswith(split) and example["postgres"]
    ]


def elsewhere(asked: list[Asked]) -> list[Asked]:
    """Each question with the schema of another database of the list, drawn with a fixed seed."""
    draw, schemas = random.Random(0), list({schema.db_id: schema for _, schema in asked}.values())
    return [(q, draw.choice([other for other in schemas if other.db_id != own.db_id])) for q, own in asked]


def show(title: str, asked: Iterable[Asked]) -> list[float]:
    """A line: how many of the questions are declined. The share of unknown words of each."""
    shares = [unknown_words(question, schema)[0] for question, schema in asked]
    declined = sum(share > LIMIT for share in shares)
    print(f"{title + ':':40} {declined:5} of {len(shares):5} declined, {declined / len(shares):.1%}")
    return shares


def fit(asked: list[Asked]) -> None:
    """Print the words that are of questions as such, and the share of unknown words that a tenth of `asked` exceeds."""
    unnamed, known = defaultdict(set), {}
    for question, schema in asked:
        known.setdefault(schema.db_id, set(words_of(schema).rarity))
        unnamed[schema.db_id] |= {stem for stem in stems(question) if not nearness(stem, known[schema.db_id])}
    count = Counter(stem for stems_of in unnamed.values() for stem in stems_of if stem.isalpha())
    floor = 10**9
    for least, weight in LEVELS.items():
        print(f"{weight}: {' '.join(sorted(stem for stem, n in count.items() if least <= n < floor))}")
        floor = least
    by_database = defaultdict(list)
    random.Random(0).shuffle(asked)
    for question, schema in asked:
        by_database[schema.db_id].append((question, schema))
    shares = [unknown_words(*pair)[0] for pairs in by_database.values() for pair in pairs[:FITTED]]
    print(f"LIMIT = {np.quantile(shares, 0.9):.3f}")


if __name__ == "__main__":
    with exits("decline"):
        main()
