"""What the bucket costs: DVC against the plain client, side by side; and twenty kills, after which nothing is lost.

    python benchmarks/storage.py [--megabytes 560] [--repeats 3] [--kills 20]
    python benchmarks/storage.py --project .        # everything that this clone's dvc.lock names, instead

`dvc push` into an empty bucket and `dvc pull` in a fresh clone, as commands, start to end, against a script that copies
the same files with google-cloud-storage to and from the same emulator (fake-gcs-server on loopback), one after the
other. By default the bytes are in the shape of the default run: a base model of 540 MB, an adapter of 10 MB twice, and
some data. Then server and client are killed at random moments of `dvc push` and `dvc pull`; a recovery is: `text2sql
push` and `text2sql pull --all`, once each, then all bytes are equal and every object is what its name says.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.bucket.emulators import Emulator, whole  # noqa: E402
from text2sql.files import sha256_tree  # noqa: E402

#: bytes of noise made at a time
BLOCK = 50_000_000
PLAIN = """
import sys
from pathlib import Path
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
direction, bucket, folder = sys.argv[1:]
bucket = storage.Client(project="test", credentials=AnonymousCredentials()).bucket(bucket)
folder = Path(folder)
if direction == "up":
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        bucket.blob(f"plain/{path.relative_to(folder).as_posix()}").upload_from_filename(str(path))
else:
    for blob in bucket.list_blobs(prefix="plain/"):
        target = folder / blob.name.removeprefix("plain/")
        target.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(str(target))
"""


Cost = tuple[float, float]  # seconds by the clock, seconds of processor of the command (the server's not counted)


def run(root: Path, *command: str) -> Cost:
    """What a command costs in `root`; it has to succeed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processor


def dvc(root: Path, *words: str) -> Cost:
    return run(root, sys.executable, "-m", "dvc", *words, "-q")


def git(root: Path, *words: str) -> None:
    identity = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
    run(root, "git", *identity, *words)


def synthetic(root: Path, megabytes: int) -> None:
    """A DVC project whose outputs have the default run's shape and size."""
    root.mkdir()
    noise = random.Random(0)
    small = {f"data/splits/{name}.jsonl": 200_000 for name in ("train", "val", "test")}
    small |= {f"data/postgres/databases/{number}.sql": 100_000 for number in range(40)}
    small |= {f"models/{name}/adapter_model.safetensors": 10_000_000 for name in ("adapter", "release")}
    sizes = {"models/base/model.safetensors": megabytes * 1_000_000 - sum(small.values()), **small}
    for name, size in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("wb") as stream:
            for offset in range(0, size, BLOCK):
                stream.write(noise.randbytes(min(BLOCK, size - offset)))
    git(root, "init", "-q", "-b", "main")
    dvc(root, "init")
    outs = ["data/splits", "data/postgres/databases", "models/base", "models/adapter", "models/release"]
    dvc(root, "add", *outs)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "data")


def project(source: Path, root: Path) -> None:
    """A clone of a real project, with its cache, everything checked out."""
    git(root.parent, "clone", "-q", str(source.resolve()), str(root))
    shutil.copytree(source / ".dvc" / "cache", root / ".dvc" / "cache")
    dvc(root, "checkout")


def point(root: Path, bucket: str) -> None:
    """Write the remote into .dvc/config, committed, so that clones have it."""
    config = root / ".dvc" / "config"
    config.write_text(
        f"[core]\n    remote = bench\n['remote \"bench\"']\n    url = gs://{bucket}/dvc\n    verify = true\n"
    )
    git(root, "commit", "-q", "-a", "-m", "remote")


def data(root: Path) -> dict[str, str]:
    """Checksums of what DVC tracks in `root`."""
    tracked = ("data", "models")
    return {f"{name}/{path}": value for name in tracked for path, value in sha256_tree(root / name).items()}


def speed(work: Path, origin: Path, emulator: Emulator, repeats: int) -> None:
    """Print what push and pull cost, DVC's and the plain client's, and their ratio."""
    plain = work / "plain.py"
    plain.write_text(PLAIN)
    stored = work / "stored"
    shutil.copytree(origin / ".dvc" / "cache" / "files", stored)
    sizes = [path.stat().st_size for path in stored.rglob("*") if path.is_file()]
    print(f"{len(sizes)} objects, {sum(sizes) / 1e6:.0f} MB, {os.cpu_count()} cores, fake-gcs-server on loopback")
    costs: dict[str, list[tuple[Cost, Cost]]] = defaultdict(list)
    for number in range(-1, repeats):  # -1 warms up and is not counted
        emulator.bucket(bucket := f"speed-{number + 1}")
        root, copy, target = work / f"origin-{number}", work / f"clone-{number}", work / f"target-{number}"
        shutil.copytree(origin, root)
        point(root, bucket)
        once = {"push": (dvc(root, "push"), run(work, sys.executable, str(plain), "up", bucket, str(stored)))}
        for name, link in (("pull", "copy"), ("pull, hard links", "hardlink")):
            git(work, "clone", "-q", str(root), str(copy))
            dvc(copy, "config", "--local", "cache.type", link)
            once[name] = dvc(copy, "pull"), run(work, sys.executable, str(plain), "down", bucket, str(target))
            assert data(copy) == data(origin)
            assert sha256_tree(target) == sha256_tree(stored)
            shutil.rmtree(copy)
            shutil.rmtree(target)
        for name, pair in once.items():
            costs[name] += [pair] * (number >= 0)
        for folder in (root, emulator.folder / bucket):
            shutil.rmtree(folder, ignore_errors=True)
    report(costs, repeats)


