"""Get hold of an archive in Spider's layout and unpack what the pipeline needs of it, distrusting its contents."""

from __future__ import annotations

import http.client
import shutil
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from text2sql.errors import UserError
from text2sql.files import sha256
from text2sql.progress import progress

#: files outside database/ that are kept; everything else (gold .sql files, notes, resource forks) stays packed
KEPT = ("tables.json", "train_spider.json", "train_others.json", "dev.json")
REMEDY = "put an intact archive in Spider's layout there, or remove it to download the public copy"
CHUNK = 1 << 20
#: limits of what is unpacked: in all, of a JSON file, and times its packed size; Spider has 1 GB, 10 MB and 30 times
MOST_BYTES, LARGEST_JSON, DENSEST = 20 << 30, 256 << 20, 300


def obtain_archive(archive: Path, url: str, pinned: str) -> str:
    """Make sure that `archive` is there, downloading it from `url` if not; returns its sha256.

    A download must have the `pinned` sha256. A local file may have another: that is said and recorded, so that
    reconstructions and subsets work.

    Raises:
        UserError: it cannot be downloaded, or the download is not the pinned one.
    """
    if archive.exists():
        if not archive.is_file():
            raise UserError(f"{archive} is no file", "name a zip archive as data.source.archive")
        actual = sha256(archive)
        if actual != pinned:
            print(f"notice: {archive} is not the pinned public copy; its sha256 {actual} is recorded instead")
        return actual
    partial = archive.with_suffix(".part")
    download(url, partial)
    actual = sha256(partial)
    if actual != pinned:
        partial.unlink()
        raise UserError(
            f"the file at {url} has sha256 {actual}, not the pinned {pinned}",
            f"download Spider from its home page (yale-lily.github.io/spider) and put it at {archive}",
        )
    partial.replace(archive)
    return actual


def download(url: str, target: Path) -> None:
    """Fetch `url` into `target`, in pieces, with a progress bar."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as out:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with progress(f"downloading {target.name}", total) as advance:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    advance(len(chunk))
    except (OSError, ValueError, http.client.HTTPException) as error:
        target.unlink(missing_ok=True)
        raise UserError(
            f"{url} cannot be downloaded: {error}",
            f"download it by hand and put it into {target.parent}, under the name that the configuration gives",
        ) from None


def extract(archive: Path, target: Path) -> None:
    """Unpack the example files, tables.json and the databases of `archive` into `target`, which is made anew.

    The layout's root may be nested in folders (`spider_data/`, `spider/`): it is where tables.json lies.

    Raises:
        UserError: no zip file, cut or damaged, a member that would land outside `target` or that is far larger than
            any of a data set, or no tables.json in it. Nothing is left in `target` then.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = {PurePosixPath(m.filename): m for m in zipped.infolist() if not m.is_dir()}
            for path, member in members.items():
                _refuse_unsafe(archive, path, member)
            root = _root(archive, list(members))
            left = MOST_BYTES
            for path, member in members.items():
                if path.is_relative_to(root) and _is_kept(path.relative_to(root)):
                    left -= _unpack(zipped, member, target / path.relative_to(root), left)
    except UserError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise UserError(f"{archive} cannot be unpacked: {error}", REMEDY) from None


def _unpack(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, out: Path, left: int) -> int:
    """Write one member, piece by piece; returns its size, at most `left` bytes."""
    most = min(left, LARGEST_JSON) if out.suffix == ".json" else left
    densest = max(member.compress_size * DENSEST, CHUNK)
    size = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipped.open(member) as packed, out.open("wb") as unpacked:
        while chunk := packed.read(CHUNK):
            size += len(chunk)
            if size > min(most, densest):
                what = f"{zipped.filename}: {member.filename!r} unpacks to more than {min(most, densest) >> 20:,} MB"
                raise UserError(what, REMEDY)
            unpacked.write(chunk)
    return size


def _refuse_unsafe(archive: Path, path: PurePosixPath, member: zipfile.ZipInfo) -> None:
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    is_outside = not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]
    if is_outside or is_link or "\\" in member.filename:
        raise UserError(f"{archive} has a member that would be written outside: {member.filename!r}", REMEDY)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name = zipfile.compressor_names.get(member.compress_type, member.compress_type)
        raise UserError(f"{archive} is packed with {name}: {member.filename!r}", "pack it with deflate, as zip does")


def _root(archive: Path, paths: list[PurePosixPath]) -> PurePosixPath:
    roots = sorted({p.parent for p in paths if p.name == "tables.json" and "__MACOSX" not in p.parts})
    if not roots:
        raise UserError(f"{archive} has no tables.json: this is not Spider's layout", REMEDY)
    return min(roots, key=lambda p: len(p.parts))


def _is_kept(path: PurePosixPath) -> bool:
    """`path` is relative to the layout's root. Test databases (`test_database/`) and resource forks are not kept."""
    is_database = len(path.parts) == 3 and path.parts[0] == "database" and path.name == f"{path.parts[1]}.sqlite"
    return is_database or path.as_posix() in KEPT
