"""Each stage's params in dvc.yaml are those that it takes, so that no change runs too much or too little."""

import ast
import importlib
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from text2sql.config import read_params
from text2sql.release.manifest import code_paths

PIPELINE = OmegaConf.to_container(OmegaConf.load("dvc.yaml"))["stages"]


class Watched(dict):
    """A dict that notes which of its dotted keys are read."""

    def __init__(self, values, path, seen):
        super().__init__(values)
        self.path, self.seen = path, seen

    def __getitem__(self, key):
        value, path = super().__getitem__(key), f"{self.path}{key}"
        if isinstance(value, dict):
            return Watched(value, f"{path}.", self.seen)
        self.seen.add(path)
        return value

    def get(self, key, default=None):
        return self[key] if key in self else default  # noqa: SIM401 (by __getitem__, which notes it)

    def whole(self):
        self.seen.add(self.path.rstrip("."))

    def __iter__(self):
        self.whole()
        return super().__iter__()

    def items(self):
        self.whole()
        return super().items()


def params_read(stage):
    """The params that a stage takes, as dvc.yaml names them: the shortest dotted prefixes."""
    seen = set()
    taken = importlib.import_module(f"stages.{stage}").read_options(Watched(read_params(), "", seen))
    for part in taken.values() if isinstance(taken, dict) else taken if isinstance(taken, tuple) else (taken,):
        if isinstance(part, Watched):
            part.whole()
    return {path for path in seen if not any(path.startswith(f"{other}.") for other in seen)}


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_clone_without_data_runs_every_stage(stage):
    """DVC skips a stage whose outputs are all in git: a machine would train unchecked, or show what others measured."""
    entries = [out if isinstance(out, dict) else {out: {}} for out in PIPELINE[stage]["outs"]]
    kept = {path: options.get("cache", True) for entry in entries for path, options in entry.items()}
    assert any(kept.values())
    by_dvc = [path for path, cached in kept.items() if cached]
    assert not subprocess.check_output(["git", "ls-files", *by_dvc], text=True)  # DVC refuses what git has, too


def downstream(changed):
    """The stages that run again when the parameter `changed` does."""
    runs = {name for name, stage in PIPELINE.items() if any(covers(p, changed) for p in stage.get("params", []))}
    while True:
        made = [path for name in runs for path in outputs(PIPELINE[name])]
        more = {
            name
            for name, stage in PIPELINE.items()
            if any(dep == path or f"{dep}/".startswith(f"{path}/") for dep in stage["deps"] for path in made)
        }
        if more <= runs:
            return runs
        runs |= more


def covers(declared, changed):
    return changed == declared or changed.startswith(f"{declared}.")


def outputs(stage):
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@pytest.mark.parametrize("stage", PIPELINE)
def test_declared_params_are_those_that_the_stage_reads(stage):
    assert params_read(stage) == set(PIPELINE[stage].get("params", []))


@pytest.mark.parametrize("stage", PIPELINE)
def test_params_are_read_in_read_options_only(stage):
    tree = ast.parse(Path(f"stages/{stage}.py").read_text())
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "read_params"]
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node) == "read_options(read_params())"
    ]
    assert len(uses) == len(calls) <= 1


@pytest.mark.parametrize(
    ("changed", "runs", "spared"),
    [
        ("score.timeout_seconds", {"score", "release"}, {"train", "predict", "convert"}),
        ("predict.max_new_tokens", {"predict", "score", "release"}, {"train", "preflight", "prompts"}),
        (
            "train.learning_rate",
            {"preflight", "train", "predict", "score"},
            {"source", "convert", "split", "base_model"},
        ),
        ("model.name", {"base_model", "train"}, {"source", "databases", "convert", "split"}),
        ("lora.r", {"train"}, {"source", "databases", "convert", "split", "base_model", "prompts"}),
        ("prompt.samples", {"prompts", "train"}, {"source", "databases", "convert", "split", "base_model"}),
        ("data.split.train_limit", {"split", "prompts", "train"}, {"source", "databases", "convert", "base_model"}),
        ("data.convert.timeout_seconds", {"convert"}, {"source", "databases", "base_model"}),
        ("tracking.uri", set(), set(PIPELINE)),
    ],
)
def test_a_change_runs_what_it_must_and_no_more(changed, runs, spared):
    again = downstream(changed)
    assert runs <= again
    assert not spared & again


def test_every_parameter_is_somebodys():
    declared = {p for name, stage in PIPELINE.items() if name != "release" for p in stage.get("params", [])}
    values = {
        f"{section}.{key}" for section, value in read_params().items() if isinstance(value, dict) for key in value
    }
    idle = {v for v in values if not any(covers(d, v) or covers(v, d) for d in declared)}
    # The data set's name is a label, for the card and for MLflow.
    assert {v for v in idle if not v.startswith("tracking.")} == {"data.name"}


def test_the_release_depends_on_the_code_of_every_stage():
    """Its manifest names that code: a change of any stage's code must make the release again."""
    named = tuple(f"{path}/" for path in code_paths())
    code = {dep for stage in PIPELINE.values() for dep in stage["deps"] if dep.startswith(("stages/", "text2sql/"))}
    assert [dep for dep in sorted(code) if not f"{dep}/".startswith(named)] == []
