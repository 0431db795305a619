"""`dvc plots show` in a real browser without a net: every plot of dvc.yaml is drawn."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]


@pytest.fixture
def page(tmp_path, browser):
    """The page of the committed figures, its address, and where `make environment` lays the script that draws."""
    for name in (".dvc/config", ".dvc/plots", "metrics/plots", "dvc.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "plots", "show"], cwd=tmp_path, check=True, capture_output=True)
    context = browser.new_context(offline=True)
    page = context.new_page()
    yield page, f"{(tmp_path / 'dvc_plots/index.html').as_uri()}", tmp_path / ".venv/vega.js"
    context.close()


def test_every_plot_is_drawn_without_the_net(page):
    page, address, script = page
    page.goto(address)
    assert page.locator("#missing").is_visible()  # it says what makes the script

    import vl_convert

    script.parent.mkdir()
    script.write_text(vl_convert.javascript_bundle(vl_version="5.21"))
    page.goto(address)
    assert not page.locator("#missing").is_visible()
    plots = page.locator("canvas.marks, svg.marks")
    plots.nth(3).wait_for()
    assert plots.count() == 4
    assert min(box["height"] for box in (plots.nth(i).bounding_box() for i in range(4))) > 100
