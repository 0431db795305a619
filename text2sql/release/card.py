"""The model card of a release, generated from its run: nothing in it is typed by hand.

`render_card` fills `card.md.j2` with the figures in metrics/*.json and the parameters of the run, and puts the
HuggingFace hub's YAML header on top (licence, base model, data set, results as `model-index`). Facts about data sets
and base models that no run measures (licence, citation) are in card.yaml. A figure that the run did not measure
is left out of the card; a card without a score is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import read_beside, read_json
from text2sql.schema import from_dict
from text2sql.workspace import METRICS

TEMPLATE = Path(__file__).with_name("card.md.j2")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where data or weights come from. `licence` is the hub's identifier; `hub` the repository on the hub, if any."""

    title: str
    licence: str | None
    hub: str | None = None
    citations: Sequence[str] = ()


#: `data` by `data.name`, `base` by `model.name`; a model of another name brings `licence` and `repo` in its parameters
_KNOWN = read_beside(__file__)


def data_provenance(params: Mapping[str, Any]) -> Provenance:
    """The data set of `params`; `data.licence`, where it is set, wins over what is known."""
    return _provenance(params["data"], _KNOWN["data"])


def base_provenance(params: Mapping[str, Any]) -> Provenance:
    """The base model of `params`; `licence` and `repo`, where they are set, win over what is known."""
    return _provenance(params["model"], _KNOWN["base"])


def _provenance(section: Mapping[str, Any], known: Mapping[str, dict[str, Any]]) -> Provenance:
    name = section["name"]
    said = {"licence": section.get("licence"), "hub": section.get("repo")}
    facts = known.get(name, {"title": name, "licence": None})
    return Provenance(**facts | {key: value for key, value in said.items() if value})


#: the schema and the question of the card's usage snippet
EXAMPLE = from_dict(_KNOWN["example"])
QUESTION = "What are the names of the customers with an order over 100?"


def example_prompt(params: Mapping[str, Any]) -> str:
    """`QUESTION` on `EXAMPLE`, framed as the run's training prompts were."""
    from text2sql.config import typed
    from text2sql.model import prompt

    options = typed(prompt.PromptOptions, dict(params["prompt"]), "prompt")
    return prompt.render(EXAMPLE, QUESTION, options, params["model"]["template"])


def read_metrics(folder: Path = METRICS) -> dict[str, Any]:
    """Every `metrics/<stage>.json` by the stage's name."""
    return {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}


def render_card(metrics: Mapping[str, Any], params: Mapping[str, Any], *, repository: str = "user/name") -> str:
    """The card as Markdown with the hub's YAML header.

    Args:
        metrics: the content of metrics/<stage>.json by stage; `score` and `split` are needed. Hardware, time and memory
            appear where `train` is given: they differ from run to run, so a release (whose bytes dvc.lock pins) does
            without them and `text2sql publish` adds them.
        params: the run's params.yaml.
        repository: where the adapter will be (a hub name or a folder); the usage snippet loads it from there.

    Raises:
        UserError: the run has not been scored.
    """
    from jinja2 import Environment, StrictUndefined

    for stage in ("split", "score"):
        if stage not in metrics:
            raise UserError(f"no card without metrics/{stage}.json", f"run `dvc repro {stage}`")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update({f.__name__: f for f in (percent, duration, gigabytes, figure, count_of)})
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        params=params,
        metrics=metrics,
        data=data_provenance(params),
        base=base_provenance(params),
        repository=repository,
        title=title(params),
        question=QUESTION,
        prompt=example_prompt(params),
        citations=("qlora", "lora", *base_provenance(params).citations, *data_provenance(params).citations),
    )
    return f"---\n{header(metrics, params)}---\n\n{body}"


def title(params: Mapping[str, Any]) -> str:
    """`smollm2-135m-mini-text2sql`: base model, data set, task."""
    return f"{params['model']['name']}-{params['data']['name']}-text2sql"


def header(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """The YAML header, with the scores as the hub's `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    data, base, score = data_provenance(params), base_provenance(params), metrics["score"]
    names = {"execution_accuracy": "Execution accuracy (test suite rules)", "valid_sql": "Valid SQL"}
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Text-to-SQL (PostgreSQL)",
            dataset_type=data.hub or params["data"]["name"],
            dataset_name=f"{data.title}, test split",
            metric_type=key,
            metric_name=name,
            metric_value=round(score[key], 4),
        )
        for key, name in names.items()
    ]
    return (
        ModelCardData(
            language="en",
            license=data.licence,
            library_name="peft",
            pipeline_tag="text-generation",
            base_model=base.hub,
            datasets=[data.hub] if data.hub else None,
            tags=["text-to-sql", "postgresql", "lora", "qlora"],
            metrics=list(names),
            model_name=title(params),
            eval_results=results,
        ).to_yaml()
        + "\n"
    )


def percent(share: float) -> str:
    """0.5731 as `57.3 %`."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as `47 s`, `12.5 min` or `3.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(size: float) -> str:
    """Bytes as `1.3 GB` (10^9)."""
    return f"{size / 1e9:.1f} GB"


def figure(value: float) -> str:
    """A count or figure with thousands separated, small ones with three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def count_of(n: int, noun: str) -> str:
    """`1 database`, `2 databases`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
