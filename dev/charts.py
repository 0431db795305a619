"""A picture of what `mlflow ui` shows of the runs in this repository's database: docs/images/mlflow-charts.png.

    dvc repro && dvc exp run --name fewer-examples -S data.split.train_limit=300
    python dev/charts.py docs/images/mlflow-charts.png

It starts `mlflow ui` on a free port, opens the page of charts in Chromium and ends both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from text2sql import registry

#: seconds for the server to answer, and for the charts to be drawn
PATIENCE = 180
#: Chromium otherwise takes digits and spaces from whatever font there is
FONT = "* { font-family: 'DejaVu Sans', sans-serif !important }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--experiment", default="text2sql", help="of MLflow (tracking.experiment)")
    options = parser.parse_args()
    group = registry.connect().get_experiment_by_name(options.experiment).experiment_id
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    try:
        address = f"http://127.0.0.1:{port}"
        until = time.monotonic() + PATIENCE
        while not answers(f"{address}/health"):
            if time.monotonic() > until:
                raise SystemExit(f"mlflow ui did not answer within {PATIENCE} s")
            time.sleep(0.5)
        shoot(f"{address}/#/experiments/{group}/runs?compareRunsMode=CHART", options.picture)
    finally:
        server.terminate()
        server.wait()


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def shoot(address: str, picture: Path) -> None:
    """The page at `address`, its charts drawn and its assistant closed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1010})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('path.js-line').length >= 2")
        page.add_style_tag(content=FONT)
        close = page.get_by_role("button", name="Close")
        for _ in range(close.count()):
            close.first.click()
        page.wait_for_timeout(3000)
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
