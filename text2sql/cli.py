"""The `text2sql` command. Each subcommand is a thin function that imports what it needs when it is called."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from text2sql.errors import UserError, exits
from text2sql.workspace import MODELS, RELEASE

if TYPE_CHECKING:
    from text2sql.ask.place import PlaceType

app = typer.Typer(
    help="Text-to-SQL for PostgreSQL: convert, ask, publish.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def ask(
    question: Annotated[
        str | None, typer.Argument(help="In English. Without one, questions are read one a line.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="A file of CREATE TABLE statements.")] = None,
    sqlite: Annotated[str | None, typer.Option(help="An SQLite database.")] = None,
    dsn: Annotated[str | None, typer.Option(help="A PostgreSQL server; it is only read.")] = None,
    model: Annotated[
        str, typer.Option(help="Folder, base model (qwen2.5-coder-0.5b), git revision, models:/NAME@ALIAS, hub name.")
    ] = str(RELEASE),
    run: Annotated[bool, typer.Option("--run", help="Run the query, show its rows.")] = False,
    candidates: Annotated[int, typer.Option(min=1, max=32, help="Answers to choose from.")] = 1,
    tables: Annotated[str, typer.Option(help="Only these tables of a large schema: a,b,c.")] = "",
    trust: Annotated[str, typer.Option(help="Functions, schemas, extensions that --dsn may call: a,b.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each question.")] = False,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Decline answers less probable than this.")] = 0.0,
    more: Annotated[bool, typer.Option("--more", help="Read further questions after the first one.")] = False,
) -> None:
    """Ask a database in English; see the SQL."""
    from text2sql.ask.terminal import AskOptions, converse

    place, place_type = one_place(schema, sqlite, dsn)
    options = AskOptions(
        place, place_type, model, run, candidates, comma_list(tables), comma_list(trust), as_json, min_confidence, more
    )
    converse(question, options)


@app.command()
def serve(
    schema: Annotated[list[str] | None, typer.Option(help="A schema file, or NAME=FILE; may be repeated.")] = None,
    sqlite: Annotated[list[str] | None, typer.Option(help="An SQLite database, or NAME=FILE.")] = None,
    dsn: Annotated[list[str] | None, typer.Option(help="A PostgreSQL server, or NAME=DSN.")] = None,
    model: Annotated[str, typer.Option(help="As for ask.")] = str(RELEASE),
    run: Annotated[bool, typer.Option("--run", help="Run the queries; answers have their rows too.")] = False,
    mcp: Annotated[bool, typer.Option("--mcp", help="Speak MCP on the standard input and output instead.")] = False,
    host: Annotated[str, typer.Option(help="Beyond loopback only with TEXT2SQL_TOKEN set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    queue: Annotated[int, typer.Option(min=1, help="Questions that wait at most; beyond them: status 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one answer; beyond them: status 504.")] = 60.0,
    trust: Annotated[str, typer.Option(help="As for ask.")] = "",
) -> None:
    """Serve answers: OpenAI's chat API and MCP over HTTP, or (--mcp) MCP on the standard streams."""
    from text2sql.ask.serve import ServeOptions, named_places, serve_places

    places = named_places({"schema": schema or [], "sqlite": sqlite or [], "dsn": dsn or []})
    options = ServeOptions(places, model, run, host, port, queue, timeout, comma_list(trust))
    serve_places(options, standard_streams=mcp)


def one_place(schema: str | None, sqlite: str | None, dsn: str | None) -> tuple[str, PlaceType]:
    """The one database that is given, and as what.

    Raises:
        UserError: none is given, or several.
    """
    given: list[tuple[str | None, PlaceType]] = [(schema, "schema"), (sqlite, "sqlite"), (dsn, "dsn")]
    places = [(place, place_type) for place, place_type in given if place]
    if len(places) != 1:
        raise UserError("which database?", "give one of --schema FILE, --sqlite FILE, --dsn postgresql://...")
    return places[0]


def comma_list(text: str) -> list[str]:
    """The names in `a,b,c`."""
    return [name.strip() for name in text.split(",") if name.strip()]


