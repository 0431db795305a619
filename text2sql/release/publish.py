"""Upload a release to the HuggingFace hub, and the demo as a Space.

`model_files` and `space_files` decide what goes up and refuse what must not: a release without card, licence, score or
tokenizer, weights that are not safetensors, a base model that nobody else could load. `upload` sends it.
The token is found where HuggingFace's tools keep it (HF_TOKEN or `hf auth login`) and is never printed. Uploading is
huggingface_hub's own: content that the hub has already is skipped, so an interrupted upload is resumed by repeating it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.errors import UserError
from text2sql.files import read_json
from text2sql.release.card import read_metrics, render_card
from text2sql.release.manifest import ROOT
from text2sql.release.versions import CARD, check_release
from text2sql.workspace import METRICS

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCardData

SPACE = ROOT / "app" / "space"
#: executable when loaded, or nobody's business: never uploaded, whatever else the folder holds
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
UPLOADED = {".safetensors", ".json", ".md", ".txt", ".jinja", ".model", ".csv", ".png"}
Files = dict[str, bytes | Path]


def check_place(repo: str) -> None:
    """Refuse what is no `user/name`, before anything is listed or asked of the hub.

    Raises:
        UserError: with the hub's rule that it breaks.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if "/" not in repo:
        raise UserError(f"{repo} is no place on the hub", "give it as user/name")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{repo} is no name on the hub: {error}", "give it as user/name") from None


def model_files(release: Path, repo: str, metrics: Path = METRICS) -> Files:
    """What is uploaded of a release folder, by its name on the hub.

    `adapter_config.json` names the base model by its place on this machine; on the hub it names the card's base model.
    The card is generated once more, with `repo` in its snippet and with the run's hardware and time.

    Raises:
        UserError: something that must be there is not, or something that must not be there is.
    """
    if not release.is_dir():
        raise UserError(f"{release} is no folder", "make a release with `dvc repro release`")
    paths = {p.relative_to(release).as_posix(): p for p in sorted(release.rglob("*")) if p.is_file()}
    if pickles := [name for name, path in paths.items() if path.suffix in PICKLES]:
        raise UserError(f"{pickles[0]} is not safetensors", "only safetensors weights are published: save it as such")
    for needed in ("README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        if needed not in paths:
            raise UserError(f"{release} has no {needed}", "make it again with `dvc repro release`")
    header = check_card(paths["README.md"])
    files: Files = {name: path for name, path in paths.items() if path.suffix in UPLOADED}
    config = read_json(paths["adapter_config.json"]) | {"base_model_name_or_path": header.base_model}
    files |= {"adapter_config.json": (json.dumps(config, indent=2) + "\n").encode()}
    if "manifest.json" in paths:
        text = full_card(release, read_json(paths["manifest.json"]), repo, metrics)
        files |= {"README.md": text.encode()} if text else {}
    return files


def full_card(release: Path, manifest: dict[str, Any], repo: str, metrics: Path) -> str | None:
    """The card with all of the run's metrics, or None where the released one stays: edited, or no metrics of its run.

    Raises:
        UserError: a released file is not the one that was scored.
    """
    wrong = [finding.path for finding in check_release(release, adapter=None) if finding.state != "unexpected"]
    if others := [path for path in wrong if path != f"{release}/{CARD}"]:
        raise UserError(f"{others[0]} is not the file that was scored", "make it again: `dvc repro release`")
    if wrong:
        return None
    measured = read_metrics(metrics)
    score = measured.get("score", {})
    if "split" not in measured or any(score.get(key) != value for key, value in manifest["score"].items()):
        return None
    return render_card(measured, manifest["params"], repository=repo)


def check_card(path: Path) -> ModelCardData:
    """The header of a card that may be published.

    Raises:
        UserError: the header is missing or unreadable, or states no licence, no base model or no score.
    """
    from huggingface_hub import ModelCard

    again = "make it again with `dvc repro release`"
    try:
        data = ModelCard(path.read_text(encoding="utf-8")).data
    except ValueError as error:
        raise UserError(f"{path} has no readable header: {error}", again) from None
    if not data.license:
        raise UserError(f"{path} states no licence", "set data.licence to that of your data, and `dvc repro release`")
    if not data.base_model:
        raise UserError(f"{path} names no base model on the hub", "an adapter is of no use without its base model")
    if not any(r.metric_type == "execution_accuracy" for r in data.eval_results or ()):
        raise UserError(f"{path} states no execution accuracy", f"score the adapter: {again}")
    return data


def space_files(model: str) -> Files:
    """The demo as a Space: app/space with the code that it needs, started on `model`."""
    files: Files = {p.name: p for p in sorted(SPACE.iterdir()) if p.is_file()}
    for package in ("app", "text2sql"):
        for path in sorted((ROOT / package).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and path.suffix in {".py", ".yaml", ".j2", ".sql", ".css"} and SPACE not in path.parents:
                files[name] = path
    header = (SPACE / "README.md").read_text(encoding="utf-8")
    return files | {"README.md": header.replace("user/name", model).encode()}


def listing(files: Files) -> list[tuple[str, int]]:
    """Names and sizes in bytes, sorted by name."""
    sizes = {n: len(f) if isinstance(f, bytes) else f.stat().st_size for n, f in files.items()}
    return sorted(sizes.items())


def upload(
    repo: str, files: Files, *, repo_type: str = "model", private: bool = False, api: HfApi | None = None
) -> str:
    """Upload `files` to the hub's `repo` ("user/name"), making it; returns its address.

    Args:
        repo_type: "model" or "space".
        private: makes a new repository private; an existing one stays what it is.
        api: the client, for another endpoint than HF_ENDPOINT or the hub.

    Raises:
        UserError: no token, a refused one, an unreachable hub.
    """
    import httpx2  # what huggingface_hub speaks HTTP with
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    check_place(repo)
    api = api or HfApi(library_name="sql-codegen-slm")
    sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
    try:
        api.whoami()
        created = api.create_repo(repo, repo_type=repo_type, private=private or None, exist_ok=True, **sdk)
        added = [CommitOperationAdd(name, source) for name, source in files.items()]
        api.create_commit(repo, added, commit_message="Publish with sql-codegen-slm", repo_type=repo_type)
        return str(created)
    except LocalTokenNotFoundError:
        raise UserError("no token for the HuggingFace hub", "run `hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise refused(error, repo) from None
    except (httpx2.TransportError, RuntimeError) as error:
        again = "what was uploaded is kept: repeat the command to go on"
        raise UserError(f"the upload to {api.endpoint} broke off: {cause(error)}", again) from None


def refused(error: Any, repo: str) -> UserError:
    """What the hub's refusal means to the user; its text holds addresses, never the token."""
    status = error.response.status_code
    if status == 401:
        return UserError("the hub does not accept the token", "run `hf auth login` again, or mend HF_TOKEN")
    if status == 403:
        return UserError(f"the token may not write to {repo}", "use a token with write access to that repository")
    return UserError(f"the hub answered {status}: {error.server_message or error}", "repeat the command to go on")


def cause(error: BaseException) -> str:
    """The innermost reason of a chained exception, or its class."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
