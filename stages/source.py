"""Stage source: raw data to a checked folder in Spider's layout.

Everything after this stage takes the same road, whether the data are generated (`data=mini`) or an archive of Spider
(`data=spider`). One's own (`data=custom`) are PostgreSQL already: the stages databases and convert pass them on.

Reads the archive of `data.source.archive`, data/custom/, or nothing. Writes data/source/ and metrics/source.json.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Len, Lt

from text2sql.config import read_params, read_seed, section, value_at
from text2sql.data.custom import FOLDER, SHOWN, Custom, own_examples
from text2sql.data.spider import archive, layout
from text2sql.data.spider.examples import PAIRS
from text2sql.data.spider.layout import OFFICIAL_COUNTS
from text2sql.data.sql_eval import SqlEval
from text2sql.errors import UserError
from text2sql.files import repository_root, require_apart, write_json
from text2sql.model.prompt import completion
from text2sql.schema import read_index
from text2sql.stage import run
from text2sql.workspace import CUSTOM, METRICS, SOURCE

REPORT = METRICS / "source.json"


@dataclass(frozen=True)
class Mini:
    """data.source of the embedded data set."""

    kind: str
    questions_per_domain: Annotated[int, Gt(0)]

    def make(self, seed: int) -> dict[str, Any]:
        """Generate the data; returns what the report says of their origin."""
        from text2sql.data.mini import generate_dataset

        shutil.rmtree(SOURCE, ignore_errors=True)
        generate_dataset(SOURCE, seed, self.questions_per_domain)
        return {"kind": self.kind, "seed": seed}


@dataclass(frozen=True)
class Spider:
    """data.source of an archive in Spider's layout."""

    kind: str
    archive: str
    url: str
    sha256: Annotated[str, Len(64, 64)]
    embedded: Annotated[int, Ge(0)]
    ratios: Annotated[float, Ge(0), Lt(1)]

    def make(self, seed: int) -> dict[str, Any]:
        """Unpack the archive; returns what the report says of its origin."""
        path = Path(self.archive)
        actual = archive.obtain_archive(path, self.url, self.sha256)
        archive.extract(path, SOURCE)
        if self.embedded:
            from text2sql.data.mini import add_embedded

            layout.verify_layout(SOURCE)  # what is wrong with the archive is said before anything is added
            add_embedded(SOURCE, seed, self.embedded, self.ratios)
        return {"kind": self.kind, "sha256": actual, "pinned": actual == self.sha256}


Source = Mini | Spider | Custom | SqlEval
KINDS: dict[str, type[Source]] = {"mini": Mini, "spider": Spider, "custom": Custom, "sql_eval": SqlEval}


def read_options(params: dict[str, Any]) -> tuple[Source, int]:
    """data.source as the class of its `kind`, and the seed."""
    kind = value_at(params, "data.source.kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"data.source.kind is {kind!r}", f"allowed: {', '.join(KINDS)}")
    source = section(KINDS[kind], "data.source", params)
    for key in ("archive", "folder", "database", "pairs"):
        if (given := getattr(source, key, None)) is not None:
            require_apart(f"data.source.{key}", given, SOURCE)
    return source, read_seed(params)


def layout_gaps(report: dict[str, Any]) -> Iterator[str]:
    """What the report says is missing, in words for the terminal."""
    for name, official in OFFICIAL_COUNTS.items() if report["kind"] == "spider" else ():
        if (n := report["examples"][name]) != official:
            yield f"{name}: {n:,} examples; the official release has {official:,}"
    for db_id, n in report["missing_databases"].items():
        yield f"database {db_id} is missing: {n} examples cannot be used"
    if report["without_rows"]:
        yield f"databases without rows: {', '.join(report['without_rows'])}"
    for db_id, difference in report["table_mismatches"].items():
        yield f"database {db_id} {difference}, compared with tables.json"
    if report["not_in_tables_json"]:
        yield f"not described in tables.json: {', '.join(report['not_in_tables_json'])}"


def check_watched(source: Custom) -> None:
    """Refuse files of which DVC would not see that they have changed, and say why some are missing in an experiment.

    Raises:
        UserError: database or pairs lie outside data/custom, or are not in the experiment's copy of the repository.
    """
    for key in ("database", "pairs"):
        if (name := getattr(source, key)) is None:
            continue
        if os.path.relpath(name, CUSTOM).startswith(".."):  # as written: what a link leads to is watched too
            what = f"data.source.{key}={name} lies outside {CUSTOM}, where DVC would not see that it has changed"
            raise UserError(what, f"copy it to {CUSTOM}, or link it there: ln -s {name} {CUSTOM}/")
        if not Path(name).exists() and (repository_root() / name).exists():
            what = f"{name} is not in this experiment's copy of the repository, which has only what git has"
            raise UserError(what, f"`git add -f {name}` (no commit is needed), or leave out --temp and --queue")


def unwritable_pairs(source: Custom) -> list[str]:
    """The pairs (by their lines) whose answers constrained decoding never writes, said on the terminal."""
    from text2sql.model.constraint import Constraints

    schemas, constraints = read_index(SOURCE / FOLDER / "schema_index.json"), Constraints()
    try:
        lines = [
            row["id"].replace(PAIRS + "-", "line ")
            for row in own_examples(SOURCE)
            if row["postgres"] and row["id"].startswith(PAIRS)
            and not constraints.of(schemas[row["db_id"]]).accepts(completion(row["postgres"], schemas[row["db_id"]]))
        ]  # fmt: skip
    except UserError as error:  # a schema that is too large for a grammar can be trained on without constraint
        print(f"notice: {error.what.splitlines()[0]}: {error.remedy}")
        return []
    if lines:
        print(
            f"notice: {source.pairs}: {len(lines)} queries are trained on although constrained decoding never writes "
            f"such ones (WITH, OVER, a join along no key ...): {', '.join(lines[:SHOWN])}"
        )
    return lines


def main() -> str:
    options, seed = read_options(read_params())
    if isinstance(options, Custom):
        check_watched(options)
    report = options.make(seed)
    if isinstance(options, Custom):
        report["unwritable"] = unwritable_pairs(options)
    if isinstance(options, Mini | Spider):  # the others are not in Spider's layout, and are checked query by query
        report |= layout.verify_layout(SOURCE)
        for gap in layout_gaps(report):
            print(f"notice: {gap}")
    write_json(REPORT, report)
    return f"{sum(report['examples'].values()):,} examples on {report['databases']} databases in {SOURCE}/"


if __name__ == "__main__":
    run(main)
