"""Do queries mean the same with tables' names in place of aliases? Every gold query is run both ways and compared.

    python dev/qualifiers.py [FOLDER]

FOLDER (data/postgres) is what the stages databases and convert have made: examples.jsonl and databases/.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from text2sql.files import read_jsonl
from text2sql.model.qualifiers import by_table
from text2sql.postgres.compare import strict
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.schema import read_index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/postgres"))
    folder = parser.parse_args().folder
    schemas = read_index(folder / "schema_index.json")
    pairs = {
        (row["db_id"], row["postgres"], by_table(row["postgres"], schemas[row["db_id"]]))
        for row in read_jsonl(folder / "examples.jsonl")
        if row["postgres"]
    }
    changed = sorted(pair for pair in pairs if pair[1] != pair[2])
    counts: Counter[str] = Counter()
    with loaded_sandbox(sorted({pair[0] for pair in changed}), folder / "databases", Limits(), 2) as sandbox:
        for database, before, after in changed:
            results = [sandbox.execute(database, sql) for sql in (before, after)]
            same = strict(*results, before).correct
            counts["the same result" if same else "ANOTHER RESULT"] += 1
            counts["  of these with rows"] += bool(same and results[0].rows)
            if not same:
                print(f"{database}: {before}\n    {after}\n    {[result.error for result in results]}")
    print(f"{len(pairs):,} different queries, {len(changed):,} are written in another way")
    print(f"  {sum(bool(re.search(r'AS t[0-9]', pair[2])) for pair in pairs):,} keep an alias")
    for what, count in counts.items():
        print(f"{what}: {count:,}")


if __name__ == "__main__":
    main()
