"""The `text2sql` command. Each subcommand is a thin function that imports what it needs when it is called."""

from __future__ import annotations

import sys

import typer

from text2sql.errors import UserError

app = typer.Typer(
    help="Text-to-SQL for PostgreSQL: convert, ask, publish.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def root() -> None:
    """Keeps `text2sql NAME` a subcommand even while there is one only."""


def main() -> None:
    """Run the command; a `UserError` is printed without a traceback and ends with status 1."""
    try:
        app()
    except UserError as error:
        sys.exit(f"text2sql: {error}")


if __name__ == "__main__":
    main()
