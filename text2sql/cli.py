"""The `text2sql` command. Each subcommand is a thin function that imports what it needs when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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


@app.command()
def publish(
    repo: Annotated[str, typer.Option(help="Where to: user/name on the HuggingFace hub.")],
    release: Annotated[Path, typer.Option(help="The release's folder.")] = Path("models/release"),
    space: Annotated[bool, typer.Option(help="Upload the demo, as the Space of that name.")] = False,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List what would be uploaded, and stop.")] = False,
) -> None:
    """Upload adapter, tokenizer and model card to the HuggingFace hub, or (--space) the demo."""
    from text2sql import publish as hub

    files = hub.space_files(repo) if space else hub.model_files(release, repo)
    for name, size in hub.listing(files):
        typer.echo(f"{size:>12,}  {name}")
    if dry_run:
        typer.echo(f"dry run: {len(files)} files would go to {repo}")
        return
    address = hub.publish(repo, files, kind="space" if space else "model", private=private)
    typer.echo(f"{len(files)} files are at {address}")


def main() -> None:
    """Run the command; a `UserError` is printed without a traceback and ends with status 1."""
    try:
        app()
    except UserError as error:
        sys.exit(f"text2sql: {error}")


if __name__ == "__main__":
    main()
