"""benchmarks/: what a person has to mend is said in words, by each that README.md and docs/ tell to run."""

import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sql_eval", ["--model", "models/release"]),
        ("own_database", ["--databases", "yelp"]),
        ("tables", []),
        ("decline", []),
    ],
)
def test_what_is_missing_is_said_without_a_traceback(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, *words])
    with pytest.raises(SystemExit, match=rf"(?s)^{name}: .*\n  -> "):
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")


def test_a_figure_that_no_line_has_is_named(tmp_path):
    text = (ROOT / "benchmarks/all.sh").read_text()
    function = text[text.index("figure() {") : text.index("\n}\n") + 3]
    (tmp_path / "figures").mkdir()
    script = f"set -euo pipefail\n{function}figure speed '^score:' echo hello"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "speed: no line of figures/speed.log matches ^score:\n"
