"""Archives: what is unpacked, what is refused, and that a refusal names the file and the remedy."""

import json
import shutil
import sqlite3
import zipfile
from pathlib import Path

import pytest

from tests.conftest import write_layout
from text2sql.data.spider.archive import extract, obtain_archive
from text2sql.data.spider.layout import verify_layout
from text2sql.errors import UserError
from text2sql.files import sha256


def pack(source: Path, archive: Path, prefix: str, extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                zipped.write(path, f"{prefix}{path.relative_to(source).as_posix()}")
        for name, content in (extra or {}).items():
            zipped.writestr(name, content)
    return archive


@pytest.mark.parametrize("prefix", ["", "spider/", "deep/down/spider_data/"])
def test_unpacks_from_any_depth_only_what_is_needed(layout, tmp_path, prefix):
    extra = {f"{prefix}README.txt": b"x", "__MACOSX/tables.json": b"{}", f"{prefix}test_database/a/a.sqlite": b"x"}
    extract(pack(layout, tmp_path / "a.zip", prefix, extra), tmp_path / "out")
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == [
        "database/market/market.sqlite",
        "database/shop/shop.sqlite",
        "dev.json",
        "tables.json",
        "train_others.json",
        "train_spider.json",
    ]


@pytest.mark.parametrize("name", ["../evil.sh", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_members_that_would_land_outside_are_refused(layout, tmp_path, name):
    archive = pack(layout, tmp_path / "a.zip", "", {name: b"x"})
    with pytest.raises(UserError, match="written outside"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_that_is_the_folder_itself_is_refused(layout, tmp_path):
    with pytest.raises(UserError, match="written outside"):
        extract(pack(layout, tmp_path / "a.zip", "", {".": b"x"}), tmp_path / "out")


@pytest.mark.parametrize("name", ["dev.json", "database/zeros/zeros.sqlite"])
def test_a_member_of_zeros_is_not_unpacked(layout, tmp_path, name):
    archive = pack(layout, tmp_path / "a.zip", "", {name: bytes(64 << 20)})
    with pytest.raises(UserError, match=f"{name}' unpacks to more than .* MB"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_ways_of_packing_are_refused(layout, tmp_path, method):
    """The header of an LZMA member decides how much memory its reader takes."""
    with zipfile.ZipFile(pack(layout, tmp_path / "a.zip", ""), "a", method) as zipped:
        zipped.writestr("notes", "x")
    with pytest.raises(UserError, match="is packed with"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_a_broken_name(layout, tmp_path):
    archive = pack(layout, tmp_path / "a.zip", "", {"nötes": b"x"})
    archive.write_bytes(archive.read_bytes().replace("ö".encode(), b"\xff\xff"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(archive, tmp_path / "out")


def test_an_archive_that_is_a_folder(tmp_path):
    with pytest.raises(UserError, match="is no file"):
        obtain_archive(tmp_path, "http://127.0.0.1:9/never", "0" * 64)


def test_symbolic_links_are_refused(layout, tmp_path):
    archive = pack(layout, tmp_path / "a.zip", "")
    link = zipfile.ZipInfo("database/link/link.sqlite")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="written outside"):
        extract(archive, tmp_path / "out")


def test_a_cut_archive_names_the_file_and_the_remedy(layout, tmp_path):
    archive = pack(layout, tmp_path / "a.zip", "")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError) as error:
        extract(archive, tmp_path / "out")
    assert "a.zip cannot be unpacked" in str(error.value)
    assert "intact archive" in str(error.value)


def test_a_damaged_member_is_found_by_its_checksum(layout, tmp_path):
    archive = pack(layout, tmp_path / "a.zip", "")
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes(30)
    archive.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(archive, tmp_path / "out")


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("notes.txt", "x")
    with pytest.raises(UserError, match=r"no tables\.json"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_a_local_archive_with_another_checksum_is_taken_with_a_notice(layout, tmp_path, capsys):
    archive = pack(layout, tmp_path / "a.zip", "")
    assert obtain_archive(archive, "http://127.0.0.1:9/never", "0" * 64) == sha256(archive)
    assert sha256(archive) in capsys.readouterr().out


def test_a_download_must_have_the_pinned_checksum(layout, tmp_path):
    served = pack(layout, tmp_path / "served.zip", "")
    target = tmp_path / "raw" / "spider_data.zip"
    with pytest.raises(UserError, match="not the pinned"):
        obtain_archive(target, served.as_uri(), "0" * 64)
    assert not target.exists()
    assert obtain_archive(target, served.as_uri(), sha256(served)) == sha256(served)
    assert target.read_bytes() == served.read_bytes()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/spider", "drive.example.org/spider"])
def test_an_unreachable_address_says_where_to_put_the_file(tmp_path, url):
    with pytest.raises(UserError) as error:
        obtain_archive(tmp_path / "spider_data.zip", url, "0" * 64)
    assert "download it by hand and put it into" in str(error.value)


def test_a_valid_layout_is_reported(layout):
    report = verify_layout(layout)
    assert report["examples"] == {"train_spider.json": 1, "train_others.json": 0, "dev.json": 1}
    assert report["databases"] == 2
    assert report["missing_databases"] == {}


def test_a_missing_database_is_counted_not_fatal(layout):
    shutil.rmtree(layout / "database" / "market")
    assert verify_layout(layout)["missing_databases"] == {"market": 1}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: (r / "dev.json").unlink(), "dev.json is missing"),
        (lambda r: (r / "dev.json").write_text("[{"), "dev.json is not valid JSON"),
        (lambda r: (r / "dev.json").write_text('[{"db_id": "a"}]'), "example 0: no text under 'question'"),
        (lambda r: (r / "tables.json").write_text("{}"), "tables.json is not a list of schemas"),
        (lambda r: tables(r, table_names_original=[1]), "tables.json is not a list of schemas"),
        (lambda r: tables(r, column_names_original=["a"]), "tables.json is not a list of schemas"),
        (lambda r: tables(r, db_id="../../shop"), "cannot name a database"),
        (lambda r: tables(r, db_id=["shop"]), "cannot name a database"),
        (lambda r: tables(r, db_id="a" * 300), "is longer than 63 bytes"),
        (lambda r: example(r, db_id="a/b"), "example 0: 'a/b' cannot name a database"),
        (lambda r: example(r, question="half: \ud83d"), "example 0: no text under 'question'"),
        (lambda r: example(r, query="select '\0'"), "example 0: no text under 'query'"),
        (lambda r: (r / "dev.json").write_text("[" * 200_000), "dev.json is not valid JSON"),
        (lambda r: (r / "dev.json").write_text("[" + "1" * 9000 + "]"), "dev.json is not valid JSON"),
        (lambda r: (r / "database/shop/shop.sqlite").write_bytes(b"no database" * 99), "shop.sqlite cannot be read"),
        (lambda r: cut(r / "database/shop/shop.sqlite"), "shop.sqlite cannot be read"),
        (lambda r: shutil.rmtree(r / "database"), "has no database/"),
    ],
)
def test_damage_is_named(layout, damage, said):
    damage(layout)
    with pytest.raises(UserError) as error:
        verify_layout(layout)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["postgres", "template0", "template1"])
def test_a_database_of_the_servers_own_name_is_refused(tmp_path, name):
    root = write_layout(tmp_path / "data", {name: "create table t (a int)"}, {"dev": [(name, "How many?", "select 1")]})
    with pytest.raises(UserError, match=f"database {name} cannot be scored under this name"):
        verify_layout(root)


def tables(root: Path, **changes: object) -> None:
    entries = json.loads((root / "tables.json").read_text())
    (root / "tables.json").write_text(json.dumps([entries[0] | changes]))


def example(root: Path, **changes: object) -> None:
    rows = json.loads((root / "dev.json").read_text())
    (root / "dev.json").write_text(json.dumps([rows[0] | changes]))


def test_tables_json_may_list_what_sqlite_counts_with(layout):
    """As Spider's does of world_1."""
    entry = json.loads((layout / "tables.json").read_text())[0]
    tables(layout, table_names_original=[*entry["table_names_original"], "sqlite_sequence"])
    assert entry["db_id"] not in verify_layout(layout)["table_mismatches"]


def test_a_database_that_needs_an_extension_is_not_damaged(layout):
    path = layout / "database/shop/shop.sqlite"
    connection = sqlite3.connect(path)
    connection.create_collation("of_an_app", lambda a, b: 0)
    connection.executescript(
        "create table t (a text collate of_an_app); create index i on t (a); insert into t values (1)"
    )
    connection.close()
    assert verify_layout(layout)["missing_databases"] == {}


def test_a_check_without_end_is_no_damage(layout, monkeypatch):
    monkeypatch.setattr("text2sql.conversion.databases.probe.MOST_SECONDS", 0.2)
    connection = sqlite3.connect(layout / "database/shop/shop.sqlite")
    spin = "instr(hex(zeroblob(2000000)), hex(zeroblob(1000000)) || 'b')"
    connection.executescript(
        f"create table t (a check ({spin})); pragma ignore_check_constraints = 1; insert into t values (1)"
    )
    connection.close()
    assert verify_layout(layout)["missing_databases"] == {}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


@pytest.mark.spider
def test_the_real_archive(spider_archive, tmp_path):
    extract(spider_archive, tmp_path / "out")
    report = verify_layout(tmp_path / "out")
    assert report["examples"]["dev.json"] == 1034
    assert report["databases"] > 140