@app.command()
def convert(
    queries: Annotated[typer.FileBinaryRead, typer.Argument(help="A script of SQLite queries; - for standard input.")],
    sqlite: Annotated[Path, typer.Option(help="The SQLite database that they are for.")],
    dump: Annotated[Path | None, typer.Option(help="Write the database for PostgreSQL (psql -f) here.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one query, on either engine.")] = 10.0,
) -> None:
    """Convert SQLite queries to PostgreSQL, and prove each on both engines; status 1 if one could not be."""
    from text2sql.conversion.databases import describe, open_source, write_dump
    from text2sql.conversion.dialect import DEFECT
    from text2sql.conversion.examination import convert_script
    from text2sql.conversion.queries import decoded

    for read in (sqlite, Path(queries.name)):
        if dump is not None and dump.exists() and read.exists() and dump.samefile(read):
            raise UserError(f"--dump {dump} is what is read", "name another file")
    schema, outcomes = convert_script(sqlite, decoded(queries.read()), timeout)
    for note in schema.notes:
        typer.echo(f"-- {note}", err=True)
    for query, outcome in outcomes:
        typer.echo(f"{outcome.postgres};" if outcome.postgres else "-- " + query.replace("\n", "\n-- "))
        typer.echo(f"-- {outcome.status}{': ' if outcome.reason else ''}{outcome.reason}\n")
    if dump is not None:
        with open_source(sqlite) as source:
            write_dump(source, describe(source, sqlite.stem), dump)
    proven = sum(outcome.status.startswith("verified") for _, outcome in outcomes)
    typer.echo(f"{proven} of {len(outcomes)} proven", err=True)
    if defects := sum(outcome.reason.startswith(DEFECT) for _, outcome in outcomes):
        typer.echo(f"{defects} failed by a defect of the conversion: please report them", err=True)
    if any(outcome.status in ("rejected", "invalid_source") for _, outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def params(
    overrides: Annotated[list[str] | None, typer.Argument(help="As for Hydra: model=tiny train.epochs=2.0")] = None,
) -> None:
    """Compose params.yaml from conf/ again; without arguments the default."""
    from text2sql.stage import write_params

    typer.echo(write_params(overrides or []))


@app.command()
def publish(
    repo: Annotated[str, typer.Option(help="Where to: user/name on the HuggingFace hub.")],
    release: Annotated[Path, typer.Option(help="The release's folder.")] = RELEASE,
    space: Annotated[bool, typer.Option(help="Upload the demo, as the Space of that name.")] = False,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List what would be uploaded, and stop.")] = False,
) -> None:
    """Upload adapter, tokenizer and model card to the HuggingFace hub, or (--space) the demo."""
    from text2sql.release import publish as hub

    hub.check_place(repo)
    files = hub.space_files(repo) if space else hub.model_files(release, repo)
    for name, size in hub.listing(files):
        typer.echo(f"{size:>12,}  {name}")
    if dry_run:
        typer.echo(f"dry run: {len(files)} files would go to {repo}")
        return
    address = hub.upload(repo, files, repo_type="space" if space else "model", private=private)
    typer.echo(f"{len(files)} files are at {address}")


@app.command()
def export(
    release: Annotated[Path, typer.Option(help="The release's folder.")] = RELEASE,
    merged: Annotated[bool, typer.Option("--merged", help="One model in safetensors, bfloat16.")] = False,
    gguf: Annotated[str | None, typer.Option(help="One GGUF file: F16, Q8_0 or Q4_K_M.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: models/export/FORM.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Compare on so many; default: all.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Keep an export that answers worse.")] = False,
) -> None:
    """Write the release as one model (safetensors, or GGUF for llama.cpp and Ollama), and compare its answers."""
    from text2sql.model.process import prepare

    prepare()
    from text2sql.release.export import MERGED, write_export
    from text2sql.release.gguf_file import QUANTIZATIONS

    if merged == bool(gguf) or (gguf and gguf not in QUANTIZATIONS):
        raise UserError("which form?", f"give --merged, or --gguf and one of {', '.join(QUANTIZATIONS)}")
    form = gguf or MERGED
    typer.echo(write_export(release, out or MODELS / "export" / form, form, questions, anyway))


@app.command()
def remote(
    bucket: Annotated[str, typer.Argument(help="gs://NAME/FOLDER, or none for no remote at all.")],
    shared: Annotated[bool, typer.Option(help="For all who clone: in .dvc/config, to be committed.")] = False,
    anonymous: Annotated[bool, typer.Option(help="A public bucket, without credentials.")] = False,
) -> None:
    """Point this clone at a bucket, after a look at whether it can be read and written."""
    from text2sql.bucket import configure

    typer.echo(configure(bucket, shared, anonymous))


@app.command()
def push(
    everywhere: Annotated[
        bool, typer.Option("--all", help="Of all branches and tags, not the workspace only.")
    ] = False,
) -> None:
    """Push data and models to the bucket, look at it, and mend what is missing or damaged there."""
    from text2sql.bucket import push_outputs

    typer.echo(push_outputs(everywhere))


@app.command()
def pull(
    rev: Annotated[
        str | None, typer.Option(help="Tag, branch, commit or experiment; default: the newest release.")
    ] = None,
    repo: Annotated[str, typer.Option(help="Path or URL of the git repository.")] = ".",
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("adapter"),
    everything: Annotated[bool, typer.Option("--all", help="All that dvc.lock names, into this clone.")] = False,
) -> None:
    """Get a released adapter, without the pipeline; or (--all) everything of this clone's commit."""
    if everything:
        from text2sql.bucket import pull_outputs

        typer.echo(pull_outputs())
        return
    from text2sql.release.versions import pull as pull_adapter

    revision, folder = pull_adapter(rev, repo, out)
    typer.echo(f"{revision}: adapter in {folder}, as in its manifest")


@app.command()
def releases(repo: Annotated[str, typer.Option(help="Path or URL of the git repository.")] = ".") -> None:
    """List the released adapters, by git tag, with their score."""
    from text2sql.release.versions import list_releases

    if not (there := list_releases(repo)):
        typer.echo(f"no release in {repo}: a tag such as text2sql-adapter@v1.0.0 makes one (docs/STORAGE.md)")
    for tag, accuracy, n in there:
        typer.echo(f"{tag:<32}{'no score' if accuracy is None else f'{accuracy:.1%} of {n}'}")


@app.command()
def verify(local: Annotated[bool, typer.Option(help="Leave the remote out.")] = False) -> None:
    """Hold every file of dvc.lock against its hash in workspace, cache and remote, the release against its manifest."""
    from text2sql.bucket import verify_clone
    from text2sql.release.versions import MANIFEST, check_release

    lines, findings = verify_clone(remote_too=not local)
    manifest = RELEASE / MANIFEST
    if manifest.exists():
        findings += check_release()
        lines.append(f"release    {RELEASE} against its manifest, the adapter and what that was made of")
    else:
        lines.append(f"release    not checked: {manifest} is not here")
    typer.echo("\n".join(lines))
    for finding in findings:
        typer.echo(f"{finding.place}: {finding.state} {finding.path}\n  -> {finding.remedy}")
    if findings:
        raise typer.Exit(1)
    typer.echo("all that was checked is as it should be")


def main() -> None:
    """Run the command."""
    # By default SIGTERM ends the process where it is, and leaves what it has half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with exits("text2sql"):
        app()


if __name__ == "__main__":
    main()
