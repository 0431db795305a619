"""Schemas out of text, read by one private PostgreSQL for all tests of a process."""

import atexit
import functools
from contextlib import ExitStack

from text2sql.ask.schema_file import parse_schema
from text2sql.postgres.server import server


@functools.cache
def running():
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(server())


def parse(text):
    return parse_schema(text, running()).schema
