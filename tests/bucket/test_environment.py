"""`make environment` with stand-ins for Python and uv that note how they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/bash
if [ "$*" = "-m pip config list" ]; then printf '%s\\n' "$CONFIGURED"; fi
"""
UV = """#!/bin/bash
echo "${UV_DEFAULT_INDEX-none}" >> "$CALLS"
"""


@pytest.mark.parametrize(
    ("configured", "given", "expected"),
    [
        ("", {}, "none"),
        ("global.extra-index-url='https://extra/simple'", {}, "none"),
        ("global.index-url='https://mirror/simple'", {}, "https://mirror/simple"),
        ("global.index-url='https://a/simple'\n:env:.index-url='https://b/simple'", {}, "https://b/simple"),
        ("global.index-url='https://mirror/simple'", {"UV_INDEX_URL": "https://uv/simple"}, "https://uv/simple"),
    ],
)
def test_uv_asks_the_registry_that_pip_asks(
    tmp_path: Path, configured: str, given: dict[str, str], expected: str
) -> None:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name, script in (("python", PYTHON), ("uv", UV)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_", "MAKE"))}
    environment = clean | given | {"CONFIGURED": configured, "CALLS": str(tmp_path / "calls")}
    make = ["make", "-C", str(ROOT), "environment", f"VENV={tmp_path / 'venv'}", "PYTHON=true"]
    done = subprocess.run(make, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set((tmp_path / "calls").read_text().splitlines()) == {expected}
    assert "//" not in done.stdout + done.stderr, "an address may hold a password"


def test_a_python_without_pinned_packages_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "python3.13"
    script.write_text(
        '#!/bin/bash\nexec python3 -c "import sys; sys.version_info = (3, 13, 0); exec(sys.argv[1])" "$2"\n'
    )
    script.chmod(0o755)
    make = ["make", "-C", str(ROOT), "environment", f"VENV={tmp_path / 'venv'}", f"PYTHON={script}"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.11 or 3.12 is needed" in done.stderr
