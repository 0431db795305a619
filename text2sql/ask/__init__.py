"""Questions to SQL, as a person asks them: the Python API, the terminal, schema files and servers."""

from text2sql.ask.engine import Answer, Engine, schema

__all__ = ["Answer", "Engine", "schema"]
