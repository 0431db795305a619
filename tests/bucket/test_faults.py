"""What goes wrong between here and the bucket: nothing is lost, nothing is half there, and two lines say what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests import processes
from tests.bucket.conftest import clone, commit, dvc, git
from tests.bucket.emulators import Emulator, Gate, whole
from text2sql.bucket import configure, explain, open_cache, probe, pull_outputs, push_outputs, settle, verify_clone
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.release.versions import pull as pull_release

FORBIDDEN = (403, "tester@example.org does not have storage.objects.create access to the Google Cloud Storage object.")
ANONYMOUS = (401, "Anonymous caller does not have storage.objects.list access to the Google Cloud Storage bucket.")
EXPIRED = (401, "Invalid Credentials")


@pytest.fixture
def gate(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A proxy before the emulator; clients use it."""
    proxy = Gate(emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    yield proxy
    proxy.stop()
    if emulator.process is None or emulator.process.poll() is not None:
        emulator.start()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("HttpError: Forbidden, 403", "permission denied"),
        ("google.api_core.exceptions.ClientError: 404 GET https://host/b/name", "not found"),
        ("ClientResponseError: status 503.", "cannot be reached"),
        ("aiohttp: 401, message='no'", "credentials are missing"),
        ("ERROR: failed to push data to the cloud - 404 files failed to upload", None),
        ("ERROR: failed to push data to the cloud - 403 files failed to upload", None),
        ("ERROR: failed to read 'data/500.sql'", None),
        ("ERROR: failed to read data/404/x and a-403-b", None),
    ],
)
def test_a_number_is_a_status_only_where_it_stands_as_one(text: str, what: str | None) -> None:
    problem = explain(text, "gs://name")
    assert problem is None if what is None else what in str(problem)


def two_lines(error: UserError) -> bool:
    return len(str(error).splitlines()) == 2 and len(str(error)) < 400


@pytest.mark.parametrize(
    ("refuse", "says"),
    [
        ({"POST": FORBIDDEN}, "permission denied.*objectUser"),
        ({"GET": FORBIDDEN, "POST": FORBIDDEN}, "permission denied.*objectViewer"),
        ({"GET": ANONYMOUS, "POST": ANONYMOUS}, "no credentials were found.*gcloud auth application-default login"),
        ({"GET": (503, "Service Unavailable")}, "cannot be reached.*what has arrived is kept"),
    ],
)
def test_refused(gate: Gate, bucket: str, refuse: dict[str, tuple[int, str]], says: str) -> None:
    gate.refuse = refuse
    with pytest.raises(UserError, match=f"(?s){says}") as caught:
        probe(f"gs://{bucket}/dvc", write=True)
    assert two_lines(caught.value)


