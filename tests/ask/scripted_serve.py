"""`python -m tests.ask.scripted_serve ...`: the command `text2sql serve ...` with a scripted model, loaded at once."""

import sys

from tests.scripted import Scripted
from text2sql.ask.engine import Engine
from text2sql.cli import app


def load(name, say):
    say(f"loading {name}")
    return Scripted({})


if __name__ == "__main__":
    Engine.load = load
    app(["serve", *sys.argv[1:]])
