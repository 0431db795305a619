"""A registered adapter as MLflow loads it: questions and schemas in, SQL out.

    model = mlflow.pyfunc.load_model("models:/text2sql-mini-qwen2-5-coder-0-5b@best")
    model.predict({"question": "How many customers are there?", "schema": "CREATE TABLE customers (id int)"})

MLflow keeps this file with the model and runs it to load the model; `text2sql` must be installed there. The base model
is the workspace's, or is obtained once, as for `text2sql ask`.
"""

from __future__ import annotations

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class TextToSql(PythonModel):
    """`text2sql.ask.Engine` behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load adapter and base model."""
        from text2sql.ask import Engine

        self.engine = Engine.load(context.artifacts["adapter"])

    # Without types: the signature is in registry.py, and lets one dict stand for a row.
    def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201
        """The SQL for each row's `question` on its `schema` (CREATE TABLE statements).

        Raises:
            UserError: a question or a schema cannot be read.
        """
        from text2sql.ask.engine import PlacedSchema
        from text2sql.ask.inferred_keys import with_inferred_keys
        from text2sql.ask.schema_file import parse_schema
        from text2sql.postgres.server import server

        rows = pandas.DataFrame(model_input).to_dict("records")
        with server() as running:
            catalogs = [parse_schema(row["schema"], running) for row in rows]
        schemas = [PlacedSchema(**vars(with_inferred_keys(c.schema)), target=c.target) for c in catalogs]
        return [self.engine.ask(row["question"], schema).sql for row, schema in zip(rows, schemas, strict=True)]


set_model(TextToSql())
