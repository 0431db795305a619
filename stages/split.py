"""Stage split: verified examples to train, val and test, so that no database is in two of them.

A model that has seen a database's schema in training answers questions on it better than on a new one; only unseen
databases show what it can do for a user. The test split is the data set's own dev part; the validation databases are
taken out of the training part. Generated examples on the embedded domains are trained on besides: no limit is theirs.
Every choice orders by a hash of seed and id, which is the same on every machine, and a smaller limit draws a subset of
what a larger one draws.

Reads data/postgres/examples.jsonl. Writes data/splits/{train,val,test}.jsonl and metrics/split.json.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt, MinLen

from text2sql.config import read_params, read_seed, section, value_at
from text2sql.data.spider.examples import EMBEDDED_FILE, GENERATED, PAIRS, TEST_FILE
from text2sql.errors import UserError
from text2sql.files import read_jsonl, write_json, write_jsonl
from text2sql.stage import run
from text2sql.workspace import EXAMPLES, METRICS, SPLITS

REPORT = METRICS / "split.json"
#: each split, and the option that limits it
LIMITS = {"train": "train_limit", "val": "validation_limit", "test": "test_limit"}
#: the fields of data/splits/*.jsonl, and those of data/postgres/examples.jsonl that they are
FIELDS = {name: name for name in ("id", "db_id", "question", "sql", "hardness", "open")} | {"sql": "postgres"}
Row = dict[str, Any]
Statuses = Annotated[tuple[Literal["verified", "verified_ties", "unverifiable"], ...], MinLen(1)]
Limit = Annotated[int, Gt(0)] | None
Share = Annotated[float, Gt(0), Lt(0.5)]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which examples are taken: by their status, and at most so many in each split (null: all)."""

    train_statuses: Statuses
    test_statuses: Statuses
    train_limit: Limit
    validation_limit: Limit
    test_limit: Limit


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Chosen):
    """data.split"""

    validation_databases: Annotated[int, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class ByQuestion(Chosen):
    """data.split of one database, whose questions are split: `validation_share` and `test_share` of them."""

    by: Literal["question"]
    validation_share: Share
    test_share: Share


def order(seed: int, name: str) -> str:
    """A sort key that shuffles names in a way that depends on `seed` only."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def is_from(row: Row, file: str) -> bool:
    """Whether the example comes from that file of the source."""
    return row["id"].rpartition("-")[0] == Path(file).stem


def draw(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` of `rows`, taken from the databases in turn; in their given order."""
    if limit is None or limit >= len(rows):
        return rows
    by_database: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: order(seed, r["id"])):
        by_database[row["db_id"]].append(row)
    queues = [by_database[db_id] for db_id in sorted(by_database, key=lambda d: order(seed, d))]
    in_turn = [row for row in chain.from_iterable(zip_longest(*queues)) if row is not None]
    chosen = {row["id"] for row in in_turn[:limit]}
    return [row for row in rows if row["id"] in chosen]


def within_limits(parts: dict[str, list[Row]], options: Chosen, seed: int, remedy: str) -> dict[str, list[Row]]:
    """The splits with at most as many examples as the options say.

    Raises:
        UserError: a split would be empty.
    """
    if empty := [name for name, part in parts.items() if not part]:
        raise UserError(f"no example is left for the {empty[0]} split", remedy)
    return {name: draw(part, getattr(options, LIMITS[name]), seed) for name, part in parts.items()}


def without_duplicates(rows: Iterable[Row]) -> list[Row]:
    """The first of the examples that agree in database, question and SQL."""
    first: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        first.setdefault((row["db_id"], row["question"], row["postgres"]), row)
    return list(first.values())


