"""Documentation that works: each block of commands is executed here, or says which test does or what it needs.

The line before a block decides: `<!-- run -->` (here, in a folder with shop.sql, shop.sqlite and a release of the tiny
model), `<!-- see: tests/... -->` (a test file that does), `<!-- needs: ... -->` (what no test has).
"""

import io
import re
import runpy
import shlex
import shutil
import sqlite3
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dev import results_table
from text2sql.cli import app

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?:^<!-- (?P<how>run|see|needs)(?:: (?P<what>[^\n]*))? -->\n)?^```(?P<kind>bash|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(match, id=f"{page}:{text[: match.start('text')].count(chr(10)) + 1}")
    for page in PAGES
    for text in [(ROOT / page).read_text()]
    for match in BLOCK.finditer(text)
]
SHOP = """
create table customers (id integer primary key, name text, city text);
create table orders (id integer primary key, customer_id integer references customers (id), total numeric(8, 2));
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_release):
    """A folder as a reader of the documentation has it before them."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(tiny_release.parent.parent, folder, dirs_exist_ok=True)
    (folder / "shop.sql").write_text(SHOP)
    shutil.copytree(ROOT / "examples", folder / "examples")
    connection = sqlite3.connect(folder / "shop.sqlite")
    connection.executescript(f"{SHOP} insert into customers values (1, 'Ann', 'Rome');")
    connection.close()
    return folder


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    how, what, text = block["how"], block["what"], block["text"]
    assert how, "no line before it says how this block is tested"
    if how == "see":
        assert (ROOT / what).is_file()
    elif how == "needs":
        assert len(what) > 3
    elif block["kind"] == "python":
        script = workplace / "block.py"
        script.write_text(text)
        with redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(str(script))
        assert printed.getvalue().strip()
    else:
        for line in text.strip().splitlines():
            run(line)


def run(line):
    """A `text2sql` command, with questions piped into it where it begins with printf."""
    before, _, command = line.rpartition(" | ")
    questions = shlex.split(before)[1].encode().decode("unicode_escape") if before else None
    words = shlex.split(command)
    assert words[0] == "text2sql", f"run it in another test, or teach this one: {line}"
    shown = CliRunner().invoke(app, words[1:], input=questions, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.strip()


def test_dockerfile_copies_what_is_there():
    lines = (ROOT / "app/Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source.partition('/')[0]}" in ignored
    assert re.search(r"^sdk_version: \d+\.\d+\.\d+$", (ROOT / "app/space/README.md").read_text(), re.M)


def test_links_between_documents_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text()
        named = re.findall(r"\b((?:tests|notebooks)/[\w/]+\.(?:py|ipynb))\b", text)
        for target in [*re.findall(r"\]\((?!http)([^)#]+)", text), *named]:
            assert (ROOT / target).exists() or (ROOT / "docs" / target).exists(), f"{page}: {target}"


def test_table_of_recipes_is_as_recorded():
    assert f"<!-- recipes -->\n{results_table.table()}<!-- /recipes -->" in results_table.DOCUMENT.read_text()


def test_readme_has_the_recorded_accuracies():
    lines = [line.strip("| \n").split(" | ") for line in (ROOT / "README.md").read_text().splitlines()]
    claimed = {cells[-1]: cells[-2].replace(" %", "").replace("*", "") for cells in lines if len(cells) > 2}
    recorded = {cells[-1]: cells[3].replace("*", "") for cells in map(results_table.cells, results_table.ROWS)}
    both = claimed.keys() & recorded.keys()
    assert {"`make repro`", "`dvc exp run -S experiment=spider`"} <= both
    assert {command: claimed[command] for command in both} == {command: recorded[command] for command in both}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1200
