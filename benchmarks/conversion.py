"""What docs/CONVERSION.md claims, measured again: time and memory, proof, length, and what each rule is good for.

    python benchmarks/conversion.py data/source              # after `dvc repro source` with data=spider
    python benchmarks/conversion.py data/source --every 5    # the funnel on every fifth query only
    python benchmarks/conversion.py --rules                  # the rules and their first cases, as Markdown

The stages run in a scratch folder. Writes docs/conversion.png (the funnel) with --plot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import sqlglot

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from text2sql.conversion.databases.sqlite import connect_sqlite  # noqa: E402
from text2sql.conversion.dialect import RULES, Rejected, convert_tree  # noqa: E402
from text2sql.conversion.engines import as_stored, connect_as_text, limit, run_postgres, run_sqlite  # noqa: E402
from text2sql.data.spider.examples import database_file  # noqa: E402
from text2sql.files import read_jsonl  # noqa: E402
from text2sql.postgres.compare import same_rows  # noqa: E402
from text2sql.postgres.load import loaded  # noqa: E402
from text2sql.postgres.server import Server, server  # noqa: E402
from text2sql.schema import Schema, read_index  # noqa: E402

STEPS = ["as it is", "sqlglot", *(rule.__name__ for rule in RULES)]


class Watch:
    """Peak memory (PSS, so that shared pages count once) and processor time of a command and the server it starts."""

    def __init__(self, temporary: Path) -> None:
        self.temporary, self.peak, self.cpu = str(temporary), 0, {}

    def look(self) -> None:
        """Sum up the processes that have our temporary directory in their environment or command, and their children:
        the server drops its starter's environment, and its backends show no directory."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if self.temporary in line or process.environ().get("TMPDIR") == self.temporary:
                    found.update({p.pid: p for p in (process, *process.children(recursive=True))})
            except psutil.Error:
                continue
        total = 0
        for pid, process in found.items():
            try:
                total += process.memory_full_info().pss
                self.cpu[pid] = sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        self.peak = max(self.peak, total)


def stages(source: Path, scratch: Path) -> None:
    """Run databases and convert on `source` in `scratch`; prints seconds and memory."""
    (scratch / "data").mkdir()
    (scratch / "data/source").symlink_to(source.resolve())
    shutil.copy(ROOT / "params.yaml", scratch)
    watch, total = Watch(Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))), 0.0
    environment = {**os.environ, "TMPDIR": watch.temporary, "PYTHONPATH": str(ROOT)}
    Path(watch.temporary).chmod(0o755)
    for stage in ("databases", "convert"):
        started = time.perf_counter()
        running = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=scratch, env=environment)
        while running.poll() is None:
            watch.look()
            time.sleep(0.3)
        total += time.perf_counter() - started
        if running.returncode:
            sys.exit(f"the stage {stage} failed")
    shutil.rmtree(watch.temporary)
    print(f"\ndatabases + convert: {total:.1f} s wall, {sum(watch.cpu.values()):.1f} s of processor time,")
    print(f"peak memory {watch.peak / 2**20:.0f} MiB with the server, load average {os.getloadavg()[0]:.1f}\n")


def proof(scratch: Path) -> list[dict]:
    """Print the rates, the length and every rejected example; returns the examples."""
    found = json.loads((scratch / "metrics/convert.json").read_text())
    lines = list(read_jsonl(scratch / "data/postgres/examples.jsonl"))
    print(f"examples {found['examples']}, convertible {found['convertible']}, proven or rejected {found['comparable']}")
    for name, count in found["status"].items():
        print(f"  {name:17} {count:6}")
    rates = {name: found[f"{name}_rate"] for name in ("rejected", "verified", "ties")}
    print(", ".join(f"{name} {rate:.2%}" for name, rate in rates.items()) + " (verified: with ties)")
    generated = found["generated"]
    if generated["examples"]:
        rate = generated["equal"] / generated["examples"]
        print(
            f"generated rows: {rate:.2%} of {generated['examples']} equal, {generated['with_rows']} of them with rows"
        )
    _lengths(lines)
    for row in lines:
        if row["status"] == "rejected":
            print(f"rejected {row['id']} ({row['db_id']}): {row['reason']}\n    {row['sqlite']}")
    return lines


def _lengths(lines: list[dict]) -> None:
    """Print the median of the PostgreSQL query's length over the SQLite query's, in tokens of the base model."""
    from tokenizers import Tokenizer

    path = ROOT / "models/base/tokenizer.json"
    pairs = [(r["postgres"], " ".join(r["sqlite"].rstrip("; ").split())) for r in lines if r["postgres"]]
    if path.exists():
        tokenizer = Tokenizer.from_file(str(path))
        ratios = [len(tokenizer.encode(a).ids) / len(tokenizer.encode(b).ids) for a, b in pairs]
        print(f"tokens of the base model, PostgreSQL over SQLite: median {statistics.median(ratios):.3f}")
    else:
        print("models/base is not there (dvc repro base_model): length in characters only")
    print(f"characters, PostgreSQL over SQLite: median {statistics.median(len(a) / len(b) for a, b in pairs):.3f}\n")