def split_by_question(rows: list[Row], options: ByQuestion, seed: int) -> dict[str, list[Row]]:
    """The three splits of one database's questions; those with the same query, however worded, are in one of them.

    Where people wrote pairs, only these are split; generated questions are trained on, but for those whose query is in
    another split. Questions on other databases are trained on as well; no limit is theirs.

    Raises:
        UserError: there are too few different queries, or a split would be empty.
    """
    usable = without_duplicates(r for r in rows if r["status"] in {*options.train_statuses, *options.test_statuses})
    written = [r for r in usable if is_from(r, PAIRS)]
    own = written or [r for r in usable if is_from(r, GENERATED)]
    ids = {row["id"] for row in own}
    queries = sorted({spelling(r) for r in own}, key=lambda query: order(seed, query))
    if len(queries) < len(LIMITS):
        raise UserError(f"{len(own)} questions have {len(queries)} different queries", "give pairs with other queries")
    test = max(1, round(options.test_share * len(queries)))
    validation = max(1, round(options.validation_share * len(queries)))
    part_of = dict.fromkeys(queries[:test], "test") | dict.fromkeys(queries[test : test + validation], "val")
    parts: dict[str, list[Row]] = {name: [] for name in LIMITS}
    for row in usable:
        name = part_of.get(spelling(row), "train")
        statuses = options.test_statuses if name == "test" else options.train_statuses
        if row["status"] in statuses and (row["id"] in ids or name == "train"):
            parts[name].append(row)
    databases = {row["db_id"] for row in own}
    others = [row for row in parts["train"] if row["db_id"] not in databases]
    parts["train"] = [row for row in parts["train"] if row["db_id"] in databases]
    parts = within_limits(parts, options, seed, "give more pairs, see metrics/source.json")
    return parts | {"train": parts["train"] + others}


def spelling(row: Row) -> str:
    """A query on its database without what does not tell it from others: blanks and case."""
    return f"{row['db_id']}: {' '.join(row['postgres'].lower().split())}"


def split(rows: list[Row], options: SplitOptions, seed: int) -> dict[str, list[Row]]:
    """The three splits, each in source order.

    Raises:
        UserError: a split would be empty.
    """
    test = [r for r in rows if is_from(r, TEST_FILE) and r["status"] in options.test_statuses]
    test_databases = {r["db_id"] for r in rows if is_from(r, TEST_FILE)}
    usable = [r for r in rows if r["db_id"] not in test_databases and r["status"] in options.train_statuses]
    rest = [r for r in usable if not is_from(r, EMBEDDED_FILE)]
    verified = {r["db_id"] for r in rest if r["status"] in options.test_statuses}
    validation = set(sorted(verified, key=lambda d: order(seed, d))[: options.validation_databases])
    parts = {
        "train": without_duplicates(r for r in rest if r["db_id"] not in validation),
        "val": without_duplicates(r for r in rest if r["db_id"] in validation),
        "test": test,
    }
    remedy = "lower data.split.validation_databases, or see metrics/convert.json for what was not verified"
    parts = within_limits(parts, options, seed, remedy)
    embedded = (r for r in usable if is_from(r, EMBEDDED_FILE) and r["db_id"] not in validation)
    return parts | {"train": parts["train"] + without_duplicates(embedded)}


def split_report(rows: list[Row], parts: dict[str, list[Row]]) -> dict[str, Any]:
    """Counts that account for every example: used in one split, or why not."""
    used = {row["id"] for part in parts.values() for row in part}
    unused = Counter(row["status"] for row in rows if row["id"] not in used)
    described = {
        name: {
            "examples": len(part),
            "databases": len({row["db_id"] for row in part}),
            "by_hardness": dict(sorted(Counter(row["hardness"] for row in part).items())),
        }
        for name, part in parts.items()
    }
    return {"examples": len(rows), **described, "unused_by_status": dict(sorted(unused.items()))}


def read_options(params: dict[str, Any]) -> tuple[SplitOptions | ByQuestion, int]:
    """data.split, as the class that fits it, and the seed."""
    given = value_at(params, "data.split")
    kind = ByQuestion if isinstance(given, dict) and "by" in given else SplitOptions
    return section(kind, "data.split", params), read_seed(params)


def main() -> str:
    options, seed = read_options(read_params())
    rows = list(read_jsonl(EXAMPLES))
    parts = split(rows, options, seed) if isinstance(options, SplitOptions) else split_by_question(rows, options, seed)
    shutil.rmtree(SPLITS, ignore_errors=True)
    for name, part in parts.items():
        # Pairs of one's own are not looked at for what they leave open.
        written = ({name: row.get(key, False) for name, key in FIELDS.items()} for row in part)
        write_jsonl(SPLITS / f"{name}.jsonl", written)
    write_json(REPORT, split_report(rows, parts))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    return f"{sizes} of {len(rows):,} examples in {SPLITS}/"


if __name__ == "__main__":
    run(main)