def report(costs: dict[str, list[tuple[Cost, Cost]]], repeats: int) -> None:
    """The table: medians, and the median of the ratios of what ran side by side."""
    print(
        f"median of {repeats:<10}{'dvc s':>8}{'plain s':>9}{'ratio':>7}{'dvc cpu s':>12}{'plain cpu s':>13}{'ratio':>7}"
    )
    for name, pairs in costs.items():
        row = f"{name:20}"
        for kind, widths in ((0, (8, 9)), (1, (12, 13))):
            ours, theirs = ([cost[kind] for cost in column] for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            row += f"{statistics.median(ours):{widths[0]}.2f}{statistics.median(theirs):{widths[1]}.2f}{ratio:7.2f}"
        print(row)


def kills(work: Path, origin: Path, emulator: Emulator, count: int, seed: int) -> int:
    """Kill server or client at random in push or pull, `count` times; returns how many recovered."""
    chance = random.Random(seed)
    expected, recovered = data(origin), 0
    for number in range(count):
        bucket = f"kill-{number}"
        emulator.bucket(bucket)
        root, copy = work / f"kill-origin-{number}", work / f"kill-clone-{number}"
        shutil.copytree(origin, root)
        point(root, bucket)
        direction, victim = chance.choice(["push", "pull"]), chance.choice(["server", "client"])
        if direction == "pull":
            dvc(root, "push")
        git(work, "clone", "-q", str(root), str(copy))
        place = root if direction == "push" else copy
        after = killed(place, direction, victim, emulator, chance)
        whole(emulator, bucket)
        run(root, sys.executable, "-m", "text2sql.cli", "push")
        run(copy, sys.executable, "-m", "text2sql.cli", "pull", "--all")
        whole(emulator, bucket)
        good = data(copy) == expected
        recovered += good
        print(f"{number + 1:3}  {direction}, {victim} killed {after:.2f} s in: {'recovered' if good else 'LOST'}")
        for folder in (root, copy, emulator.folder / bucket):
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{recovered} of {count} recovered, bytes equal")
    return recovered


def killed(place: Path, direction: str, victim: str, emulator: Emulator, chance: random.Random) -> float:
    """Run `dvc push` or `pull` in `place` and kill it or the server while it talks; seconds since it began to."""
    command = [sys.executable, "-m", "dvc", direction, "-q"]
    client = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not talks(client, emulator):
        if client.poll() is not None:
            raise RuntimeError(f"dvc {direction} ended without a word to the server")
        time.sleep(0.01)
    after = chance.uniform(0, 1.2)
    time.sleep(after)
    if client.poll() is not None:
        raise RuntimeError(f"dvc {direction} was over: more --kill-megabytes are needed on this machine")
    if victim == "server":
        emulator.kill()
        time.sleep(chance.uniform(0, 1))
    client.kill()
    client.wait()
    if victim == "server":
        emulator.start()
    return after


def talks(client: subprocess.Popen[bytes], emulator: Emulator) -> bool:
    """Whether the client has a connection to the server."""
    try:
        lines = psutil.Process(client.pid).net_connections("tcp4")
    except psutil.Error:
        return False
    return any(line.raddr and line.raddr.port == emulator.port for line in lines)


@contextmanager
def serving(folder: Path) -> Iterator[Emulator]:
    emulator = Emulator("go", folder).start()
    os.environ |= emulator.environment | {"DVC_NO_ANALYTICS": "true", "DVC_SITE_CACHE_DIR": str(folder / "site")}
    # Both sides start from compiled modules, whatever the environment says: compiling dvc's takes longer than copying.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    try:
        yield emulator
    finally:
        emulator.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, help="a clone in which the pipeline has run")
    parser.add_argument("--megabytes", type=int, default=560)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-megabytes", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "buckets") as emulator:
        work = Path(folder)
        if options.repeats:
            if options.project:
                project(options.project, work / "origin")
            else:
                synthetic(work / "origin", options.megabytes)
            speed(work, work / "origin", emulator, options.repeats)
        if options.kills:
            synthetic(work / "small", options.kill_megabytes)
            lost = options.kills - kills(work, work / "small", emulator, options.kills, options.seed)
            sys.exit(lost)


if __name__ == "__main__":
    main()
