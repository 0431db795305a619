"""The embedded data set: domains described in YAML, and the generator that makes databases, questions and SQL of them.

    domains/*.yaml, demo/*.yaml --domain--> Domain --rows--> rows --graph--> Graph --questions--> question and SQL
                                                                                |
                                                       shapes.yaml: what each SQL shape draws, its SQL and phrasings

Only `domain` knows YAML and only `dataset` knows files, so the shapes also work on a graph of anybody's database.
"""

from text2sql.data.mini.dataset import add_embedded, generate_dataset

__all__ = ["add_embedded", "generate_dataset"]