def test_a_clone_without_access_can_still_be_whole(alice: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(alice)
    gate.refuse = {"GET": FORBIDDEN}
    with pytest.raises(UserError, match="permission denied"):
        pull_outputs()
    lines, findings = verify_clone()
    assert "not checked" in "\n".join(lines)
    assert findings == []


def test_a_bucket_that_can_be_read_only(alice: Path, gate: Gate, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make remote` says so, and the clone can pull from it."""
    monkeypatch.chdir(alice)
    gate.refuse = {"POST": FORBIDDEN}
    assert "pull only" in configure(f"gs://{bucket}/dvc")
    gate.refuse = {"DELETE": FORBIDDEN}
    assert "pull and push" in configure(f"gs://{bucket}/dvc"), "who may add but not delete can push"
    gate.refuse = {"GET": FORBIDDEN, "POST": FORBIDDEN}
    before = (alice / ".dvc" / "config.local").read_text()
    with pytest.raises(UserError, match="permission denied"):
        configure(f"gs://{bucket}/elsewhere")
    assert (alice / ".dvc" / "config.local").read_text() == before, "what does not work is not configured"


@pytest.mark.parametrize("address", ["gs://no-bucket-of-that-name/dvc", "s3://x/y", "", "gs://"])
def test_no_such_bucket(made: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.chdir(made)
    with pytest.raises(UserError) as caught:
        configure(address)
    assert two_lines(caught.value)
    assert not Path(".dvc/config.local").exists()


def test_a_new_clone_keeps_a_bucket_that_it_can_read(
    alice: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alice)
    assert settle() == ""
    assert not Path(".dvc/config.local").exists()
    assert dvc(alice, "remote", "modify", "storage", "url", "gs://no-bucket-of-that-name/dvc") == 0
    assert "works without a remote" in settle()
    with pytest.raises(UserError, match="no DVC remote"):
        push_outputs()


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no DVC repository"):
        push_outputs()


@pytest.mark.parametrize("content", ["not JSON", '{"type": "service_account"}', None])
@pytest.mark.parametrize("given", ["to DVC", "to Google's tools"])
def test_broken_service_account_file(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, given: str
) -> None:
    """gcsfs passes over a broken one in silence."""
    key = tmp_path / "key.json"
    if content is not None:
        key.write_text(content)
    if given == "to Google's tools":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    with pytest.raises(UserError, match="credentials") as caught:
        probe(f"gs://{bucket}/dvc", settings={"credentialpath": str(key)} if given == "to DVC" else {})
    assert two_lines(caught.value)


def test_nothing_needs_the_remote(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a remote configured and nothing there: repro, exp run (also --temp) and status do not even try."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.1)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{listener.getsockname()[1]}")
        (alice / "params.yaml").write_text("seed: 3\n")
        assert dvc(alice, "repro", "-q") == 0
        commit(alice, "three")
        assert dvc(alice, "exp", "run", "-q", "-S", "seed=4") == 0
        assert dvc(alice, "exp", "run", "-q", "--temp", "-S", "seed=5") == 0
        assert dvc(alice, "status", "-q") == 0
        with pytest.raises(TimeoutError):
            listener.accept()


def command(root: Path, *words: str) -> BaseProcess:
    """`dvc ...` as a process of its own."""
    said = str(root.with_suffix(".log"))
    return processes.start(["dvc", *words], said, said, cwd=root)


@pytest.mark.parametrize("cut_after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2_000_000, 7_500_000))])
def test_server_killed_in_a_push(
    alice: Path, gate: Gate, bucket: str, emulator: Emulator, tmp_path: Path, cut_after: int
) -> None:
    """It is started again: the push that waits for it completes by itself, and the bucket has all, whole."""
    gate.cut_after = cut_after
    pushing = command(alice, "push", "-q")
    while gate.cut_after is not None and pushing.is_alive():
        time.sleep(0.02)
    assert gate.cut_after is None, "it was killed"
    emulator.start()
    whole(emulator, bucket)
    pushing.join()
    assert dvc(alice, "push") == 0
    whole(emulator, bucket)
    bob = clone(alice, tmp_path / "bob")
    assert dvc(bob, "pull") == 0
    assert sha256_tree(bob / "models") == sha256_tree(alice / "models")


def test_server_killed_in_a_pull(
    alice: Path, gate: Gate, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    gate.passed, gate.cut_after = 0, 3_000_000
    pulling = command(bob, "pull", "-q")
    while gate.cut_after is not None and pulling.is_alive():
        time.sleep(0.02)
    assert gate.cut_after is None, "it was killed"
    pulling.kill()
    pulling.join()
    monkeypatch.chdir(bob)
    here = open_cache({})
    for path, facts in here.listing().items():
        assert here.md5(path, facts) == "".join(path.split("/")[-2:]).removesuffix(".dir"), "nothing is half there"
    emulator.start()
    pull_outputs()
    assert sha256_tree(bob / "models") == sha256_tree(alice / "models")


def test_client_killed_while_it_reads_the_listings(
    alice: Path, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC notes each listing as it reads it, and takes the notes of a killed pull for all there is."""
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    gate.stall, gate.stalled_after = ".dir", 1
    pulling = command(bob, "pull", "-q")
    assert gate.stalled.wait(600)
    pulling.kill()
    pulling.join()
    gate.stall = None
    monkeypatch.chdir(bob)
    pull_outputs()
    assert sha256_tree(bob / "models") == sha256_tree(alice / "models")


@pytest.mark.slow
def test_server_that_stays_away(alice: Path, gate: Gate, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs tries for half a minute a request; then two lines, and what was pushed is kept."""
    monkeypatch.chdir(alice)
    gate.cut_after = 3_000_000
    with pytest.raises(UserError, match="cannot be reached") as caught:
        push_outputs()
    assert two_lines(caught.value)
    emulator.start()
    assert "as dvc.lock says" in push_outputs()


@pytest.mark.slow
def test_client_killed_in_a_push(alice: Path, bucket: str, emulator: Emulator, gate: Gate) -> None:
    pushing = command(alice, "push", "-q")
    while gate.passed < 1_000_000 and pushing.is_alive():
        time.sleep(0.005)
    pushing.kill()
    pushing.join()
    whole(emulator, bucket)
    assert dvc(alice, "push") == 0
    whole(emulator, bucket)
    assert len(emulator.objects(bucket)) == 11


@pytest.mark.slow
def test_two_clones_push_at_once(alice: Path, bucket: str, emulator: Emulator, tmp_path: Path) -> None:
    """The same data and different data."""
    bob = tmp_path / "bob"
    clone(alice, bob)
    (bob / "params.yaml").write_text("seed: 2\n")
    assert dvc(bob, "repro", "-q") == 0
    carol = tmp_path / "carol"
    subprocess.run(["cp", "-r", str(alice), str(carol)], check=True)
    runs = [command(root, "push", "-q") for root in (alice, bob, carol)]
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0], [path.read_text() for path in tmp_path.glob("*.log")]
    whole(emulator, bucket)
    assert len(emulator.objects(bucket)) == 22


def test_full_disk(alice: Path, bucket: str, tmp_path: Path) -> None:
    """A pull onto a disk too small for it, and again when there is room: in a mount namespace of its own."""
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    pulling = f"{sys.executable} -m text2sql.cli pull --all"
    script = (
        f"mount -t tmpfs -o size=6m tmpfs {bob}/.dvc/cache && {pulling}; echo rc=$?; find .dvc/cache -type f -size +1k;"
        f"mount -o remount,size=60m {bob}/.dvc/cache && {pulling}; echo rc=$?"
    )
    (bob / ".dvc" / "cache").mkdir()
    run = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=bob,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    if "rc=" not in run.stdout:
        pytest.skip(f"no mount namespaces here: {run.stderr.strip()}")
    second = run.stdout.split("rc=", 1)[1]
    assert second.startswith("1"), run.stdout
    assert "the disk is full" in run.stderr
    assert "Traceback" not in run.stderr
    assert ".tmp" not in second.split("rc=")[0], "nothing half there"
    assert second.rstrip().endswith("rc=0"), run.stdout
    assert sha256_tree(bob / "models") == sha256_tree(alice / "models")


def test_pull_of_a_release_is_whole_or_absent(
    alice: Path, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dvc(alice, "push") == 0
    url = f"file://{alice}"
    gate.refuse = {"GET": FORBIDDEN}
    with pytest.raises(UserError, match="permission denied"):
        pull_release("main", url, tmp_path / "adapter")
    gate.refuse = {}
    manifest = alice / "models" / "release" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(json.dumps({"files": {"README.md": "0" * 64}, "made_of": {}}))
    assert dvc(alice, "commit", "-q", "-f") == 0
    git(alice, "commit", "-qam", "a manifest that does not fit")
    assert dvc(alice, "push") == 0
    with pytest.raises(UserError, match=r"changed|unexpected"):
        pull_release("main", url, tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice"]
