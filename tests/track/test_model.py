"""A registered adapter answers through MLflow alone; execution accuracy is a scorer of `mlflow.genai.evaluate`."""

import shutil

import pytest

from text2sql import track
from text2sql.ask.mlflow_scorer import execution_accuracy
from text2sql.files import read_json
from text2sql.model.initial import checksums, initial_adapter
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.workspace import ADAPTER, BASE

SHOP = "CREATE TABLE customers (id integer PRIMARY KEY, name text)"


@pytest.fixture
def registered(tiny_release, store):
    """The address of its version in MLflow."""
    shutil.rmtree("models")
    shutil.copytree(tiny_release.parent / "base", BASE)
    shutil.copytree(tiny_release, ADAPTER, ignore=shutil.ignore_patterns("manifest.json", "README.md"))
    track.log_workspace(read_json(tiny_release.parent.parent / "params.yaml"))
    return "models:/text2sql-mini-tiny/1"


def test_a_registered_adapter_answers_and_is_trained_further(registered, tiny_release):
    import mlflow

    model = mlflow.pyfunc.load_model(registered)
    assert model.metadata.get_input_schema().input_names() == ["question", "schema"]
    question = {"question": "How many customers are there?", "schema": SHOP}
    one, two = model.predict(question), model.predict([question, question])
    assert len(one) == 1
    assert two == [*one, *one]
    with initial_adapter(registered, BASE) as initial:
        assert checksums(initial) == checksums(tiny_release)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """The sandbox with one database, of two customers."""
    dumps = tmp_path_factory.mktemp("dumps")
    (dumps / "shop.sql").write_text(f"{SHOP};\nINSERT INTO customers VALUES (1, 'Ann'), (2, 'Bob');\n")
    with loaded_sandbox(["shop"], dumps, Limits(), 1) as box:
        yield box


@pytest.mark.parametrize(
    ("answer", "value", "reason"),
    [
        ("SELECT count(*) FROM customers", True, "the same rows"),
        ("SELECT 7", False, "row"),
        ("SELECT nothing FROM customers", False, "does not exist"),
    ],
)
def test_execution_accuracy_scores_answers(sandbox, answer, value, reason):
    scorer = execution_accuracy(sandbox)
    expectations = {"sql": "SELECT count(id) FROM customers"}
    feedback = scorer.run(inputs={"database": "shop"}, outputs=answer, expectations=expectations)
    assert feedback.value == value
    assert reason in feedback.rationale
