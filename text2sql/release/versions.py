"""Released adapters: a git tag each, with the score that git has for it, and the bytes that DVC has.

A release is the tag `text2sql-adapter@vX.Y.Z` (GTO's form, so that `dvc artifacts get` and the tools around it read it
too) on a commit whose dvc.lock names models/release. Nothing else is kept anywhere.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from text2sql.bucket import Finding, run_dvc
from text2sql.errors import UserError, as_made
from text2sql.files import commit_of, digest, read_json, sha256_tree, whole_folder
from text2sql.workspace import ADAPTER, RELEASE, SCORE

MANIFEST = "manifest.json"
#: written by the release stage over the adapter's own
CARD = "README.md"
ARTIFACT = "text2sql-adapter"
TAG = re.compile(rf"refs/tags/({ARTIFACT}@v(\d+)\.(\d+)\.(\d+))$")


def tags(repo: str = ".") -> list[str]:
    """Release tags of a git repository (path or URL), oldest version first.

    Raises:
        UserError: it is no repository, or cannot be reached.
    """
    done = subprocess.run(
        ["git", "ls-remote", "--tags", "--refs", "--", repo], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["git ls-remote failed"])[0]
        raise UserError(f"{repo}: {last}", "give the path or URL of a git repository: --repo ...")
    matches = [match for line in done.stdout.splitlines() if (match := TAG.search(line))]
    return [match[1] for match in sorted(matches, key=lambda match: [int(match[i]) for i in (2, 3, 4)])]


def list_releases(repo: str = ".") -> list[tuple[str, float | None, int | None]]:
    """The released adapters of `repo`, oldest first: tag, execution accuracy (0 to 1), and on how many questions; None
    for both if git has no score."""
    import dvc.api

    releases = []
    for tag in tags(repo):
        try:
            score = json.loads(dvc.api.read(SCORE.as_posix(), repo=repo, rev=tag))
        except FileNotFoundError:
            score = {}
        releases.append((tag, score.get("execution_accuracy"), score.get("n")))
    return releases


def pull(rev: str | None = None, repo: str = ".", out: Path = Path("adapter")) -> tuple[str, Path]:
    """Fetch the released adapter of `rev` (tag, branch, commit or experiment; None: the newest release) into `out`.

    Arrives beside `out`, is held against its manifest, and is renamed at the end: complete or absent.

    Returns:
        the revision, and `out`.

    Raises:
        UserError: no such revision or repository, `out` is there already, the bucket refuses, or the bytes are not
            those of the manifest.
    """
    if out.exists():
        raise UserError(f"{out} is there already", "give another folder (--out ...), or remove it first")
    if rev is None and not (newest := tags(repo)):
        raise UserError(f"{repo} has no tag {ARTIFACT}@v...", "name a branch, commit or experiment: --rev main")
    rev = rev or newest[-1]
    with whole_folder(out) as partial:
        source = f"{RELEASE} of {repo} at {rev}"
        commit = commit_of(rev, repo) or rev  # DVC does not read main~1; it knows experiments and URLs, git does not
        run_dvc("get", repo, str(RELEASE), "--out", str(partial), "--rev", commit, url=source)
        if wrong := check_release(partial, adapter=None):
            what = f"{rev}: {wrong[0].path} is {wrong[0].state}"
            raise UserError(what, "pull it again; `text2sql verify` in its clone")
    return rev, out


def check_release(folder: Path = RELEASE, adapter: Path | None = ADAPTER) -> list[Finding]:
    """The released files against manifest.json, which also has to agree with the `adapter` they were copied from.

    Raises:
        UserError: manifest.json is missing or broken.
    """
    with as_made(folder / MANIFEST, "`dvc checkout models/release`, or `dvc repro release`"):
        manifest = read_json(folder / MANIFEST)
        expected, made_of = dict(manifest["files"]), dict(manifest["made_of"])
    actual = sha256_tree(folder)
    missing = [Finding("release", "missing", f"{folder}/{name}") for name in sorted(expected.keys() - actual.keys())]
    extra = actual.keys() - expected.keys() - {MANIFEST}
    unexpected = [Finding("release", "unexpected", f"{folder}/{name}") for name in sorted(extra)]
    changed = [f"{folder}/{name}" for name in expected.keys() & actual.keys() if actual[name] != expected[name]]
    if adapter is not None and adapter.exists():
        copied = {name: sha for name, sha in sha256_tree(adapter).items() if name != CARD}
        changed += [f"{adapter}/{name}" for name, sha in copied.items() if expected.get(name) != sha]
        changed += [name for name, sha in made_of.items() if Path(name).exists() and digest(Path(name)) != sha]
    return missing + unexpected + [Finding("release", "changed", path) for path in sorted(changed)]
