"""`mlflow ui` in a real browser shows two experiments side by side: both curves, what differs, and the accuracy."""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from tests.track.workspace import copy_database, curve, finish, loss, params, runs, score, train, until
from text2sql import registry
from text2sql.track import log_workspace, training_run

# One font that has everything: Chromium otherwise takes digits and spaces from whatever else there is.
FONT = "* { font-family: 'DejaVu Sans', sans-serif !important }"


@pytest.fixture(scope="module")
def served(tmp_path_factory, database):
    """A root with a database, and the address of the `mlflow ui` that runs there with no argument but a free port."""
    root = tmp_path_factory.mktemp("served")
    copy_database(database, root)
    (root / ".dvc").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    with (root / "ui.log").open("w") as log:
        clean = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        clean["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else seven more processes
        server = subprocess.Popen(command, cwd=root, env=clean, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{address}/health"))
        yield root, address
    finally:
        server.terminate()
        server.wait(300)


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture
def recording(clone, served, monkeypatch):
    """`clone`, but what is recorded goes to the root that is served."""
    monkeypatch.setenv("DVC_ROOT", str(served[0]))
    return served


def experiment(name, rate, accuracy, monkeypatch):
    """What train and score record of one experiment."""
    monkeypatch.setenv("DVC_EXP_NAME", name)
    with training_run(name, params(train__learning_rate=rate)) as run:
        for step in range(1, 41):
            run.metrics({"loss/train_nats": 0.3 + 2 * math.exp(-100 * rate * step)}, step=step)
            if step % 10 == 0:
                run.metrics({"loss/val_nats": 0.4 + 2 * math.exp(-90 * rate * step)}, step=step)
        digest = finish(name, [], 0.4 + 2 * math.exp(-90 * rate * 40), name)
    score(digest, accuracy, train__learning_rate=rate)


def visit(page, address):
    page.goto(address)
    page.add_style_tag(content=FONT)


@pytest.mark.browser
def test_two_experiments_compared(recording, browser, monkeypatch):
    experiment("sweep-1", 0.001, 0.31, monkeypatch)
    experiment("sweep-2", 0.0005, 0.27, monkeypatch)
    address, client = recording[1], registry.connect()
    group = client.get_experiment_by_name("text2sql").experiment_id
    page = browser.new_page(viewport={"width": 1700, "height": 950})
    page.set_default_timeout(60_000)
    check_charts(page, f"{address}/#/experiments/{group}/runs?compareRunsMode=CHART")
    chosen = json.dumps([run.info.run_id for run in runs(client)], separators=(",", ":"))
    check_comparison(page, f'{address}/#/compare-runs?runs={chosen}&experiments=["{group}"]')
    page.close()


def test_a_remote_server_is_one_setting(recording):
    """Runs and artifacts go over HTTP."""
    from mlflow import MlflowClient

    address = recording[1]
    train("remote", tracking__uri=address, tracking__experiment="remote")
    client = MlflowClient(address, address)
    (run,) = runs(client, "remote")
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert run.info.run_id in {v.run_id for v in client.search_model_versions("name = 'text2sql-mini-tiny'")}


class Gate:
    """A way to a server that one can close: what comes then is accepted and never answered."""

    def __init__(self, port):
        self.port, self.is_closed = port, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.port))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self.carry, args=(source, target), daemon=True).start()

    def carry(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                while self.is_closed.is_set():
                    time.sleep(0.05)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_server_that_hangs_in_the_middle_of_a_training(recording, capsys, monkeypatch):
    """No step waits for it, the end and the score wait for seconds, and the run is made whole afterwards."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", "1")
    gate = Gate(int(recording[1].rpartition(":")[2]))
    there = {"tracking__uri": gate.address, "tracking__experiment": "gate"}
    with training_run("f1", params(**there, tracking__system_seconds=0.2)) as run:
        for step in range(3):
            run.metrics({"loss/train_nats": loss(step)}, step=step)
        gate.is_closed.set()
        begun = time.monotonic()
        for step in range(3, 6):
            run.metrics({"loss/train_nats": loss(step)}, step=step)
        assert time.monotonic() - begun < 0.5
        time.sleep(1.2)  # so that MLflow's threads have met it
        adapter = finish("f1", range(6), 0.5, "one")
        begun = time.monotonic()
    score(adapter, **there)
    assert time.monotonic() - begun < 30, "it waits for a request or two, each of a second"
    said = capsys.readouterr().err
    assert said.count("python -m text2sql.track sync") == 2, "at the end of the training and of the score"
    gate.is_closed.clear()
    log_workspace(params(**there))
    client = registry.connect(recording[1])
    (whole,) = runs(client, "gate")
    assert (whole.info.status, whole.data.metrics["execution_accuracy"]) == ("FINISHED", 0.4)
    assert [step for step, _ in curve(client, whole)] == list(range(6))


def check_charts(page, address):
    """Every curve of both runs is drawn, before all other charts and in view."""
    visit(page, address)
    for losses in ("loss/train_nats", "loss/val_nats"):
        for name in ("sweep-1", "sweep-2"):
            page.get_by_text(f"{name} ({losses})").first.wait_for()
    page.wait_for_function("document.querySelectorAll('path.js-line').length >= 4")
    lines = page.locator("path.js-line")
    assert all(len(lines.nth(n).get_attribute("d")) > 20 for n in range(lines.count()))
    page.get_by_text("execution_accuracy").first.wait_for()
    titles = page.inner_text("body")
    assert titles.index("loss/train_nats") < titles.index("score/accuracy\n") < titles.index("score/accuracy_easy")


def check_comparison(page, address):
    """Parameters that differ, and the accuracy, stand side by side."""
    visit(page, address)
    page.get_by_text("Comparing 2 Runs").wait_for()
    page.get_by_role("switch").first.click()  # "Show diff only" of the parameters
    row = page.locator("tr, [role=row]").filter(has_text="train.learning_rate").filter(has_text="0.0005").first
    row.wait_for()
    assert "0.001" in row.inner_text()
    assert page.locator("tr, [role=row]").filter(has_text="predict.batch_size").count() == 0
    body = page.inner_text("body")
    assert "execution_accuracy" in body
    assert "0.31" in body
    assert "0.27" in body
    page.get_by_text("Run details").scroll_into_view_if_needed()
    row.scroll_into_view_if_needed()
