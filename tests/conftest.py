"""Shared fixtures: a miniature data set in Spider's layout, and the real Spider where SPIDER_ARCHIVE names it."""

import fcntl
import itertools
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import dvc  # noqa: F401 its loggers keep the streams of the first import: these last, a single test's do not
import pytest

from text2sql.model.process import prepare
from text2sql.postgres import server as postgres_server

# The operations of the tiny model are too small to share: with two threads its training takes twice the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
prepare()  # as stages do: otherwise torch's threads spin, and two test processes slow each other down


def is_roomy(folder: Path) -> bool:
    """Whether programs can run there, and 4 GB are free: the tests of a run take one."""
    if not folder.is_dir():
        return False
    about = os.statvfs(folder)
    return not about.f_flag & os.ST_NOEXEC and about.f_bavail * about.f_frsize > 4 * 2**30


# What tests write lies in memory where there is room: on a disk, a copy of a thousand files costs ten times the
# processor time, and each of MLflow's commits waits until it is written.
USUAL = Path(tempfile.gettempdir())
MEMORY = next(filter(is_roomy, [Path("/dev/shm")]), USUAL)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

#: The files that take longest, the longest first. `make test` hands out whole files, so that what the tests of a file
#: share is made once, in the order of collection: a long one at the end would keep one process busy alone.
LONGEST = (
    "app/test_demo.py", "test_pipeline.py", "bucket/test_faults.py", "ask/test_ask.py", "track/test_track.py",
    "bucket/test_sharing.py", "track/test_browser.py", "stages/test_score.py", "model/test_gpu_benchmark.py",
    "postgres/test_sandbox_attacks.py", "test_conf.py", "bucket/test_verify.py", "data/test_custom.py",
    "model/test_generation.py", "model/test_training.py", "release/test_before.py", "model/test_preflight.py",
    "ask/test_serve.py", "postgres/test_server.py", "model/test_packing.py", "stages/test_predict.py",
    "conversion/test_dialect.py", "conversion/test_conversion.py", "model/test_threads.py", "model/test_wheels.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(autouse=True)
def same_chance():
    """What a test draws does not depend on the tests that its worker ran before."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def one_initdb():
    """initdb takes four fifths of the start of a server: it runs once a process, and each server copies its files."""
    run, temporary = postgres_server._run, postgres_server._temporary
    place = Path(tempfile.mkdtemp(prefix="text2sql-template-", dir=MEMORY))

    def in_memory():
        return MEMORY if Path(tempfile.gettempdir()) == USUAL else temporary()

    shutil.chown(place, postgres_server._identity().get("user"))

    def copy_cluster(command, root):
        program, *words = map(str, command)
        if Path(program).name != "initdb":
            return run(command, root)
        settings = [setting for flag, setting in itertools.pairwise(words) if flag == "-c"]
        if not any(place.iterdir()):
            plain = [word for word in words if word != "-c" and word not in settings]
            run([program, *plain[: plain.index("-D")], "-D", place / "data", *plain[plain.index("-D") + 2 :]], root)
        target = Path(words[words.index("-D") + 1])
        run(["cp", "-a", place / "data", target], root)
        with (target / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, _, value in (s.partition("=") for s in settings))
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_server, "_run", copy_cluster)
        patch.setattr(postgres_server, "_temporary", in_memory)
        yield
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; the test is skipped, saying so, where there is none. No longer than a module: while it runs,
    its thread has an event loop, and `asyncio.run` refuses."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here: `.ci/browser` installs it as root")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all processes of the test run. No test may change it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory) -> Path:
    """A release of the tiny model with its base model and params.yaml."""
    from tests.tiny_release import make_release

    return made_once(tmp_path_factory, "tiny", make_release) / "models/release"


SHOP = """
CREATE TABLE shop (shop_id INTEGER PRIMARY KEY, Name TEXT, City TEXT);
CREATE TABLE sale (sale_id INTEGER PRIMARY KEY, shop_id INTEGER REFERENCES shop(shop_id), amount REAL);
INSERT INTO shop VALUES (1, 'Corner', 'Lyon'), (2, 'Market', 'Nice');
INSERT INTO sale VALUES (1, 1, 9.5), (2, 1, 3.25), (3, 2, 20.0);
"""


def write_layout(root: Path, databases: dict[str, str], examples: dict[str, list[tuple[str, str, str]]]) -> Path:
    """A folder in Spider's layout: db_id -> script, and file stem -> (db_id, question, sql)."""
    tables = []
    for db_id, script in databases.items():
        path = root / "database" / db_id / f"{db_id}.sqlite"
        path.parent.mkdir(parents=True)
        connection = sqlite3.connect(path)
        connection.executescript(script)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        connection.close()
        entry = {"db_id": db_id, "table_names_original": names, "column_names_original": [[-1, "*"]]}
        tables.append(entry)
    (root / "tables.json").write_text(json.dumps(tables))
    for stem in ("train_spider", "train_others", "dev"):
        rows = [{"db_id": d, "question": q, "query": s} for d, q, s in examples.get(stem, [])]
        (root / f"{stem}.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def layout(tmp_path):
    """A small valid layout with one training and one dev database."""
    return write_layout(
        tmp_path / "spider_data",
        {"shop": SHOP, "market": SHOP},
        {
            "train_spider": [("shop", "How many shops are there?", "SELECT count(*) FROM shop")],
            "dev": [("market", "List the cities.", "SELECT City FROM shop")],
        },
    )


@pytest.fixture(scope="session")
def spider_archive() -> Path:
    """The real Spider archive; the test is skipped, saying so, where SPIDER_ARCHIVE does not name it."""
    path = os.environ.get("SPIDER_ARCHIVE")
    if not path or not Path(path).exists():
        pytest.skip("SPIDER_ARCHIVE does not name an archive of Spider")
    return Path(path)