def _texts(query: str, schema: Schema) -> list[str | None]:
    """The query after each step; None where the step rejects it."""

    def attempt(make: Callable[[], str]) -> str | None:
        try:
            return make()
        except (Rejected, sqlglot.errors.SqlglotError):
            return None

    plain = attempt(lambda: sqlglot.transpile(query, read="sqlite", write="postgres")[0])
    partial = [attempt(lambda n=n: convert_tree(query, schema, RULES[:n]).sql) for n in range(1, len(RULES) + 1)]
    return [query, plain, *partial]


def funnel_of_database(job: tuple[str, list[str], Schema, Server, Path, Path]) -> Counter[str]:
    """How many of the queries give the same rows after each step."""
    db_id, queries, schema, running, source, dump = job
    same: Counter[str] = Counter()
    with (
        closing(connect_sqlite(database_file(source, db_id))) as sqlite,
        closing(connect_as_text(running.dsn())) as connection,
        dump.open(encoding="utf-8", newline="\n") as lines,
        loaded(connection, schema.db_id, lines),
    ):
        limit(connection, 10)
        for query in queries:
            wanted, known = run_sqlite(sqlite, query, 10), {None: False}
            for step, text in zip(STEPS, _texts(query, schema), strict=True):
                if text not in known:
                    answer = run_postgres(connection, text)
                    rows = as_stored(wanted.rows, answer.rows)
                    known[text] = not answer.error and same_rows(rows, answer.rows, ordered=False)
                same[step] += known[text]
    return same


def funnel(lines: list[dict], source: Path, scratch: Path, every: int) -> dict[str, float]:
    """Print and return the share of queries with the same rows after each step."""
    schemas = read_index(scratch / "data/postgres/schema_index.json")
    queries: dict[str, dict[str, None]] = {}
    comparable = [r for r in lines if r["status"].startswith("verified") or (r["status"] == "rejected")]
    for row in comparable[::every]:
        queries.setdefault(row["db_id"], {})[row["sqlite"]] = None
    with server() as running, ProcessPoolExecutor(os.cpu_count()) as workers:
        dumps = scratch / "data/postgres/databases"
        jobs = [(d, list(q), schemas[d], running, source, dumps / f"{d}.sql") for d, q in queries.items()]
        same = sum(workers.map(funnel_of_database, jobs), Counter())
    total = sum(map(len, queries.values()))
    print(f"\n| after | same rows, of {total:,} distinct queries |\n| --- | --- |")
    shares = {step: same[step] / total for step in STEPS}
    for step, share in shares.items():
        print(f"| {step} | {share:.1%} |")
    return shares


def plot(shares: dict[str, float], target: Path) -> None:
    """Draw the funnel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 6))
    names = list(shares)[::-1]
    axes.barh(names, [100 * shares[name] for name in names], color="#336791")
    axes.set_xlabel("queries with the same rows in PostgreSQL, %")
    axes.set_xlim(0, 100)
    for place, name in enumerate(names):
        axes.text(
            100 * shares[name] - 1, place, f"{100 * shares[name]:.1f}", va="center", ha="right", color="white", size=7
        )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    print(f"{target}: written")


def rules() -> None:
    """Print each rule with its reason and cases, as Markdown."""
    from tests.conversion.dialect_cases import CASES
    from text2sql.conversion.dialect import RULES_FOR_FIRST_ROWS

    for rule in RULES_FOR_FIRST_ROWS:
        print(f"### {rule.__name__}\n\n{' '.join((rule.__doc__ or '').split())}\n\n```sql")
        for sqlite, postgres in sorted(CASES[rule.__name__], key=lambda case: len(case[0]) + len(case[1]))[:3]:
            print(f"{sqlite}  -- SQLite\n{postgres}\n")
        print("```\n")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, help="a folder in Spider's layout")
    parser.add_argument("--every", type=int, default=1, help="the funnel on every Nth example")
    parser.add_argument("--plot", action="store_true", help="draw the funnel to docs/conversion.png")
    parser.add_argument("--rules", action="store_true", help="print the rules and stop")
    options = parser.parse_args()
    if options.rules:
        rules()
        return
    if options.source is None:
        parser.error("which source? for instance data/source")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        stages(options.source, scratch)
        lines = proof(scratch)
        shares = funnel(lines, options.source, scratch, options.every)
    if options.plot:
        plot(shares, ROOT / "docs/conversion.png")


if __name__ == "__main__":
    main()
